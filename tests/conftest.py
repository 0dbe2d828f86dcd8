"""Settings that every test shares: one thread, one seed, the same drawn examples in every run."""

import hypothesis
import pytest
import torch

torch.set_num_threads(1)

hypothesis.settings.register_profile(
    "repository",
    deadline=None,  # the first call of a torch operation is slow, and a busy machine is no fault
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("repository")


def pytest_runtest_setup(item: pytest.Item) -> None:
    # A hook, not a fixture: hypothesis refuses fixtures that do not run for every example.
    torch.manual_seed(0)
