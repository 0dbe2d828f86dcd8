"""`scripts/reproduce.py`: plans, runs what is not done, survives being killed, renders."""

import csv
import gzip
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import reproduce

from common.runs.results import log_path

SCRIPT = Path(__file__).parents[2] / "scripts" / "reproduce.py"
FAST = "--optimization.batch-size 4 --optimization.precision fp32".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10 as class folders: two classes that differ in brightness."""
    root = tmp_path_factory.mktemp("cifar10")
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 3)):
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 100, (32, 32, 3), dtype=np.uint8) + np.uint8(100 * label)
                cv2.imwrite(str(root / split / name / f"{number}.png"), pixels)
    return root


def arguments(name: str, data: Path, out: Path) -> list[str]:
    return [
        *(name, "--data", str(data), "--out", str(out), "--dataset", "cifar10"),
        *("--networks", "resnet20", "--scale", "0.003", "--seeds", "0", "--jobs", "2"),
        *("--device", "cpu", "--results", str(out / "results.csv"), "--", *FAST),
    ]


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.once
def test_killed_half_way_it_repeats_nothing(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), *arguments("figure5", data, tmp_path)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    for line in first.stdout:
        if line.startswith("[1/3]"):
            break
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.stdout.close()
    done = rows_of(tmp_path)  # one, or two that ended together
    assert 1 <= len(done) <= 2
    time.sleep(0.2)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/seed-0/last.pt")}

    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    rows = rows_of(tmp_path)
    assert rows[: len(done)] == done
    assert sorted(row["recipe"] for row in rows) == [
        *("cifar10-resnet20", "cifar10-resnet20-fd", "cifar10-resnet20-mwd")
    ]
    kept = [p for p, written in before.items() if p.stat().st_mtime_ns == written]
    assert len(kept) >= 1
    assert "3 runs, " in second.stdout and "| FocusedDropout | - | 1 |" not in second.stdout
    table = (tmp_path / "figure5.md").read_text()
    assert table in second.stdout
    assert "**Scaled: 1 of 300 epochs (0.3%).**" in table
    assert "| FocusedDropout | 92.08 ± 0.17 / +0.60 | 1 | " in table
    assert "3 of 3 runs; seeds 0; data cifar10 (.png files), 8 training images" in table
    for name in ("figure5.png", "figure5.csv"):
        assert (tmp_path / name).stat().st_size > 0

    kept = {log_path(tmp_path / "results.csv", row) for row in rows}
    assert kept == set((tmp_path / "logs").iterdir())
    metrics = {path.read_bytes() for path in tmp_path.glob("*/seed-0/metrics.jsonl")}
    assert {gzip.decompress(log.read_bytes()) for log in kept} == metrics

    third = subprocess.run(command, capture_output=True, text=True)
    assert third.returncode == 0
    assert third.stdout.startswith("3 runs, 3 of them done\n")
    assert "all of them on one H100: not measured" in third.stdout
    assert rows_of(tmp_path) == rows


@pytest.mark.once
def test_held_out_images_and_a_figure(data: Path, tmp_path: Path) -> None:
    command = arguments("figure2", data, tmp_path)
    command[command.index("0.003")] = "0.01"
    flags = ["--held-out", "4", "--evaluate-every", "2"]
    command[command.index("--") : command.index("--")] = flags
    done = subprocess.run([sys.executable, str(SCRIPT), *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (row,) = rows_of(tmp_path)
    assert (row["train_images"], row["scored_images"], row["held_out"]) == ("4", "4", "4")
    (metrics,) = tmp_path.glob("*/seed-0/metrics.jsonl")
    epochs = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [e["epoch"] for e in epochs if "val_accuracy" in e] == [2, 3]
    (evaluation,) = tmp_path.glob("*/seed-0/evaluation.json")
    scored = json.loads(evaluation.read_text())
    assert scored["images"] == 6
    assert float(row["test_accuracy"]) == scored["val_accuracy"]
    assert "4 training images that were kept back" in done.stdout
    assert (tmp_path / "figure2.png").stat().st_size > 0


def test_a_plan_trains_nothing(
    call_command: Callable[..., tuple[int, str, str]],
    data: Path,
    tmp_path: Path,
) -> None:
    command = arguments("table4", data, tmp_path / "out")
    code, out, _ = call_command(reproduce, command[0], "--plan", *command[1:])
    assert code == 0
    assert out.startswith("7 runs, 0 of them done\n")
    assert "Randomly MWD of resnet20, seed 0, 1 epoch" in out
    assert "None of 7 runs is done." in out
    assert not list((tmp_path / "out").glob("*/seed-0"))


def test_some_arms_are_trained_and_all_shown(
    call_command: Callable[..., tuple[int, str, str]],
    data: Path,
    tmp_path: Path,
) -> None:
    command = arguments("table4", data, tmp_path / "out")
    command[command.index("--") : command.index("--")] = [
        *("--plan", "--arms", "fd", "baseline", "--seeds", "1", "0")
    ]
    code, out, _ = call_command(reproduce, *command)
    assert code == 0
    assert out.startswith("4 runs, 0 of them done\n")
    planned = [line.split(",")[:2] for line in out.splitlines() if line.startswith("  ")]
    assert planned == [
        ["  Baseline of resnet20", " seed 1"],
        ["  FocusedDropout of resnet20", " seed 1"],
        ["  Baseline of resnet20", " seed 0"],
        ["  FocusedDropout of resnet20", " seed 0"],
    ]
    assert "| Randomly MWD | - | 0 | not run | not run |" in out
    assert "None of 14 runs is done." in out


@pytest.mark.parametrize(("name", "runs"), [("figure2", 1), ("figure4", 3), ("figure5", 6)])
def test_figures_of_one_seed_train_the_first_alone(
    call_command: Callable[..., tuple[int, str, str]],
    data: Path,
    tmp_path: Path,
    name: str,
    runs: int,
) -> None:
    command = arguments(name, data, tmp_path / "out")
    command[command.index("--") : command.index("--")] = ["--plan", "--seeds", "4", "0"]
    code, out, _ = call_command(reproduce, *command)
    assert code == 0
    assert out.startswith(f"{runs} runs, 0 of them done\n")
    assert "seed 4" in out and ("seed 0" in out) == (name == "figure5")


def test_every_run_trains_with_its_own_seed(
    call_command: Callable[..., tuple[int, str, str]],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of one seed they would all be the same training, and the error bars none."""
    started: list[list[str]] = []
    monkeypatch.setattr(
        "reproduce.run_side_by_side",
        lambda jobs, *_: started.extend(command for job in jobs for command in job.commands),
    )
    monkeypatch.setattr("reproduce._estimate", lambda *_: 1.0)
    command = arguments("figure5", data, tmp_path)
    command[command.index("--") : command.index("--")] = ["--seeds", "4", "7"]
    assert call_command(reproduce, *command)[0] == 0
    trained = set()
    for train in started:
        out = Path(train[train.index("--out") + 1])
        trained.add((train[train.index("train") + 1], train[train.index("--seed") + 1], out.name))
    arms = ("cifar10-resnet20", "cifar10-resnet20-mwd", "cifar10-resnet20-fd")
    assert trained == {(arm, seed, f"seed-{seed}") for arm in arms for seed in ("4", "7")}


