"""The toy data: read back by the readers of the real data, and the same bytes every time."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toy_data

from common.images.decoding import read_image
from detect.data.opening import open_data

SCRIPT = Path(__file__).parents[2] / "scripts" / "toy_data.py"

SIZES = toy_data.Sizes(train_per_class=3, val_per_class=2, trainval=40, test=10)


def digests(out):
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("toy") / "data"
    assert toy_data.make_toy_data(out, seed=3, sizes=SIZES)
    return out


def test_class_folders(made):
    for split, count in (("train", 3), ("val", 2)):
        folders = sorted((made / "imagenet" / split).iterdir())
        assert [folder.name for folder in folders] == list(toy_data.CLASSES)
        for folder in folders:
            images = [read_image(path) for path in folder.iterdir()]
            assert [image.shape for image in images] == [(64, 64, 3)] * count


def test_devkit_is_read_by_the_reader_of_the_real_one(made):
    data = open_data(made / "VOCdevkit")
    assert data.classes == toy_data.CLASSES
    trainval, test = map(data.read, ("2007:trainval", "2007:test"))
    assert (len(trainval), len(test)) == (40, 10)
    assert not {i.path for i in trainval} & {i.path for i in test}
    annotations = [image.annotation for image in trainval]
    assert all(1 <= len(a.labels) <= 4 for a in annotations)
    assert {label for a in annotations for label in a.labels} == set(range(len(data.classes)))
    difficult = np.concatenate([a.difficult for a in annotations])
    assert 0 < difficult.mean() < 0.2
    sides = np.concatenate([(a.boxes[:, 2:] - a.boxes[:, :2]).max(axis=1) for a in annotations])
    assert (sides[~difficult] >= 12).all()
    assert sides.max() <= 76
    for image in trainval:
        assert read_image(image.path).shape == (128, 128, 3)


def test_a_lone_object_stands_out_exactly_in_its_box(made, monkeypatch):
    """Without ground, shade and grain the painted pixels and the box are the same rectangle."""
    blank = np.zeros((128, 128, 3))
    monkeypatch.setattr(toy_data, "_background", lambda side, rng: blank)
    monkeypatch.setattr(toy_data, "_finish", lambda image, rng: image)
    monkeypatch.setattr(
        toy_data, "_paint", lambda image, mask, rng: np.maximum(image, mask[:, :, None])
    )
    seen = 0
    for number in range(60):
        image, objects = toy_data.draw_scene(128, np.random.default_rng(number))
        if len(objects) != 1:
            continue
        seen += 1
        ys, xs = np.nonzero(image[:, :, 0] >= 0.5)
        assert objects[0].box == (xs.min() + 1, ys.min() + 1, xs.max() + 1, ys.max() + 1)
    assert seen > 5


def test_the_smallest_scene_has_boxes_inside_it():
    for number in range(150):
        image, objects = toy_data.draw_scene(32, np.random.default_rng(number))
        assert image.shape == (32, 32, 3)
        assert objects
        for item in objects:
            xmin, ymin, xmax, ymax = item.box
            assert 1 <= xmin <= xmax <= 32 and 1 <= ymin <= ymax <= 32


@pytest.mark.parametrize("name", toy_data.CLASSES)
def test_shapes_have_the_asked_size_and_place(name):
    rng = np.random.default_rng(0)
    for _ in range(20):
        ys, xs = np.nonzero(toy_data.object_mask(name, 40.0, (64.0, 60.0), 128, rng) >= 0.5)
        sides = np.ptp(xs) + 1, np.ptp(ys) + 1
        assert 36 <= max(sides) <= 41  # a tip thinner than a pixel may fall below one half
        assert abs((xs.min() + xs.max() + 1) / 2 - 64) <= 2
        assert abs((ys.min() + ys.max() + 1) / 2 - 60) <= 2


def test_only_a_ring_has_a_hole():
    for name in toy_data.CLASSES:
        mask = toy_data.object_mask(name, 60.0, (64.0, 64.0), 128, np.random.default_rng(1))
        assert mask[64, 64] == (0 if name == "ring" else 1)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(made, tmp_path):
    toy_data.make_toy_data(tmp_path / "again", seed=3, sizes=SIZES)
    toy_data.make_toy_data(tmp_path / "other", seed=4, sizes=SIZES)
    first, again, other = (digests(f) for f in (made, tmp_path / "again", tmp_path / "other"))
    assert first == again
    assert first.keys() == other.keys()
    images = [name for name in first if name.endswith(".jpg")]
    assert not {first[name] for name in images} & {other[name] for name in images}
    assert len({first[name] for name in images}) == len(images)  # no image occurs twice


def test_a_larger_set_begins_with_the_smaller(made, tmp_path):
    larger = toy_data.Sizes(train_per_class=4, val_per_class=2, trainval=41, test=11)
    toy_data.make_toy_data(tmp_path, seed=3, sizes=larger)
    bigger = digests(tmp_path)
    images = {name: value for name, value in digests(made).items() if name.endswith(".jpg")}
    assert images.items() <= bigger.items()


def test_reuse_and_rewrite(tmp_path):
    sizes = toy_data.Sizes(train_per_class=1, val_per_class=1, trainval=2, test=1)
    out = tmp_path / "data"
    assert toy_data.make_toy_data(out, 0, sizes)
    before = digests(out)
    assert not toy_data.make_toy_data(out, 0, sizes)
    (out / "VOCdevkit/VOC2007/JPEGImages/000001.jpg").unlink()
    assert toy_data.make_toy_data(out, 0, sizes)
    assert digests(out) == before
    (out / toy_data.MANIFEST).write_text("{}")  # as an interrupted run leaves it
    (out / "imagenet/train/stale.jpg").touch()
    assert toy_data.make_toy_data(out, 0, sizes)
    assert digests(out) == before
    assert toy_data.make_toy_data(out, 1, sizes)
    assert json.loads((out / toy_data.MANIFEST).read_text())["seed"] == 1


def test_foreign_data_is_left_alone(tmp_path):
    photo = tmp_path / "VOCdevkit" / "VOC2007" / "JPEGImages" / "000001.jpg"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="VOCdevkit"):
        toy_data.make_toy_data(tmp_path, 0, SIZES)
    assert photo.read_bytes() == b"mine"


def run(*arguments, cwd):
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_the_command_from_any_folder(tmp_path):
    counts = ["--train-per-class", "1", "--val-per-class", "1", "--trainval", "2", "--test", "1"]
    made = run("--out", "data", *counts, cwd=tmp_path)
    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout == (
        "Made in data: imagenet (12 images of 6 classes) and VOCdevkit (2 trainval, 1 test).\n"
    )
    assert run("--out", "data", *counts, cwd=tmp_path).stdout.startswith("Reused in data: ")
    assert (tmp_path / "data" / toy_data.MANIFEST).is_file()


@pytest.mark.parametrize("wrong", [["--test", "0"], ["--seed", "-1"], ["--scene-side", "8"]])
def test_wrong_arguments_end_with_2(tmp_path, wrong):
    result = run("--out", "data", *wrong, cwd=tmp_path)
    assert result.returncode == 2
    assert wrong[0] in result.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
