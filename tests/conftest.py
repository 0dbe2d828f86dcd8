"""What every test shares: one thread, one seed, the same drawn examples; a command caller."""

import re
import sys
from collections.abc import Callable
from types import ModuleType

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


_FORKS = re.compile(r"faults\.(live|start)|live_ranks|from ranks|in_a_fork|os\.fork|[\"']fork[\"']")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that fork first: a child hangs where its parent's threads held a lock.

    Threads come with the first compiled network, among others; so any choice of files will do.
    """
    forks = {path: bool(_FORKS.search(path.read_text())) for path in {i.path for i in items}}
    items.sort(key=lambda item: not forks[item.path])  # stable: otherwise as they were


def pytest_runtest_setup(item: pytest.Item) -> None:
    # A hook, not a fixture: hypothesis refuses fixtures that do not run for every example.
    torch.manual_seed(0)


@pytest.fixture
def call_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a stage's command line in this process: exit code, standard output, standard error."""

    def call(command: ModuleType, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(command.__file__), *map(str, arguments)])
        try:
            code = command.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call
