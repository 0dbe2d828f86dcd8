"""What --deterministic switches on, and off again."""

import os

import pytest
import torch

from common.errors import InputError
from common.processes.determinism import deterministic


def settings() -> tuple[object, ...]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        os.environ.get("TORCHINDUCTOR_DETERMINISTIC"),
    )


def test_holds_for_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = settings()
    with deterministic(True):
        assert settings() == (True, False, True, False, ":4096:8", "1")
    assert settings() == before
    with deterministic(False):
        assert settings() == before


def test_a_workspace_that_was_chosen_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with deterministic(True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_an_operation_that_is_not_deterministic_is_named() -> None:
    before = settings()
    message = r"^--deterministic: put_ does not have a .* implementation: leave the flag out$"
    with pytest.raises(InputError, match=message), deterministic(True):
        torch.zeros(3).put_(torch.tensor([1]), torch.tensor([2.0]), accumulate=False)
    assert settings() == before


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="^out of memory$"), deterministic(True):
        raise RuntimeError("out of memory")
