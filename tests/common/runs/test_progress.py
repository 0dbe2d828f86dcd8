"""The bar, and the lines for people."""

import io
import re
import sys

import pytest

from common.runs.epoch_lines import Column
from common.runs.progress import Progress, bar_line

COLUMNS = (
    Column("train_loss", "loss", group="train"),
    Column("train_accuracy", "accuracy", "percent", group="train"),
    Column("val_accuracy", "accuracy", "percent", group="val"),
    Column("lr", "lr", "rate"),
)
RECORD = {"epoch": 1, "step": 40, "train_loss": 1.23456, "train_accuracy": 0.5, "lr": 0.1}


def test_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(
        100, 40, epochs=5, steps_per_epoch=20, columns=COLUMNS, show=True, seconds=0
    )
    assert progress.due()
    progress.update(70, {"loss": 0.123456, "accuracy": 0.25, "gradient_norm": 1.0}, 1000.0)
    progress.say("a line")
    progress.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "epoch 4/5 70%  loss 0.123  accuracy 25.00%  1000 images/s  0:00 left",
        "a line",
    ]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that a test sets."""
    now = [1000.0]
    monkeypatch.setattr("common.runs.progress.time.monotonic", lambda: now[0])
    return now


def test_time_left_counts_the_steps_of_this_process(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    progress = Progress(100, 40, show=True)
    clock[0] = 1060.0  # 10 steps in a minute, 50 to go
    assert progress.due()
    progress.update(50, {}, 1.0)
    assert not progress.due()
    clock[0] = 1066.0  # 11 steps in 66 s
    progress.update(51, {"loss": 1.0}, 99.96)
    clock[0] = 1080.0
    progress.update(100, {}, 99.94)
    assert capsys.readouterr().out.splitlines() == [
        "epoch 50/1 50%  1.0 images/s  5:00 left",
        "epoch 51/1 51%  100.0 images/s  4:54 left",
        "epoch 100/1 100%  99.9 images/s  0:00 left",
    ]


def test_time_left_from_the_first_step_on(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    progress = Progress(10, 4, epochs=2, steps_per_epoch=5, show=True)
    clock[0] = 1007.0
    for done in (4, 5, 6):  # none is done: as if one were
        progress.update(done, {}, 100.0)
    progress = Progress(0, 0, show=True)
    progress.update(0, {}, 101.0)
    assert capsys.readouterr().out.splitlines() == [
        "epoch 1/2 40%  100 images/s  0:42 left",
        "epoch 1/2 50%  100 images/s  0:35 left",
        "epoch 2/2 60%  100 images/s  0:14 left",
        "epoch 1/1 0%  101 images/s  0:00 left",
    ]


@pytest.mark.parametrize(
    ("terminal", "seconds", "after"),
    [(False, None, 10.0), (False, 3.0, 3.0), (True, None, 0.5), (True, 3.0, 0.5)],
)
def test_values_are_read_every_so_often(
    monkeypatch: pytest.MonkeyPatch,
    clock: list[float],
    terminal: bool,
    seconds: float | None,
    after: float,
) -> None:
    if terminal:
        on_a_terminal(monkeypatch)
    progress = Progress(10, 0, show=True, **({} if seconds is None else {"seconds": seconds}))
    for start in (1000.0, 2000.0):
        clock[0] = start + after - 0.01
        assert not progress.due()
        clock[0] = start + after
        assert progress.due()
        clock[0] = 2000.0
        progress.update(1, {}, 1.0)


@pytest.mark.parametrize("terminal", [False, True])
def test_other_ranks_are_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    screen = on_a_terminal(monkeypatch) if terminal else io.StringIO()
    progress = Progress(100, 0, show=False, seconds=0)
    assert not progress.due()
    progress.update(1, {"loss": 1.0}, 1.0)
    progress.waiting(1, "evaluating")
    progress.epoch(RECORD, best=True)
    progress.say("epoch 1")
    progress.close()
    assert capsys.readouterr() == ("", "") and screen.getvalue() == ""


class Held(io.TextIOWrapper):
    """A stream that holds back what is not flushed, as a pipe does."""

    def __init__(self, *, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def came(self) -> str:
        """Return what came through since the last call."""
        assert isinstance(self.buffer, io.BytesIO)
        text = self.buffer.getvalue().decode()
        self.buffer.seek(0)
        self.buffer.truncate()
        return text


def test_all_is_shown_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log is read while a training goes on, and a bar ends without a line's end."""
    out, err = Held(), Held(terminal=True)
    for name, stream in (("stdout", out), ("stderr", err)):
        monkeypatch.setattr(sys, name, stream)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    progress = Progress(4, 2, epochs=2, steps_per_epoch=2, show=True)
    bar = f"epoch 1/2 {'━' * 12}{'─' * 12}  50%"
    assert (out.came(), err.came()) == ("", bar)
    progress.say("a line")
    assert (out.came(), err.came()) == ("a line\n", f"\r\033[K{bar}")
    progress.close()
    assert err.came() == "\r\033[K"
    progress.say("a line")
    assert (out.came(), err.came()) == ("a line\n", "")
    err.terminal = False
    progress = Progress(4, 2, epochs=2, steps_per_epoch=2, show=True)
    progress.update(4, {}, 1.0)
    assert out.came().startswith("epoch 2/2 100%")
    progress.close()
    assert (out.came(), err.came()) == ("", "")


@pytest.mark.parametrize(
    ("encoding", "full", "empty"),
    [("utf-8", "━", "─"), ("ascii", "#", "."), (None, "#", "."), ("no-such-code", "#", ".")],
)
def test_a_bar_is_of_what_the_terminal_can_write(
    monkeypatch: pytest.MonkeyPatch, encoding: str | None, full: str, empty: str
) -> None:
    terminal = on_a_terminal(monkeypatch)
    terminal.encoding = encoding  # type: ignore[assignment]
    Progress(4, 1, show=True)
    *_, bar, percent = terminal.getvalue().split()
    assert (set(bar), percent) == ({full, empty}, "25%")


