"""Wrong arguments are one line and an exit code."""

import errno
import io
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import torch
from recipes import Training
from tyro.conf import Positional

from common.command import cli
from common.command.flags import RunFlags
from common.errors import InputError
from common.processes.signals import Terminated
from common.recipe import Optimization
from common.training.non_finite import NonFiniteError


@dataclass(frozen=True, kw_only=True)
class Flags(RunFlags[Training]):
    recipe: Training = Training(Optimization(lr=0.1, batch_size=1, epochs=1))  # noqa: RUF009
    layout: Literal["timm", "mmdet"] = "timm"
    """Who will read it."""


GIVEN = ["--data", "d", "--out", "o"]


def parse(*argv: str) -> Flags:
    return cli.parse(Flags, argv, "prog train", "Trains.")


def test_flags_become_fields() -> None:
    flags = parse(*GIVEN, "--seed", "3", "--layout", "mmdet", "--dry-run")
    assert flags == Flags(data=Path("d"), out=Path("o"), seed=3, layout="mmdet", dry_run=True)


def test_defaults_come_from_a_value() -> None:
    default = Flags(data=Path("d"), out=Path("o"), seed=9)
    assert cli.parse(Flags, ["--out", "p"], "p", "", default=default) == Flags(
        data=Path("d"), out=Path("p"), seed=9
    )


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ([*GIVEN, "--sede", "3"], ["--sede"]),
        (["--data", "d"], ["missing --out PATH;"]),
        (["--data", "d", "--sede", "3"], ["unrecognized --sede 3; missing --out PATH;"]),
        (["o"], ["unrecognized o; missing --data PATH, --out PATH;"]),
        ([*GIVEN, "--seed", "x"], ["--seed", "'x'"]),
        ([*GIVEN, "--layout", "caffe"], ["--layout", "'caffe'", "timm", "mmdet"]),
        ([*GIVEN, "--seed", "-1"], ["seed must be at least 0 and at most 4294967295, not -1"]),
        ([*GIVEN, "--evaluate-every", "0"], ["evaluate_every must be at least 1, not 0"]),
        ([*GIVEN, "--overfit-batches", "0"], ["overfit_batches must be at least 1, not 0"]),
        ([*GIVEN, "--seed"], ["--seed lacks its value;"]),
        ([*GIVEN, "--seed", "1.5"], ["--seed takes a whole number, not '1.5';"]),
        ([*GIVEN, "--workers", "x"], ["--workers takes a whole number or None, not ['x'];"]),
        ([*GIVEN, "--timeout-minutes", "x"], ["--timeout-minutes takes a number, not 'x';"]),
        (["--data", "", "--out", "o"], ["--data is empty: give a path, or leave it out;"]),
        (["--data=d", "--out="], ["--out is empty: give a path, or leave it out;"]),
        ([*GIVEN, "--init="], ["--init is empty: give a path, or leave it out;"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_errors_are_one_line(
    argv: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError) as caught:
        parse(*argv)
    message = str(caught.value)
    assert "\n" not in message
    assert not set(message) & set("╭╮╰╯│─")
    assert "prog train --help shows all flags" in message or "must be" in message
    assert all(part in message for part in parts), message
    assert capsys.readouterr() == ("", "")


@dataclass(frozen=True)
class Named:
    file: Positional[Path]


@dataclass(frozen=True)
class Several:
    images: tuple[Path, ...]


@pytest.mark.parametrize("second", [["--images", "b"], ["--images=b"]])
def test_a_second_list_does_not_replace_the_first(second: list[str]) -> None:
    assert cli.parse(Several, ["--images", "a", "b"], "p", "").images == (Path("a"), Path("b"))
    with pytest.raises(InputError, match="^--images is there twice: give all paths after one;"):
        cli.parse(Several, ["--images", "a", *second], "p", "")


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(InputError, match="^missing PATH; prog inspect --help"):
        cli.parse(Named, [], "prog inspect", "Inspects.")


def test_help_shows_defaults_and_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert not caught.value.code
    out, err = capsys.readouterr()
    text = " ".join(out.replace("│", " ").split())
    assert "Trains." in text
    assert "--layout {timm,mmdet}" in text
    assert "Who will read it. (default: timm)" in text
    assert "--out PATH" in text
    assert "(required)" in text
    assert err == ""


@dataclass(frozen=True)
class Wordy:
    words: int = 3
    """One that is so long that its source is broken, at a place that is
    no business of the help's reader."""


def test_help_breaks_lines_where_the_terminal_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        cli.parse(Wordy, ["--help"], "prog", "")
    out = capsys.readouterr().out
    assert "its source is broken, at a place that is no business of the help's reader." in out


RECIPES = {"cifar10-resnet20": 0, "cifar10-resnet20-fd": 0, "imagenet-resnet50": 0}


def test_the_recipe_comes_first() -> None:
    assert cli.recipe_name(["imagenet-resnet50", "--out", "o"], RECIPES, "prog") == (
        "imagenet-resnet50",
        ["--out", "o"],
        "prog train imagenet-resnet50",
    )
    for argv in ([], ["--out", "o"]):
        with pytest.raises(InputError, match="train needs a recipe first: `prog list` shows all"):
            cli.recipe_name(argv, RECIPES, "prog")


def test_unknown_names_list_the_nearest() -> None:
    message = r"^unknown recipe 'cifar-resnet20'; nearest: cifar10-resnet20, cifar10-resnet20-fd"
    with pytest.raises(InputError, match=message):
        cli.recipe_name(["cifar-resnet20"], RECIPES, "prog")
    with pytest.raises(InputError, match=r"nearest: .*imagenet-resnet50 \(`prog list` shows all"):
        cli.recipe_name(["q"], RECIPES, "prog")


def test_help_of_train_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.recipe_name(["--help"], RECIPES, "prog")
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "prog list" in out and "shows the 3 recipes" in out
    assert "example: prog train cifar10-resnet20 --data" in out
    assert len(out.splitlines()) < 10


def listed() -> None:
    def short() -> str:
        """Baseline; 91%."""
        return "CIFAR-10, ResNet: 300 epochs"

    def long() -> str:
        """A sentence that is too long to stand beside the name of its recipe, all in one line."""
        return "ImageNet: 90 epochs"

    recipes = {"cifar-a": short, "cifar-b": short, "imagenet": long}
    cli.print_recipes(recipes, [], "prog", str)


def test_a_list_for_programs_has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    listed()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "cifar-a  Baseline; 91%. [300 epochs]",
        "cifar-b  Baseline; 91%. [300 epochs]",
    ]
    assert [line.split()[0] for line in lines] == ["cifar-a", "cifar-b", "imagenet"]


def test_a_list_on_a_terminal_is_grouped_within_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    listed()
    assert capsys.readouterr().out.splitlines() == [
        *(
            "",
            "CIFAR-10, ResNet: 300 epochs",
            "  cifar-a  Baseline; 91%.",
            "  cifar-b  Baseline; 91%.",
        ),
        *("", "ImageNet: 90 epochs", "  imagenet"),
        "    A sentence that is too long to stand beside the name of its recipe, all in",
        "    one line.",
    ]


def raising(error: BaseException) -> Callable[[list[str]], None]:
    def command(argv: list[str]) -> None:
        raise error

    return command


def run(command: Callable[[list[str]], None], *argv: str) -> int:
    return cli.dispatch("prog", {"train": command}, "OVERVIEW", argv or ("train",))


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("x.pt is bad: correct it"), 2, "error: x.pt is bad: correct it"),
        (
            FileNotFoundError(2, "No such file", "/a/b"),
            2,
            "error: /a/b: No such file: check the path",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            2,
            "error: No space left on device: free space, or choose another folder",
        ),
        (
            OSError(errno.ESTALE, "Stale file handle", "/a\n\x1b/b"),
            1,
            r"error: /a\n\x1b/b: Stale file handle: the disk or its server does not answer: give "
            "the same command again once it does",
        ),
        (
            OSError(errno.EMFILE, "Too many open files"),
            1,
            "error: Too many open files: raise the limit of open files (ulimit -n 65536), or give "
            "--workers 0",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/a"),
            2,
            "error: /a: Permission denied: change its permissions, or choose another",
        ),
        (InputError("a\x1b[31m\u202e is bad"), 2, r"error: a\x1b[31m\u202e is bad"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            1,
            "ReaderKilled: a process that reads images was killed, perhaps for its memory: give "
            "the same command again, which resumes a training; fewer --workers need less",
        ),
        (
            RuntimeError("DataLoader worker (pid 7) exited unexpectedly with exit code 71. Deta"),
            1,
            "error: Too many open files: raise the limit of open files (ulimit -n 65536), or give "
            "--workers 0",
        ),
        (
            MemoryError(),
            1,
            "OutOfMemory: memory does not suffice: take a smaller batch, smaller images or fewer "
            "--workers",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory."),
            1,
            "OutOfMemory: the GPU's memory does not suffice (CUDA out of memory.): take a smaller "
            "batch, smaller images or fewer --workers",
        ),
        (NonFiniteError("loss at step 3"), 3, "NonFiniteError: loss at step 3"),
        (Terminated("ended after step 7"), 143, "Terminated: ended after step 7"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_codes(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(raising(error)) == code
    assert capsys.readouterr() == ("", line + "\n")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bug"),
        RuntimeError("bug"),
        OSError(errno.ECONNRESET, "reset"),
        KeyError("Caught KeyError in DataLoader worker process 0."),
    ],
)
def test_other_errors_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        run(raising(error))


