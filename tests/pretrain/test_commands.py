"""`python -m pretrain`: what a person types and what comes back."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
import torch
import torchvision.models as models
from safetensors.torch import load_file

from common.runs.metrics_log import read_metrics
from pretrain import __main__ as command
from pretrain.recipes import RECIPES

Run = Callable[..., tuple[int, str, str]]
SMALL = ("--network", "cifar-resnet20")  # saved in milliseconds
TINY = (
    "--images.size 32 --images.padding 2 --optimization.batch-size 8 --optimization.epochs 2 "
    "--optimization.warmup-steps 0 --workers 0 --device cpu"
).split()


@pytest.fixture
def run(call_command: Callable[..., tuple[int, str, str]]) -> Run:
    return partial(call_command, command)


@pytest.fixture(scope="module")
def trained(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "fd"
    arguments = ["train", "toy-resnet18-fd", "--data", folders, "--out", out, *TINY]
    arguments += ["--focus.participation-rate", "1", "--deterministic"]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.setattr(sys, "argv", [str(command.__file__), *map(str, arguments)])
        assert command.main() == 0
    *lines, best, last, log, following = printed.getvalue().splitlines()
    records = read_metrics(out)
    starts = [line.split()[0] for line in lines]  # a slow machine prints others within an epoch
    assert [start for start in starts if start in ("1/2", "2/2")] == ["1/2", "2/2"]
    for line, record in zip(lines[-2:], records, strict=True):
        assert shown(record) in line.split()
    assert last == f"last  val accuracy {shown(records[1])}% in epoch 2: {out / 'last.pt'}"
    assert best.startswith("best  val accuracy ") and best.endswith(str(out / "best.pt"))
    assert log.startswith(f"log   {out / 'metrics.jsonl'}")
    assert following == (f"next  python -m pretrain export --run {out} --out {out}.safetensors")
    return out


def shown(record: dict[str, float]) -> str:
    return f"{100 * record['val_accuracy']:.2f}"[:5]


def one_line(text: str) -> str:
    assert text.startswith("error: ") and text.count("\n") == 1, text
    return text


def test_list_has_a_line_for_every_recipe(run: Run) -> None:
    code, out, _ = run("list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(RECIPES)
    assert all(len(line) <= 125 for line in out.splitlines())


def test_a_run_leaves_its_record(trained: Path) -> None:
    recipe = json.loads((trained / "recipe.json").read_text())
    assert recipe["recipe"]["focus"]["after"] == "layer3"
    assert recipe["recipe"]["images"]["size"] == 32
    environment = json.loads((trained / "environment.json").read_text())
    assert environment["torch"] == torch.__version__.split("+")[0]
    assert environment["classes"] == ["ant", "bee"]
    assert environment["deterministic"] is True
    first, second = read_metrics(trained)
    assert (first["epoch"], second["epoch"]) == (1, 2)
    assert second["step"] == 6
    assert second["focus_participating_steps"] == 3
    assert 0 < second["focus_keep_ratio"] < 1
    assert "val_accuracy" in second


def test_evaluate_repeats_the_logged_metrics(run: Run, folders: Path, trained: Path) -> None:
    code, out, _ = run(
        "evaluate", "--run", trained, "--data", folders, "--checkpoint", "last", "--device", "cpu"
    )
    assert code == 0
    result = json.loads(out)
    assert result["images"] == 10
    last = read_metrics(trained)[-1]
    assert result["val_accuracy"] == last["val_accuracy"]
    assert result["val_loss"] == pytest.approx(last["val_loss"], rel=1e-6)


def test_a_finished_run_is_not_repeated(run: Run, folders: Path, trained: Path) -> None:
    before = (trained / "metrics.jsonl").read_bytes()
    code, out, _ = run(
        *("train", "toy-resnet18-fd", "--data", folders, "--out", trained, *TINY),
        *("--focus.participation-rate", "1"),
    )
    assert code == 0
    assert "resuming from step 6" in out
    assert (trained / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("layout", ["torchvision", "timm"])
def test_export_fits_torchvision_strictly(
    run: Run, trained: Path, tmp_path: Path, layout: str
) -> None:
    out = tmp_path / "backbone.safetensors"
    code, _, _ = run("export", "--run", trained, "--format", layout, "--out", out)
    assert code == 0
    models.resnet18(weights=None, num_classes=2).load_state_dict(load_file(out), strict=True)
    card = json.loads((tmp_path / "backbone.json").read_text())
    assert card["architecture"] == "resnet18"
    assert card["recipe_name"] == "toy-resnet18-fd"
    assert card["preprocessing"]["channel_order"] == "RGB"
    assert set(card["metrics"]) == {"val_loss", "val_accuracy", "val_top5"}


def test_dry_run_leaves_nothing(run: Run, folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "dry"
    code, printed, _ = run(
        *("train", "toy-resnet18-fd", *SMALL, "--focus.after", "layer2", "--data", folders),
        *("--out", out, *TINY, "--dry-run"),
    )
    assert code == 0
    assert printed.count("class folders in train") == 1  # though it builds twice
    assert printed.endswith("nothing is kept\nGPU memory: not measured, for this ran on the CPU\n")
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--resume", "nowhere.pt"), "--resume nowhere.pt is missing"),
        (("--resume", "sometimes"), "--resume sometimes is missing"),
        (("--out", "a file"), "a file is a file: choose another --out"),
    ],
)
def test_a_dry_run_refuses_what_the_training_would(
    run: Run,
    folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a file").write_text("")
    command = ("train", "toy-resnet18", "--data", folders, "--out", "run", *SMALL, *TINY, *flags)
    for dry in ((), ("--dry-run",)):
        code, _, err = run(*command, *dry)
        assert code == 2
        assert said in err


def test_print_config_needs_no_data_and_shows_overrides(run: Run) -> None:
    code, out, _ = run(
        "train", "imagenet-resnet50-fd", "--print-config", "--optimization.lr", "0.2"
    )
    assert code == 0
    recipe = json.loads(out)["recipe"]
    assert recipe["optimization"]["lr"] == 0.2
    assert recipe["optimization"]["milestones"] == [75, 150, 225]


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["evaluate", "--help"]])
def test_help_shows_an_example_or_the_recipes(run: Run, arguments: list[str]) -> None:
    code, out, _ = run(*arguments)
    assert code == 0
    assert "example" in out or "toy-resnet18" in out


def test_train_help_has_groups_and_defaults(run: Run) -> None:
    code, out, _ = run("train", "toy-resnet18-fd", "--help")
    assert code == 0
    for text in ("focus options", "optimization options", "images options", "example:"):
        assert text in out
    assert "(default: 0.05)" in out  # the recipe's weight decay, not the class default


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import contextlib, sys; sys.argv = ['p', 'train', 'toy-resnet18', '--help']\n"
        "from pretrain.__main__ import main\n"
        "with contextlib.suppress(SystemExit): main()\n"
        "print('loaded:', *(name for name in ('torch', 'cv2') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "--optimization.lr" in done.stdout
    assert done.stdout.endswith("loaded:\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "toy-resnet19", "--data", "d", "--out", "o"], ["toy-resnet18", "list"]),
        (["trian"], ["train"]),
        (["train"], ["recipe", "list"]),
        (["train", "toy-resnet18", "--data", "d", "--out", "o", "--lrr", "1"], ["--lrr"]),
        (["train", "toy-resnet18", "--data", "d"], ["--out"]),
        (
            ["train", "toy-resnet18", "--data", "d", "--out", "o", "--optimization.lr", "fast"],
            ["lr", "fast"],
        ),
        (
            ["train", "toy-resnet18", "--data", "d", "--out", "o", "--optimization.lr", "-1"],
            ["lr must be above 0"],
        ),
        (
            ["predict", "--run", "r", "--weights", "w", "--images", "i", "--out", "o"],
            ["error: --run and --weights name two classifiers: give one"],
        ),
        (["predict", "--images", "i", "--out", "o"], ["error: predict needs a classifier: give"]),
        (["evaluate", "--run", "nowhere", "--data", "d"], ["nowhere/recipe.json", "missing"]),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_2(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*arguments)
    assert code == 2
    for word in words:
        assert word in one_line(err)
    assert list(tmp_path.iterdir()) == []


def test_parts_of_one_image_are_refused_where_batchnorm_needs_two(
    run: Run, folders: Path, tmp_path: Path
) -> None:
    """24 images in batches of 11: the last one has two, one for each micro-batch."""
    words = ("train", "toy-resnet18", "--data", folders, "--out", tmp_path / "run", *TINY)
    code, _, err = run(*words, *"--optimization.batch-size 11 --optimization.accumulate 2".split())
    assert code == 2
    assert "leave parts of one image" in one_line(err) and "--optimization.batch-size" in err
    code, _, err = run(*words, *"--optimization.batch-size 23 --optimization.epochs 1".split())
    assert code == 0, err  # the single one that is left is left out


def test_a_folder_of_another_form_is_refused_by_what_it_lacks(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data" / "pictures").mkdir(parents=True)
    words = ("train", "toy-resnet18", "--data", tmp_path / "data", "--out", tmp_path / "run", *TINY)
    code, _, err = run(*words)
    assert code == 2
    assert "pictures: a class folder that holds no .jpg" in one_line(err)
    (tmp_path / "data" / "pictures").rmdir()
    code, _, err = run(*words)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 2
    assert str(tmp_path / "data") in err and "train/<class>/" in err


def test_a_truncated_jpeg_is_named(run: Run, folders: Path, tmp_path: Path) -> None:
    for path in sorted(folders.rglob("*.jpg")):
        copy = tmp_path / "data" / path.relative_to(folders)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    broken = tmp_path / "data" / "train" / "bee" / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:-200])
    code, _, err = run(
        "train", "toy-resnet18", "--data", tmp_path / "data", "--out", tmp_path / "run", *TINY
    )
    assert code == 2
    assert str(broken) in one_line(err)


def test_a_truncated_jpeg_is_named_from_a_worker(run: Run, folders: Path, tmp_path: Path) -> None:
    for path in sorted(folders.rglob("*.jpg")):
        copy = tmp_path / "data" / path.relative_to(folders)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    broken = tmp_path / "data" / "train" / "ant" / "0.jpg"
    broken.write_bytes(b"")
    code, _, err = run(
        *("train", "imagenet-resnet50", "--network", "resnet18", "--data", tmp_path / "data"),
        *("--out", tmp_path / "run", "--optimization.batch-size", "8", "--images.size", "32"),
        *("--workers", "1", "--device", "cpu"),
    )
    assert code == 2
    assert str(broken) in one_line(err)


def test_an_unknown_place_lists_the_names(run: Run, folders: Path, tmp_path: Path) -> None:
    code, _, err = run(
        *("train", "toy-resnet18-fd", "--data", folders, "--out", tmp_path / "run", *TINY),
        *("--focus.after", "layer9"),
    )
    assert code == 2
    assert "layer9" in one_line(err) and "layer3" in err


def test_another_recipe_in_the_folder_is_refused(run: Run, folders: Path, trained: Path) -> None:
    before = (trained / "last.pt").read_bytes()
    code, _, err = run("train", "toy-resnet18", "--data", folders, "--out", trained, *TINY)
    assert code == 2
    assert "another run" in one_line(err)
    assert (trained / "last.pt").read_bytes() == before


def test_a_small_network_is_no_backbone(run: Run, trained: Path, tmp_path: Path) -> None:
    code, _, err = run("export", "--run", trained, "--out", tmp_path / "backbone.bin")
    assert code == 2
    assert ".safetensors" in one_line(err)


@pytest.mark.parametrize("place", ["fc", "avgpool.nothing"])
def test_a_place_without_feature_maps(run: Run, folders: Path, tmp_path: Path, place: str) -> None:
    code, _, err = run(
        *("train", "toy-resnet18-fd", "--data", folders, "--out", tmp_path / "run", *TINY),
        *("--focus.after", place),
    )
    assert code == 2
    assert f"--focus.after {place}" in one_line(err)


def test_resuming_on_other_data_is_refused(
    run: Run, folders: Path, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    shutil.copytree(folders, tmp_path / "data")
    (tmp_path / "data" / "train" / "ant" / "0.jpg").unlink()
    flags = (*TINY, "--focus.participation-rate", "1")
    code, _, err = run(
        *("train", "toy-resnet18-fd", "--data", tmp_path / "data", "--out", tmp_path / "run"),
        *flags,
    )
    assert code == 2
    assert "24 images then, 23 now: give the data" in one_line(err)


def test_a_card_is_not_exported_over_the_runs_own_record(run: Run, trained: Path) -> None:
    before = (trained / "recipe.json").read_bytes()
    code, _, err = run("export", "--run", trained, "--out", trained / "recipe.safetensors")
    assert code == 2
    assert "overwritten" in one_line(err)
    assert (trained / "recipe.json").read_bytes() == before


def test_a_signal_to_all_processes_ends_in_a_checkpoint(folders: Path, tmp_path: Path) -> None:
    """A batch system signals the workers, too; the run must not lose them before it has saved."""
    flags = ["imagenet-resnet50", *SMALL, "--images.size", "32", "--device", "cpu"]
    flags += ["--optimization.batch-size", "8", "--optimization.epochs", "10000", "--workers", "1"]
    flags += ["--data", str(folders), "--out", str(tmp_path / "run")]
    child = subprocess.Popen(
        [sys.executable, "-m", "pretrain", "train", *flags],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(child.pid, signal.SIGTERM)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 143, err
    assert torch.load(tmp_path / "run" / "last.pt")["step"] >= 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_past_a_counted_few_unreadable_images(
    run: Run, folders: Path, tmp_path: Path, workers: int
) -> None:
    data = tmp_path / "data"
    shutil.copytree(folders, data)
    for name in ("ant/3.jpg", "bee/7.jpg"):
        (data / "train" / name).write_bytes(b"no image")
    resized = ["--images.crop", "resized", "--workers", workers]

    def train(out: str, limit: int) -> tuple[int, str, str]:
        place = ["--data", data, "--out", tmp_path / out]
        return run("train", "toy-resnet18", *SMALL, *place, *TINY, *resized, "--skip-bad", limit)

    code, _, err = train("none", 0)
    assert code == 2 and "is damaged or not an image" in one_line(err)
    code, _, err = train("one", 1)
    assert code == 2 and "--skip-bad 1 is used up" in one_line(err)
    code, out, _ = train("two", 2)
    assert code == 0
    assert "skipped, 2 of at most 2" in out
    recorded = (tmp_path / "two" / "unreadable.txt").read_text().splitlines()
    # In the order of names 10.jpg and 11.jpg come before 2.jpg.
    assert sorted(int(line.split()[0]) for line in recorded) == [3 + 2, 12 + 7 + 2]
    (data / "val" / "ant" / "0.jpg").write_bytes(b"no image")
    code, _, err = train("val", 24)
    assert code == 2 and "val/ant/0.jpg" in one_line(err)


def test_quiet_says_nothing_and_json_leaves_the_output_to_a_program(
    run: Run, folders: Path, tmp_path: Path
) -> None:
    train = ("train", "toy-resnet18", *SMALL, "--data", folders, *TINY, "--log", "none", "--out")
    assert run(*train, tmp_path / "quiet", "--quiet") == (0, "", "")
    assert not (tmp_path / "quiet" / "tensorboard").exists()
    code, out, err = run(*train, tmp_path / "json", "--json")
    assert code == 0
    *epochs, end = map(json.loads, out.splitlines())
    assert epochs == read_metrics(tmp_path / "json")
    assert end["run"] == str(tmp_path / "json")
    assert Path(end["best_checkpoint"]).exists() and Path(end["last_checkpoint"]).exists()
    assert end["val_accuracy"] == epochs[-1]["val_accuracy"]
    assert "data: 2 classes" in err
    code, _, err = run(*train, tmp_path / "x", "--json", "--quiet")
    assert code == 2 and "give one of them" in one_line(err)
    code, _, err = run(*train[:-2], "wandbb", "--out", tmp_path / "x")
    assert code == 2 and "choose from tensorboard" in one_line(err)
    assert not (tmp_path / "x").exists()