def test_the_cost_on_one_h100_is_of_measured_rates_alone(
    call_command: Callable[..., tuple[int, str, str]],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = arguments("figure5", data, tmp_path / "out")
    command[command.index("--") : command.index("--")] = ["--plan", "--held-out", "2"]
    assert "one H100: not measured" in call_command(reproduce, *command)[1]
    monkeypatch.setitem(reproduce.H100_IMAGES_PER_SECOND, "cifar-resnet20", 0.3)
    # 3 trainings, 8 images less 2, 1 epoch, 0.3 a second.
    out = call_command(reproduce, *command)[1]
    assert "all of them on one H100: about 60 s, without evaluations" in out


def test_help_names_the_arms(call_command: Callable[..., tuple[int, str, str]]) -> None:
    _, out, _ = call_command(reproduce, "figure5", "--help")
    assert "Arms: baseline, mwd, fd." in out
    assert "the table shows all" in " ".join(out.replace("│", "").split())


@pytest.mark.parametrize(
    ("name", "whose"), [("table4", "Table 4 of the paper:"), ("rates", ", which the paper lacks:")]
)
def test_help_says_whether_the_paper_has_it(
    call_command: Callable[..., tuple[int, str, str]], name: str, whose: str
) -> None:
    _, out, _ = call_command(reproduce, name, "--help")
    assert whose in out


def test_what_a_figure_varies_is_not_set_behind_its_back(
    call_command: Callable[..., tuple[int, str, str]],
    data: Path,
    tmp_path: Path,
) -> None:
    command = [*arguments("figure6c", data, tmp_path), "--focus.weight-decay", "0.002"]
    code, _, err = call_command(reproduce, *command)
    assert code == 2
    assert err.startswith("error: the flags behind -- set what Figure 6c varies")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--networks", "resnet9000"), "choose from resnet20, resnet56"),
        (("--scale", "0"), "scale must be above 0"),
        (("--data", "nowhere"), "nowhere does not hold CIFAR-10"),
        (("--seeds", "-1"), "seeds must be at least 0"),
        (("--seeds",), "seeds must be at least one, each once"),
        (("--seeds", "1", "1"), "seeds must be at least one, each once"),
        (("--dataset", "imagenet"), "--dataset imagenet has no recipes"),
        (("--arms", "fd", "opposite"), "--arms opposite: choose from baseline, mwd, fd\n"),
    ],
)
def test_wrong_arguments_are_one_sentence(
    call_command: Callable[..., tuple[int, str, str]],
    data: Path,
    tmp_path: Path,
    change: tuple[str, str],
    message: str,
) -> None:
    command = arguments("figure5", data, tmp_path)
    command[command.index("--") : command.index("--")] = change
    code, _, err = call_command(reproduce, *command)
    assert code == 2
    assert err.startswith("error: ") and message in err
    if "nowhere" not in change:
        assert err.count("\n") == 1


@pytest.mark.once
def test_a_training_that_fails_is_named(data: Path, tmp_path: Path) -> None:
    command = [*arguments("figure2", data, tmp_path), "--images.num-classes", "9"]
    done = subprocess.run([sys.executable, str(SCRIPT), *command], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--images.num-classes 9: choose 1 to 2" in done.stderr
    assert "console.log" in done.stderr
    assert "Traceback" not in done.stderr