def test_the_command_gets_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    got: list[list[str]] = []
    assert run(got.append, "train", "a", "--b") == 0
    assert got == [["a", "--b"]]
    assert run(got.append, "--help") == 0
    assert cli.dispatch("prog", {}, "OVERVIEW", []) == 2
    assert capsys.readouterr().out == "OVERVIEW\nOVERVIEW\n"
    assert run(got.append, "tran") == 2
    assert "unknown command 'tran'; nearest: train" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_any_command(number: int, capfd: pytest.CaptureFixture[str]) -> None:
    """As process 1 of a container, too, which no signal ends that it does not handle."""
    events = []

    def command(argv: list[str]) -> None:
        assert signal.getsignal(number) not in (signal.SIG_DFL, signal.SIG_IGN, None)
        try:
            signal.raise_signal(number)
            events.append("went on")
        except Exception:
            events.append("swallowed")

    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as caught:
        run(command)
    assert caught.value.code == 143
    assert events == []
    assert signal.getsignal(number) is before
    assert capfd.readouterr().err == "ended on request: there was nothing to save\n"


def test_a_terminal_that_knows_ascii_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert run(lambda argv: print("\u5b57 \udcff")) == 0
    assert terminal.buffer.getvalue() == rb"\u5b57 \udcff" + b"\n"  # type: ignore[attr-defined]


_OTHER_MACHINE = """
import os, signal, sys
del os.sched_getaffinity, signal.SIGUSR1
sys.modules["fcntl"] = sys.modules["resource"] = None
sys.path.insert(0, "scripts")
import {module} as command
sys.argv[1:] = ["list"]
print(command.main())
"""


@pytest.mark.parametrize("module", ["detect.__main__", "pretrain.__main__", "data"])
def test_windows_is_told_of_in_a_line(module: str) -> None:
    """As far as can be simulated: without the modules and names that Windows lacks."""
    done = subprocess.run(
        [sys.executable, "-c", _OTHER_MACHINE.format(module=module)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr.count("\n")) == ("2\n", 1), done.stderr
    assert "WSL" in done.stderr
