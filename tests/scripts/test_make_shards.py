"""`scripts/make_shards.py`: what it packs trains as class folders do; flags and interruptions."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import make_shards
import numpy as np
import pytest
import torch
from sharding import packing
from sharding.flags import Flags
from sharding.indexing import index

from common.errors import InputError
from common.images.loading import Reading
from common.images.sampling import Sampling
from pretrain.data.datasets import class_folders, load
from pretrain.data.shards import ShardSet, open_shards, read_index
from pretrain.data.splits import Split, open_split
from pretrain.recipes import RECIPES

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_shards.py"
NAMES = ("a-b.jpg", "a.jpg", "A.JPEG", "dot.ted.jpg", "10.png", "9.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of noise, about 2.5 MB, with names whose order is easily lost."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, names in (("train", NAMES), ("val", NAMES[:2])):
        for name in ("cat", "dog", "owl"):
            (root / split / name).mkdir(parents=True)
            for image in names:
                pixels = rng.integers(0, 256, (rng.integers(150, 250), 400, 3), np.uint8)
                assert cv2.imwrite(str(root / split / name / image), pixels)
    return root


def pack(data: Path, out: Path, **options: object) -> Path:
    flags = Flags(**{"data": data, "out": out, "size_mb": 1, "workers": 1, **options})
    packing.pack(flags, data, out)
    return out


@pytest.fixture(scope="module")
def packed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    return pack(data, pack(data, out), split="val")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def split_of(root: Path, split: str, *, training: bool) -> Split:
    recipe = RECIPES["imagenet-resnet50"]()
    recipe = replace(recipe, images=replace(recipe.images, size=32))
    reading = Reading(workers=0, device=torch.device("cpu"))
    return open_split(recipe.images, root, split, reading, training=training, seed=5)


@pytest.mark.parametrize(("split", "training"), [("train", True), ("train", False), ("val", False)])
def test_shards_train_as_class_folders_do(
    data: Path, packed: Path, split: str, training: bool
) -> None:
    folders, shards = (split_of(root, split, training=training) for root in (data, packed))
    assert shards.classes == folders.classes == ("cat", "dog", "owl")
    assert shards.num_images == folders.num_images
    sampling = Sampling(num_images=folders.num_images, batch_size=4, seed=1)
    steps = 0, 2 * sampling.steps_per_epoch
    pairs = zip(
        folders.load(sampling.micro_batches(*steps)),
        shards.load(sampling.micro_batches(*steps)),
        strict=True,
    )
    for (images, labels), (other_images, other_labels) in pairs:
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


def test_tiny_imagenet_as_it_was_published(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def draw(name: str) -> bytes:
        path = tmp_path / "tiny-imagenet-200" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), rng.integers(0, 256, (8, 8, 3), np.uint8))
        return path.read_bytes()

    classes = ("n01", "n02", "n03")
    train = [(draw(f"train/{c}/images/{c}_{n}.JPEG"), c) for c in classes for n in range(4)]
    # The list of the validation images is in no order.
    val = [(draw(f"val/images/val_{n}.JPEG"), c) for n, c in ((2, "n03"), (0, "n01"), (1, "n02"))]
    lines = [f"val_{n}.JPEG\t{c}\t0\t0\t7\t7\n" for n, c in ((2, "n03"), (0, "n01"), (1, "n02"))]
    (tmp_path / "tiny-imagenet-200/val/val_annotations.txt").write_text("".join(lines))
    for split, expected in (("train", train), ("val", val)):
        for root in (tmp_path, tmp_path / "tiny-imagenet-200"):
            out = tmp_path / f"shards of {root.name}"
            pack(root, out, split=split)
            data = load("tiny-imagenet", out, split)
            assert isinstance(data, ShardSet)
            found = [(data.read(i), data.classes[label]) for i, label in enumerate(data.labels)]
            assert found == expected
            assert data.labels.tolist() == load("tiny-imagenet", root, split).labels.tolist()


def test_files_are_copied_and_shuffled(data: Path, packed: Path) -> None:
    files, shards = class_folders(data, "train"), open_shards(packed, ("train",))
    assert shards is not None
    for number, path in enumerate(files.paths):
        assert shards.read(number) == path.read_bytes()
    assert len(shards.shards) == 3
    for number in range(3):
        there = shards.places[:, 0] == number
        assert len(set(shards.labels[there])) > 1
        longest = shards.places[there, 2].max()
        assert shards.shards[number].bytes <= 1_000_000 + longest + 4096
        assert number == 2 or shards.shards[number].bytes > 1_000_000 - 200_000
    assert sorted(path.name for path in (packed / "train").iterdir()) == [
        ".lock",
        *(f"imagenet-train-{number:06d}.tar" for number in range(3)),
        "index.json",
    ]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves them
def test_webdataset_reads_them(data: Path, packed: Path) -> None:
    import webdataset

    urls = sorted(map(str, (packed / "train").glob("*.tar")))
    pairs = {}
    for sample in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False):
        (image,) = (sample[kind] for kind in ("jpg", "png") if kind in sample)
        pairs[image] = int(sample["cls"])
    files = class_folders(data, "train")
    labels = files.labels.tolist()
    assert pairs == {p.read_bytes(): n for p, n in zip(files.paths, labels, strict=True)}


def test_any_number_of_processes_writes_the_same(data: Path, packed: Path, tmp_path: Path) -> None:
    pack(data, tmp_path, workers=3)
    assert contents(tmp_path / "train") == contents(packed / "train")


def test_an_interrupted_call_goes_on(data: Path, packed: Path, tmp_path: Path) -> None:
    flags = Flags(data=data, out=tmp_path, size_mb=1, workers=1)
    folder = tmp_path / "train"
    folder.mkdir()
    jobs = packing.plan(class_folders(data, "train"), folder, flags)
    for job in jobs[:2]:
        packing.pack_shard(job)
    os.truncate(jobs[1].path, 4000)  # a crash before the disk had it
    (folder / ".imagenet-train-000002.tar.0badcafe.tmp").write_bytes(b"half")
    before = jobs[0].path.stat()
    pack(data, tmp_path)
    assert jobs[0].path.stat() == before
    assert contents(folder) == contents(packed / "train")


def test_a_finished_call_changes_nothing(data: Path, packed: Path, tmp_path: Path) -> None:
    before = {path.name: path.stat() for path in (packed / "train").iterdir()}
    pack(data, packed)
    assert {path.name: path.stat() for path in (packed / "train").iterdir()} == before
    with pytest.raises(InputError, match=r"holds shards of other images or options"):
        pack(data, packed, size_mb=2)
    with pytest.raises(InputError, match=r"holds shards of other images or options"):
        pack(data, packed, resize=100)


def test_a_damaged_index_is_told(
    data: Path,
    call_command: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "index.json").write_text("{")
    code, _, error = call_command(make_shards, "--data", str(data), "--out", str(tmp_path))
    assert (code, error.count("\n")) == (2, 1)
    assert "index.json is no index of shards" in error
    (tmp_path / "file").touch()
    code, _, error = call_command(make_shards, "--data", str(data), "--out", str(tmp_path / "file"))
    assert (code, error.count("\n")) == (2, 1)


def test_shards_of_other_options_are_not_mixed(data: Path, tmp_path: Path) -> None:
    flags = Flags(data=data, out=tmp_path, size_mb=1, workers=1)
    (tmp_path / "train").mkdir()
    packing.pack_shard(packing.plan(class_folders(data, "train"), tmp_path / "train", flags)[0])
    with pytest.raises(InputError, match=r"holds shards of other images or options"):
        pack(data, tmp_path, resize=100)


def test_resizing(data: Path, tmp_path: Path) -> None:
    pack(data, tmp_path, split="val", resize=190)
    files, shards = class_folders(data, "val"), open_shards(tmp_path, ("val",))
    assert shards is not None
    shrunk = 0
    for number, path in enumerate(files.paths):
        pixels = cv2.imread(str(path))
        assert pixels is not None
        height, width = pixels.shape[:2]
        if min(height, width) <= 190:
            assert shards.read(number) == path.read_bytes()
            continue
        shrunk += 1
        size = round(width * 190 / min(height, width)), round(height * 190 / min(height, width))
        expected = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)[..., ::-1].astype(int)
        image = shards.image(number).astype(int)
        assert image.shape == expected.shape
        assert np.abs(image - expected).mean() < 8  # what JPEG makes of noise
    assert 0 < shrunk < 6
    assert shards.described == "shards of 190 px, JPEG 95"


def test_an_image_that_cannot_be_read_stops_it(data: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "in" / "train" / "cat" / "0.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"cat/0\.jpg is damaged"):
        pack(tmp_path / "in", tmp_path / "out", resize=10)
    assert not list((tmp_path / "out" / "train").glob("*.tar"))


def test_our_own_shards_can_be_indexed_anew(packed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    for path in (packed / "train").glob("*.tar"):
        (folder / path.name).write_bytes(path.read_bytes())
    index(folder, workers=2)
    ours, anew = read_index(packed / "train"), read_index(folder)
    assert anew.shards == ours.shards
    assert anew.classes == ("0", "1", "2")
    assert ours.described == "shards"
    assert re.fullmatch("shards [0-9a-f]{8}", anew.described)  # nobody said what they hold
    for column in ("names", "places", "labels"):
        np.testing.assert_array_equal(getattr(anew, column), getattr(ours, column))


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--data", "x"),
        ("--data", "x", "--out", "y", "--index", "z"),
        ("--data", "x", "--index", "z"),
        ("--data", "absent", "--out", "y"),
        ("--index", "absent"),
        ("--data", "x", "--out", "y", "--size-mb", "0"),
    ],
)
def test_wrong_arguments(
    arguments: tuple[str, ...],
    call_command: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, error = call_command(make_shards, *arguments)
    assert code == 2
    assert error.startswith("error: ")
    assert out == ""


def test_the_command(data: Path, packed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--data", data, "--out", tmp_path, *"--size-mb 1".split()],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "18 images of 3 classes in 3 shards" in done.stdout
    assert contents(tmp_path / "train") == contents(packed / "train")
