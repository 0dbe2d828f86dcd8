"""Own images from the command line: what is printed, warned of and refused."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from common.images.sampling import Sampling
from common.storage import read_json
from common.training import assembly
from pretrain import __main__ as command

Run = Callable[..., tuple[int, str, str]]
TINY = (
    "--network cifar-resnet20 --images.size 32 --images.padding 2 --optimization.batch-size 8 "
    "--optimization.epochs 1 --optimization.warmup-steps 0 --workers 0 --device cpu"
).split()


@pytest.fixture
def run(call_command: Callable[..., tuple[int, str, str]]) -> Run:
    return partial(call_command, command)


def draw(root: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """Write images of noise; `counts` are by folder."""
    rng = np.random.default_rng(seed)
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            cv2.imwrite(str(root / folder / f"{seed}{number:03}.png"), pixels)
    return root


def train(run: Run, data: Path, out: Path, *more: str) -> tuple[int, str, str]:
    return run("train", "toy-resnet18", "--data", data, "--out", out, *TINY, *more)


def whole(out: str) -> list[str]:
    """Return the lines that were printed, those put together that were broken for a terminal."""
    return out.replace("\n      ", "; ").splitlines()


def test_what_was_found_is_printed(run: Run, tmp_path: Path) -> None:
    data = draw(tmp_path / "data", {"Training/ant": 9, "Training/bee/more": 7, "Validation/ant": 3})
    draw(data, {"Validation/bee": 2}, seed=3)
    (data / "Training/ant/notes.txt").touch()
    (data / "Training/bee/a.tif").touch()
    shutil.copy(data / "Training/ant/0000.png", data / "Validation/ant/again.png")
    code, out, err = train(run, data, tmp_path / "run")
    assert (code, err) == (0, "")
    lines = whole(out)
    assert lines[0] == (
        "data: 2 classes (ant, bee); train 16 images, class folders in Training; "
        "val 6, class folders in Validation"
    )
    assert lines[1].startswith("skipped: ") and "1 other file (" in lines[1]
    assert "1 .tif image, a format that is not read: convert to .png" in lines[1]
    assert lines[2].startswith("warning: of 6 validation images 1 also in train (")
    assert "Validation/ant/again.png is " in lines[2]
    facts = read_json(tmp_path / "run/environment.json")
    assert (facts["train_images"], facts["val_images"], facts["classes"]) == (16, 6, ["ant", "bee"])


@pytest.mark.parametrize("flags", [(), ("--images.held-out", "4")])
def test_class_folders_alone(run: Run, tmp_path: Path, flags: tuple[str, ...]) -> None:
    data = draw(tmp_path / "data", {"train/ant": 12, "train/bee": 12, "test": 3})
    code, out, err = train(run, data, tmp_path / "run", *flags)
    assert (code, err) == (0, "")
    told = "held out of the training images" if flags else "(--images.split-by 0.2)"
    assert told in whole(out)[0]
    facts = read_json(tmp_path / "run/environment.json")
    assert facts["train_images"] + facts["val_images"] == 24
    if not flags:
        code, out, _ = run("evaluate", "--run", tmp_path / "run", "--data", data, "--device", "cpu")
        assert code == 0 and f'"images": {facts["val_images"]}' in out


def test_imagenet_by_name_is_said_to_be_something_else(run: Run, tmp_path: Path) -> None:
    data = draw(tmp_path / "data", {f"{split}/{c}": 4 for split in ("train", "val") for c in "ab"})
    code, out, _ = train(run, data, tmp_path / "run", "--images.dataset", "imagenet", "--dry-run")
    assert code == 0 and "these are not ImageNet's classes" in out
    code, out, _ = train(run, data, tmp_path / "run", "--dry-run")
    assert code == 0 and "ImageNet" not in out


def test_classes_that_are_spelt_alike_are_told(run: Run, tmp_path: Path) -> None:
    folders = {f"{split}/{c}": 2 for split in ("train", "val") for c in ("Cat", "cat", "dog")}
    data = draw(tmp_path / "data", folders)
    told = "warning: classes spelt alike: 1, such as 'Cat' and 'cat': if they are one, rename one"
    _, out, _ = run("verify", "--data", data)
    assert told in out
    _, out, _ = train(run, data, tmp_path / "run", "--dry-run")
    assert told in " ".join(out.split())


def test_nothing_to_learn_and_a_class_that_is_gone(run: Run, tmp_path: Path) -> None:
    data = draw(tmp_path / "data", {"train/ant": 8})
    code, _, err = train(run, data, tmp_path / "run")
    assert code == 2 and "one class only, ant: there is nothing to tell apart" in err
    assert "call that folder train and write labels.csv beside it" in err and ".mat" not in err
    (data / "imagelabels.mat").touch()  # as Oxford's flowers are kept
    for call in (("verify", "--data", data), ()):
        code, out, err = run(*call) if call else train(run, data, tmp_path / "run")
        assert code == 2 and "beside it (imagelabels.mat is not read)" in out + err
    draw(data, {"train/bee": 8, "val/ant": 2, "val/bee": 2})
    for split in ("train", "val"):
        (data / split / "emu").symlink_to("nowhere")
    code, _, err = train(run, data, tmp_path / "run")
    assert code == 2 and "train/emu: a class folder that is a dangling link" in err
    assert err.count("\n") == 1
    code, out, _ = run("verify", "--data", data, "--workers", "0")
    assert code == 2 and [line.split(": ")[0][-9:] for line in out.splitlines()[:2]] == [
        "train/emu",
        "a/val/emu",
    ]


def test_verify_checks_what_a_fault_of_the_other_split_leaves(run: Run, tmp_path: Path) -> None:
    data = draw(tmp_path / "data", {"train/ant": 2, "train/bee": 2, "val": 3})
    code, out, err = run("verify", "--data", data, "--workers", "0")
    assert code == 2 and "val holds 3 images in no class folder," in out.splitlines()[0]
    assert "1 fault, listed above; 4 images checked" in err


def change_classes(data: Path) -> None:
    for split in ("train", "val"):
        (data / split / "bee").rename(data / split / "aardvark")


def change_training(data: Path) -> None:
    first = min((data / "train/ant").iterdir())
    first.rename(first.with_name("zebra.png"))


def change_a_picture(data: Path) -> None:
    cv2.imwrite(str(min((data / "train/bee").iterdir())), np.zeros((32, 32, 3), np.uint8))


def change_validation(data: Path) -> None:
    draw(data, {"val/ant": 1}, seed=7)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_classes, "the class list: ant, bee then, aardvark, ant now"),
        (change_training, "the names of the training images"),
        (change_a_picture, "the files of the training images, by their sizes"),
        (change_validation, "the validation images"),
    ],
)
def test_a_run_goes_on_with_the_same_data_alone(
    run: Run, tmp_path: Path, change: Callable[[Path], None], named: str
) -> None:
    data = draw(
        tmp_path / "data", {f"{s}/{c}": 8 for s in ("train", "val") for c in ("ant", "bee")}
    )
    assert train(run, data, tmp_path / "run")[0] == 0
    moved = data.rename(tmp_path / "elsewhere")
    assert train(run, moved, tmp_path / "run")[0] == 0  # where they lie is no part of them
    change(moved)
    code, _, err = train(run, moved, tmp_path / "run")
    assert code == 2 and named in err and err.count("\n") == 1


def test_few_images_for_a_quick_try(run: Run, tmp_path: Path) -> None:
    data = draw(tmp_path / "data", {"train/ant": 30, "train/bee": 10, "val/ant": 9, "val/bee": 9})
    code, out, _ = train(run, data, tmp_path / "run", "--limit-images", "12")
    assert code == 0 and "train 12 images" in out and "val 12," in out
    code, _, err = train(run, data, tmp_path / "run")
    assert code == 2 and "limit_images was 12, is now None" in err
    assert train(run, data, tmp_path / "all", "--limit-images", "1000")[0] == 0
    assert read_json(tmp_path / "all/environment.json")["train_images"] == 40


def test_balanced_sampling_shows_each_class_as_often(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[list[int]] = []

    class Recorded(Sampling):
        def order(self, epoch: int) -> NDArray[np.int64]:
            found = super().order(epoch)
            orders.append(found.tolist())
            return found

    monkeypatch.setattr(assembly, "Sampling", Recorded)
    data = draw(tmp_path / "data", {"train/ant": 36, "train/bee": 4, "val/ant": 2, "val/bee": 2})
    balanced = ("--images.sampling", "balanced")
    assert train(run, data, tmp_path / "balanced", *balanced)[0] == 0
    assert train(run, data, tmp_path / "uniform")[0] == 0
    ants = [sum(image < 36 for image in order) for order in orders]
    assert set(ants) == {20, 36} and {len(order) for order in orders} == {40}


def test_class_weights_are_said_and_exclude_balanced_sampling(run: Run, tmp_path: Path) -> None:
    data = draw(tmp_path / "data", {"train/ant": 15, "train/bee": 5, "val/ant": 2, "val/bee": 2})
    code, out, err = train(run, data, tmp_path / "run", "--class-weights", "balanced")
    assert code == 0, err
    assert "losses weighed by class: 0.667 (ant) to 2 (bee)" in out
    both = ("--class-weights", "balanced", "--images.sampling", "balanced")
    code, _, err = train(run, data, tmp_path / "both", *both)
    assert code == 2 and "give one" in err and err.count("\n") == 1


def test_the_table_of_verify(run: Run, tmp_path: Path) -> None:
    data = draw(tmp_path / "data", {"train/ant": 5, "train/bee": 2, "val/ant": 1, "val/bee": 1})
    same = data / "train/ant/0000.png"
    shutil.copy(same, data / "train/bee/same.png")
    shutil.copy(same, data / "val/ant/same.png")
    turned = cv2.imencode(".jpg", np.full((20, 30, 3), 9, np.uint8))[1].tobytes()
    exif = (
        b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    )
    (data / "val/bee/turned.jpg").write_bytes(turned[:2] + exif + turned[2:])
    (data / "val/bee/list.txt").touch()
    code, out, err = run("verify", "--data", data, "--workers", "0")
    assert (code, err) == (0, "")
    rows = {line[:35].strip(): line[35:].split("  ") for line in out.splitlines()}
    found = {name: [cell.strip() for cell in cells if cell.strip()] for name, cells in rows.items()}
    assert found["images"] == ["8", "4"]
    assert found["classes"] == ["2", "2"]
    assert found["images per class: min, median, max"[:35].strip()][-1].endswith("2, 2, 2")
    assert found["formats"] == ["PNG 8", "PNG 3, JPEG 1"]
    assert found["sizes"] == ["32x32", "30x20 to 32x32, 2 different"]
    assert found["not upright by EXIF, read as stored"] == ["0", "1"]
    assert found["identical files within"] == ["1", "0"]
    assert "1 other file (such as val/bee/list.txt)" in out
    assert "warning: in train, 1 with the same content as one of another class (" in out
    assert "warning: of 4 validation images 1 also in train (" in out


def test_an_image_that_sits_out_is_told(run: Run, tmp_path: Path) -> None:
    data = draw(tmp_path / "data", {"train/ant": 9, "train/bee": 8, "val/ant": 2, "val/bee": 2})
    told = "1 image of 17 left out of each epoch, other ones each time: too few for a last batch"
    code, out, _ = train(run, data, tmp_path / "run")
    assert code == 0 and told in out
    more = ("--optimization.batch-size", "7")  # 7, 7, 3
    code, out, _ = train(run, data, tmp_path / "other", *more)
    assert code == 0 and "left out" not in out


def test_classes_without_a_training_image(run: Run, tmp_path: Path) -> None:
    """CIFAR-10 as Kaggle has it, or a part of it, always has ten classes."""
    data = draw(tmp_path / "data", {"train": 8})
    names = sorted(path.stem for path in (data / "train").iterdir())
    rows = [f"{name},{'cat' if at % 2 else 'dog'}" for at, name in enumerate(names)]
    (data / "trainLabels.csv").write_text("\n".join(["id,label", *rows]))
    code, out, _ = train(run, data, tmp_path / "run", "--images.dataset", "cifar10")
    told = "warning: 8 classes without a training image, such as airplane"
    assert code == 0 and told in out
    _, out, _ = run("verify", "--data", data, "--dataset", "cifar10", "--workers", 0)
    assert told in out


@pytest.mark.parametrize(("then", "now"), [("imagenet", "folders"), ("folders", "imagenet")])
def test_a_run_whose_folders_were_called_otherwise_goes_on(
    run: Run, tmp_path: Path, then: str, now: str
) -> None:
    data = draw(tmp_path / "data", {f"{s}/{c}": 8 for s in ("train", "val") for c in "ab"})
    steps = ("--optimization.schedule", "step", "--optimization.milestones")
    called = ("--images.dataset", then), ("--images.dataset", now)
    assert train(run, data, tmp_path / "run", *called[0], *steps)[0] == 0
    longer = ("--optimization.epochs", "2")
    code, out, err = train(run, data, tmp_path / "run", *called[1], *longer, *steps)
    assert (code, err) == (0, "") and "resuming from step 2" in out
    kept = read_json(tmp_path / "run/recipe.json")["recipe"]["images"]["dataset"]
    assert kept == then
    code, _, err = train(
        run, data, tmp_path / "run", "--images.dataset", "cifar10", *longer, *steps
    )
    assert code == 2 and "images.dataset was" in err


def test_a_refused_lengthening_leaves_the_run_as_it_was(run: Run, tmp_path: Path) -> None:
    data = draw(tmp_path / "data", {f"{s}/{c}": 8 for s in ("train", "val") for c in "ab"})
    steps = ("--optimization.schedule", "step", "--optimization.milestones")
    assert train(run, data, tmp_path / "run", *steps)[0] == 0
    moved = data / "val/a/0000.png"
    moved.rename(data / "val/b/moved.png")
    longer = ("--optimization.epochs", "2")
    assert train(run, data, tmp_path / "run", *steps, *longer)[0] == 2
    (data / "val/b/moved.png").rename(moved)
    assert train(run, data, tmp_path / "run", *steps)[0] == 0  # of one epoch still
    code, out, _ = train(run, data, tmp_path / "run", *steps, *longer)
    assert code == 0 and "lengthened from 1 epoch to 2" in out


def test_a_file_to_go_on_from_that_is_past_the_end(run: Run, tmp_path: Path) -> None:
    data = draw(tmp_path / "data", {f"{s}/{c}": 8 for s in ("train", "val") for c in "ab"})
    assert train(run, data, tmp_path / "run")[0] == 0
    resume = ("--resume", str(tmp_path / "run/last.pt"))
    code, _, err = train(run, data, tmp_path / "other", *resume)
    assert code == 2 and "is of step 2, and this training has 2 steps: raise" in err
    code, _, err = train(run, data, tmp_path / "other", *resume, "--optimization.epochs", "2")
    assert (code, err) == (0, "")
    # The same command again finds its own run, which is done.
    assert train(run, data, tmp_path / "other", *resume, "--optimization.epochs", "2")[0] == 0