class Terminal(io.StringIO):
    """A terminal of 80 columns."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return screen


def test_a_bar_on_a_terminal_is_wide_and_stays_below_the_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = on_a_terminal(monkeypatch)
    progress = Progress(40, 0, epochs=2, steps_per_epoch=20, columns=COLUMNS, show=True)
    progress.update(10, {"loss": 0.5, "accuracy": 0.25}, 431.0)
    progress.epoch(RECORD, best=True)
    progress.waiting(20, "evaluating")
    progress.close()
    bars = [part.split("\033[K")[-1] for part in terminal.getvalue().split("\r")]
    bar = next(part for part in bars if part.startswith("epoch 1/2 ") and "0.500" in part)
    bar = bar.partition("\033")[0]
    assert len(bar) == 79 and bar.count("━") + bar.count("─") >= 10
    assert bar.count("━") == (bar.count("━") + bar.count("─")) // 4
    assert "loss 0.500  431 images/s  0:00 left" in bar
    # It is wiped before a line, drawn again below it, and gone at the end.
    assert f"best\033[0m\n{bar}" in terminal.getvalue()
    assert re.search(r"epoch 1/2 ━+─+  50%  evaluating", terminal.getvalue())
    assert terminal.getvalue().endswith("\r\033[K")


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour_where_it_is_not_wanted(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    terminal = on_a_terminal(monkeypatch)
    monkeypatch.setenv(name, value)
    progress = Progress(40, 0, epochs=2, steps_per_epoch=20, columns=COLUMNS, show=True)
    progress.epoch(RECORD, best=True)
    progress.close()
    assert "\033" not in terminal.getvalue() and " best\n" in terminal.getvalue()
    bar = terminal.getvalue().partition("\r")[0]
    assert len(bar) == 79
    assert terminal.getvalue().startswith(f"{bar}\r{' ' * 79}\r")  # wiped by blanks


@pytest.mark.parametrize("columns", [20, 40, 60, 79, 200])
def test_a_bar_fits_its_line(columns: int) -> None:
    parts = ["loss 1.234", "accuracy 12.34%", "1234 images/s", "1:02:03 left"]
    line = bar_line("epoch 12/300", 0.5, parts, columns, ascii_only=True)
    assert len(line) <= columns
    if columns >= 40:
        assert len(line) == columns and line.count("#") + line.count(".") >= 10
        assert "50%" in line
    if columns == 60:  # what matters least goes first
        assert "left" in line and "loss" not in line


@pytest.mark.parametrize(
    ("columns", "done", "line"),
    [
        # "epoch 1/2 ", the bar, " 50%  loss 1.0  0:30 left": 10 and 25 characters
        (46, 0.5, "epoch 1/2 #####.....  50%  loss 1.0  0:30 left"),
        (45, 0.49, "epoch 1/2 #########..........  49%  0:30 left"),
        (36, 1.0, "epoch 1/2 ########## 100%  0:30 left"),
        (35, 1.0, "epoch 1/2 #################### 100%"),
        (25, 1.5, "epoch 1/2 ########## 150%"),
        (17, 0.5, "epoch 1/2 #.  50%"),
        (16, 0.5, "epoch 1/2 .  50%"),
        (14, 0.5, "epoch 1/2   50%"[:14]),
        (5, 0.5, "epoch"),
    ],
)
def test_parts_go_where_the_bar_would_be_shorter_than_ten(
    columns: int, done: float, line: str
) -> None:
    parts = ["loss 1.0", "0:30 left"]
    assert bar_line("epoch 1/2", done, parts, columns, ascii_only=True) == line
    assert parts == ["loss 1.0", "0:30 left"]
    drawn = line.replace("#", "━").replace(".", "─").replace("1─0", "1.0")
    assert bar_line("epoch 1/2", done, parts, columns) == drawn


def test_an_epoch_has_a_bar_of_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    for done in (0, 1, 20, 21, 40):
        Progress(40, done, epochs=2, steps_per_epoch=20, show=True)
    told = [part.split()[0] for part in terminal.getvalue().split("epoch ")[1:]]
    assert told == ["1/2", "1/2", "1/2", "2/2", "2/2"]


def test_the_head_comes_again(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(40, 0, epochs=60, steps_per_epoch=1, columns=COLUMNS, show=True)
    for epoch in range(1, 28):
        progress.epoch({**RECORD, "epoch": epoch}, best=False)
    lines = capsys.readouterr().out.splitlines()
    heads = [number for number, line in enumerate(lines) if line.startswith("epoch")]
    assert heads == [1, 29]  # each in the middle of three lines: above epochs 1 and 26
    assert [line.split()[0] for line in lines if "/60" in line] == [f"{n}/60" for n in range(1, 28)]


def test_what_no_epoch_of_a_training_has_gets_no_column(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """But for evaluations, which most epochs of some trainings go without."""
    columns = (*COLUMNS, Column("gpu_memory_gib", "GPU", "memory"))
    progress = Progress(40, 0, epochs=2, columns=columns, show=True)
    progress.epoch(RECORD, best=False)
    progress.epoch({**RECORD, "epoch": 2, "val_accuracy": 0.5}, best=True)
    assert capsys.readouterr().out.splitlines() == [
        "       ---- train ----  - val --",
        "epoch   loss  accuracy  accuracy       lr",
        "                     %         %",
        "  1/2  1.235     50.00         -      0.1",
        "  2/2  1.235     50.00     50.00      0.1 best",
    ]
