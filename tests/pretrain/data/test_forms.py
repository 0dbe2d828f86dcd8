"""The forms in which people keep images: what is read, what is told, what is refused."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from litter import litter

from common.errors import InputError
from pretrain.data.datasets import class_folders, has_validation, load
from pretrain.data.image_sets import FileSet
from pretrain.data.listing import Findings

GOOD = cv2.imencode(".jpg", np.full((8, 8, 3), 90, np.uint8))[1].tobytes()
Pairs = dict[str, str]


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(GOOD)


def read(root: Path, split: str, **options: object) -> tuple[Pairs, list[str]]:
    """The class of each image by its path below the folder, and what was skipped."""
    data = load("folders", root, split, **options)  # type: ignore[arg-type]
    assert isinstance(data, FileSet)
    names = [data.classes[label] for label in data.labels]
    pairs = {str(p.relative_to(root)): c for p, c in zip(data.paths, names, strict=True)}
    assert len(pairs) == len(data.paths)
    return pairs, [str(one) for one in data.passed_over]


def refused(root: Path, split: str, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        load("folders", root, split, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.count("\n") <= 1  # never more than two lines
    return message


def test_every_format_at_any_depth_and_what_is_passed_over(tmp_path: Path) -> None:
    taken = ["1.jpg", "2.JPEG", "3.png", "4.bmp", "5.gif", "6.WebP", "7.jfif", "8.jpe", "x/y/9.jpg"]
    write(tmp_path, *(f"train/a/{name}" for name in taken), "train/b/1.jpg")
    write(tmp_path, "train/a/t.tif", "train/b/u.TIF", "train/b/v.heic", "train/b/notes.txt")
    write(tmp_path, "train/a/.z.jpg", "train/__MACOSX/a/1.jpg", "train/beside.jpg")
    pairs, passed = read(tmp_path, "train")
    assert pairs == {**{f"train/a/{name}": "a" for name in taken}, "train/b/1.jpg": "b"}
    assert sorted(line.replace("z.jpg", "").split(" (")[0] for line in passed) == [
        "1 .heic image, a format that is not read: convert to .png",
        "1 image beside the class folders",
        "1 other file",
        "2 .tif images, a format that is not read: convert to .png",
        "2 hidden files",
    ]
    assert "1 other file (such as train/b/notes.txt)" in passed


@pytest.mark.parametrize("form", ["folders", "list"])
def test_what_systems_leave_behind(tmp_path: Path, form: str) -> None:
    if form == "folders":
        write(tmp_path, *(f"{split}/{name}/1.jpg" for split in ("train", "val") for name in "ab"))
    else:
        write(tmp_path, "train/1.jpg", "train/2.jpg", "val/3.jpg", "val/4.jpg")
        (tmp_path / "train.csv").write_text("1.jpg,a\n2.jpg,b\n")
        (tmp_path / "val.csv").write_text("3.jpg,a\n4.jpg,b\n")
    clean = [read(tmp_path, split)[0] for split in ("train", "val")]
    litter(tmp_path)
    for split, pairs in zip(("train", "val"), clean, strict=True):
        found, passed = read(tmp_path, split)
        assert found == pairs
        assert all("hidden file" in line for line in passed)  # each once, with their number


@pytest.mark.parametrize("around", ["", "DATASET/", "x/DATASET/"])
def test_folders_around_the_splits(tmp_path: Path, around: str) -> None:
    write(tmp_path, f"{around}train/a/1.jpg", f"{around}train/b/1.jpg")
    write(tmp_path, f"{around}dev/a/1.jpg", f"{around}dev/b/1.jpg", f"{around}holdout/a/1.jpg")
    pairs, passed = read(tmp_path, "val", split_by=0.2)
    assert pairs == {f"{around}dev/a/1.jpg": "a", f"{around}dev/b/1.jpg": "b"}
    example = f"1 folder beside the splits that are read (such as {around}holdout)"
    assert passed == [example] and read(tmp_path, "train")[1] == [example]


def test_a_second_folder_of_a_split_is_named(tmp_path: Path) -> None:
    write(
        tmp_path, *(f"{split}/{name}/1.jpg" for split in ("train", "val", "dev") for name in "ab")
    )
    (tmp_path / "labels").mkdir()  # without images
    write(tmp_path, "test/1.jpg")  # left alone
    pairs, passed = read(tmp_path, "val")
    assert sorted(pairs) == ["val/a/1.jpg", "val/b/1.jpg"]
    assert passed == ["1 folder beside the splits that are read (such as dev)"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("data/train-00000-of-00001.parquet", "train/CLASS/NUMBER.jpg (datasets.load_dataset"),
        ("train/data-00000-of-00002.arrow", "a Hugging Face table"),
        ("dogs and cats.zip", "&& unzip 'dogs and cats.zip'"),
        ("train/part.tar.gz", "&& tar xf part.tar.gz"),
    ],
)
def test_images_that_are_still_packed(tmp_path: Path, name: str, words: str) -> None:
    write(tmp_path, name)
    (tmp_path / "README.md").touch()
    assert words in refused(tmp_path, "train")
    if "/" not in name:  # given itself
        assert words in refused(tmp_path / name, "train")


def test_links(tmp_path: Path) -> None:
    """To images and folders they count; into nothing they are faults; upwards they end."""
    write(tmp_path, "train/a/1.jpg", "train/b/1.jpg", ".elsewhere/2.jpg")
    (tmp_path / "train/c").symlink_to(tmp_path / ".elsewhere")
    (tmp_path / "train/a/link.jpg").symlink_to(tmp_path / ".elsewhere/2.jpg")
    (tmp_path / "train/a/up").symlink_to(tmp_path / "train")
    (tmp_path / "train/a/gone").symlink_to("nowhere")
    pairs, passed = read(tmp_path, "train")
    assert sorted(pairs) == ["train/a/1.jpg", "train/a/link.jpg", "train/b/1.jpg", "train/c/2.jpg"]
    assert passed == [
        "1 link to a folder above (such as train/a/up)",
        "1 dangling link (such as train/a/gone)",
    ] or passed == [
        "1 dangling link (such as train/a/gone)",
        "1 link to a folder above (such as train/a/up)",
    ]
    (tmp_path / "train/b/9.jpg").symlink_to("nowhere.jpg")
    assert "train/b/9.jpg: a dangling link, to nowhere.jpg: fetch" in refused(tmp_path, "train")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_class_whose_folder_is_a_dangling_link(tmp_path: Path, split: str) -> None:
    """In both splits, where a reader that skips it sees two that agree."""
    for part in ("train", "val"):
        write(tmp_path, f"{part}/a/1.jpg", f"{part}/b/1.jpg")
        (tmp_path / part / "emu").symlink_to("nowhere")
    wanted = f"{split}/emu: a class folder that is a dangling link, to nowhere: repair or remove it"
    assert wanted in refused(tmp_path, split)
    findings = Findings(tmp_path, keep_faults=True)
    load("folders", tmp_path, split, findings=findings)
    assert [path.name for path, _ in findings.faults] == ["emu"]


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train", "val"),
        ("Training", "Validation"),
        ("train", "valid"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("training_set/training_set", "test_set/test_set"),
        ("train/images", "val/images"),
        ("flowers/train", "flowers/val"),
        ("ILSVRC/Data/CLS-LOC/train", "ILSVRC/Data/CLS-LOC/val"),
        ("TRAIN", "TEST"),
    ],
)
def test_names_of_splits(tmp_path: Path, train: str, val: str) -> None:
    write(tmp_path, *(f"{train}/{name}/{n}.jpg" for name in "ab" for n in "123"))
    write(tmp_path, *(f"{val}/{name}/{n}.jpg" for name in "ab" for n in "45"))
    assert {path: path.split("/")[-2] for path in read(tmp_path, "train")[0]} == read(
        tmp_path, "train", split_by=0.2
    )[0]
    assert sorted(read(tmp_path, "train")[0]) == [
        f"{train}/{c}/{n}.jpg" for c in "ab" for n in "123"
    ]
    assert sorted(read(tmp_path, "val")[0]) == [f"{val}/{c}/{n}.jpg" for c in "ab" for n in "45"]


def test_two_folders_of_one_split(tmp_path: Path) -> None:
    write(tmp_path, "Training/a/1.jpg", "train_images/a/1.jpg")
    assert "two folders of train images, Training and train_images" in refused(tmp_path, "train")
    write(tmp_path, "train/a/1.jpg")
    assert list(read(tmp_path, "train")[0]) == ["train/a/1.jpg"]


IMAGENET = "ILSVRC2012_val_0000000"


@pytest.mark.parametrize("below", ["", "ILSVRC/Data/CLS-LOC/"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_imagenet_as_kaggle_has_it(tmp_path: Path, below: str, encoding: str, end: str) -> None:
    write(tmp_path, f"{below}train/n01/n01_1.JPEG", f"{below}train/n02/n02_1.JPEG")
    write(tmp_path, *(f"{below}val/{IMAGENET}{n}.JPEG" for n in "123"))
    write(tmp_path, f"{below}test/ILSVRC2012_test_00000001.JPEG")
    lines = [
        "ImageId,PredictionString",
        f"{IMAGENET}1,n02 1 2 30 40",
        f"{IMAGENET}3,n01 1 2 30 40 n01 5 6 70 80",
        f"{IMAGENET}2,n02 1 2 30 40",
        "",
    ]
    (tmp_path / "LOC_val_solution.csv").write_bytes(end.join(lines).encode(encoding))
    assert read(tmp_path, "val")[0] == {
        f"{below}val/{IMAGENET}{n}.JPEG": wnid
        for n, wnid in zip("132", ("n02", "n01", "n02"), strict=True)
    }
    assert len(read(tmp_path, "train", split_by=0.5)[0]) == 2  # nothing is split off


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("val.csv", "image,label\n1.jpg,a\n2.jpg,b\n"),
        ("val_labels.csv", "filename,extra,class\nval/1.jpg,7,a\nval/2.jpg,8,b\n"),
        ("val/labels.txt", "1.jpg a\n2.jpg b\n"),
        ("val.csv", "1.jpg a\n2.jpg b\n"),
        ("val/val_annotations.txt", "1.jpg\ta\t0\t0\n2.jpg\tb\t0\t0\n"),
        ("valid.tsv", "id\tspecies\n1\ta\n2\tb\n"),
        ("Validation_Map.txt", "fname;klass\n1;a\n2;b\n"),
        ("labels.csv", '"1.jpg","a"\n"2.jpg","b"\n'),
    ],
)
def test_lists_of_classes(tmp_path: Path, name: str, text: str) -> None:
    write(tmp_path, "train/a/3.jpg", "train/b/3.jpg", "val/1.jpg", "val/2.jpg")
    (tmp_path / name).write_text(text)
    assert read(tmp_path, "val")[0] == {"val/1.jpg": "a", "val/2.jpg": "b"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "val holds 2 images in no class folder, and no list of classes is beside it"),
        ("id,label\n1,a\n", "val/2.jpg: "),
        ("id,label\n1,a\n2,c\n", "line 3: 2.jpg has the class 'c', which "),
        ("id,label\n1,a\n2,\n", "line 3: 2.jpg has the class '', which "),
        ("id,label\n1,a\n1,b\n2,b\n", "line 3: the image '1.jpg' came before"),
        ("id,label\n1,a\n7,b\n2,b\n", "line 3: the image '7' is not in "),
        ("id,label\n1,0\n2,1\n", "numbers (0) where the training images have class names (a)"),
        ("id,label\n7,a\n8,b\n", "val.csv names none of the images"),
        ("id,label\n1,a\n2,a\n", "val.csv: names no image of the class b"),
    ],
)
def test_flat_validation_images_that_lack_classes(
    tmp_path: Path, text: str | None, reason: str
) -> None:
    write(tmp_path, "train/a/3.jpg", "train/b/3.jpg", "val/1.jpg", "val/2.jpg")
    if text is not None:
        (tmp_path / "val.csv").write_text(text)
    for share in (None, 0.2):
        assert reason in refused(tmp_path, "val", split_by=share)


def test_cifar_as_kaggle_has_it(tmp_path: Path) -> None:
    write(tmp_path, *(f"train/{n}.png" for n in range(1, 41)), "test/1.png")
    labels = "".join(f"{n},{'frog' if n % 4 else 'ship'}\r\n" for n in range(1, 41))
    (tmp_path / "trainLabels.csv").write_bytes(b"id,label\r\n" + labels.encode())
    pairs = read(tmp_path, "train")[0]
    assert pairs == {f"train/{n}.png": "frog" if n % 4 else "ship" for n in range(1, 41)}
    parts = [read(tmp_path, split, split_by=0.2)[0] for split in ("train", "val")]
    assert {**parts[0], **parts[1]} == pairs and len(parts[0]) + len(parts[1]) == 40
    data = load("cifar10", tmp_path, "train", split_by=0.2)
    assert len(data.classes) == 10 and data.classes[int(data.labels[0])] == "frog"


@pytest.mark.parametrize("inner", ["", "images/"])
@pytest.mark.parametrize("train_inner", ["", "images/"])
@pytest.mark.parametrize("kind", ["tiny-imagenet", "imagenet", "folders"])
def test_restructured_tiny_imagenet(
    tmp_path: Path, inner: str, train_inner: str, kind: str
) -> None:
    for wnid in ("n01", "n02"):
        write(
            tmp_path, f"train/{wnid}/{train_inner}{wnid}_1.JPEG", f"train/{wnid}/{wnid}_boxes.txt"
        )
        write(tmp_path, f"val/{wnid}/{inner}val_{wnid}.JPEG")
    (tmp_path / "val/val_annotations.txt").write_text("val_n01.JPEG\tn01\nval_n02.JPEG\tn02\n")
    for split in ("train", "val"):
        data = load(kind, tmp_path, split)  # type: ignore[arg-type]
        assert data.classes == ("n01", "n02") and data.labels.tolist() == [0, 1]
    (tmp_path / "val/images").mkdir()
    for wnid in ("n01", "n02"):
        (tmp_path / "val" / wnid).rename(tmp_path / "val/images" / wnid)
    assert load(kind, tmp_path, "val").labels.tolist() == [0, 1]  # type: ignore[arg-type]


def test_no_validation_images(tmp_path: Path) -> None:
    write(tmp_path, *(f"{name}/{n}.jpg" for name in "abc" for n in range(50)), "c/only.jpg")
    whole = read(tmp_path, "train")[0]  # class folders alone
    assert whole == {path: path[0] for path in whole} and len(whole) == 151
    assert "--images.held-out N" in refused(tmp_path, "val")
    train, val = (read(tmp_path, split, split_by=0.2)[0] for split in ("train", "val"))
    assert not train.keys() & val.keys() and {**train, **val} == whole
    assert 18 <= len(val) <= 42  # 30 +- 5 of 151
    write(tmp_path, *(f"{name}/more{n}.jpg" for name in "abc" for n in range(50)))
    later = read(tmp_path, "val", split_by=0.2)[0]
    assert {path for path in later if "more" not in path} == set(val)  # stable as images come


@pytest.mark.parametrize("around", ["", "flowers/", "images/"])
def test_class_folders_alone_in_a_folder(tmp_path: Path, around: str) -> None:
    write(tmp_path, f"{around}a/1.jpg", f"{around}a/more/2.jpg", f"{around}b/1.jpg")
    (tmp_path / "LICENSE.txt").touch()
    assert list(read(tmp_path, "train")[0].values()) == ["a", "a", "b"]


def test_neither_side_lacks_a_class(tmp_path: Path) -> None:
    write(tmp_path, *(f"train/c{n:02}/{image}.jpg" for n in range(40) for image in "12"))
    write(tmp_path, "train/single/1.jpg")
    train, val = (read(tmp_path, split, split_by=0.2)[0] for split in ("train", "val"))
    assert sorted(train.values()) == [*(f"c{n:02}" for n in range(40)), "single"]
    assert sorted(val.values()) == [f"c{n:02}" for n in range(40)]


def test_one_image_a_class(tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "train/c/1.jpg")
    for split in ("train", "val"):
        assert "no class has two images" in refused(tmp_path, split, split_by=0.2)


@pytest.mark.parametrize("test", ["test/1.jpg", "test/unknown.csv", "Testing/images/1.jpg"])
def test_what_is_not_used_is_not_checked(tmp_path: Path, test: str) -> None:
    write(tmp_path, *(f"train/{name}/{n}.jpg" for name in "ab" for n in "1234"), test)
    assert len(read(tmp_path, "train")[0]) == 8
    assert len(read(tmp_path, "train", split_by=0.25)[0]) < 8


def test_tars_of_the_classes(tmp_path: Path) -> None:
    for name in ("n01440764", "n01443537"):
        write(tmp_path, f"train/{name}.tar")
    assert "&& tar xf $f" in refused(tmp_path, "train").replace("; do mkdir ${f%.tar}", "")
    (tmp_path / "train/n01440764.tar").rename(tmp_path / "train/other.tar")
    assert f"make_shards.py --index {tmp_path}/train" in refused(tmp_path, "train")
    write(tmp_path / "b", "0.tar")
    message = refused(tmp_path / "b", "train")
    assert "\n" not in message and f"make_shards.py --index {tmp_path}/b/train" in message


def test_a_folder_that_cannot_be_listed_or_is_none(tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "none", "train")
    (tmp_path / "file").write_text("")
    assert "it is a file" in refused(tmp_path / "file", "train")


def test_names_are_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "train/a\n\x1b[31m/1.jpg", "train/b/1.jpg", "val/b/1.jpg", "train/b/\x07.tif")
    message = refused(tmp_path, "val")
    assert "class a\\n\\x1b[31m is in" in message and "\x1b" not in message
    assert "\x07" not in " ".join(read(tmp_path, "train")[1])


@pytest.mark.parametrize("one", ["1", "1.0"])
def test_a_list_with_a_column_per_class(tmp_path: Path, one: str) -> None:
    """As competitions of plant diseases and skin lesions have it."""
    names = [f"{number}.jpg" for number in range(6)]
    write(tmp_path, *(f"train/{name}" for name in names))
    lines = ["image_id,healthy,rust,scab"]
    for number, name in enumerate(names):
        marks = [one if number % 3 == at else one.replace("1", "0") for at in range(3)]
        lines.append(",".join([name, *marks]))
    (tmp_path / "train.csv").write_text("\n".join(lines))
    pairs, _ = read(tmp_path, "train")
    classes = ("healthy", "rust", "scab")
    assert pairs == {f"train/{name}": classes[at % 3] for at, name in enumerate(names)}
    (tmp_path / "train.csv").write_text("\n".join([*lines[:-1], f"5.jpg,{one},{one},0"]))
    assert "5.jpg has the class ''" in refused(tmp_path, "train")


def test_an_archive_of_cifar_wants_its_name(tmp_path: Path) -> None:
    archive = tmp_path / "cifar-100-python.tar.gz"
    archive.write_bytes(b"\x1f\x8b")
    told = refused(archive, "train")
    assert told.startswith(f"{archive} can be read as it is")
    assert "verify --dataset cifar100, or train --images.dataset cifar100" in told


def test_roboflows_list_of_classes(tmp_path: Path) -> None:
    write(tmp_path, "train/1.jpg", "train/2.jpg", "valid/3.jpg", "valid/4.jpg")
    for split, numbers in (("train", "12"), ("valid", "34")):
        lines = [f"{n}.jpg, {m}, {1 - m}" for m, n in enumerate(numbers)]
        text = "\n".join(["filename, ant, bee", *lines])
        (tmp_path / split / "_classes.csv").write_text(text)
    assert read(tmp_path, "train")[0] == {"train/1.jpg": "bee", "train/2.jpg": "ant"}
    assert read(tmp_path, "val")[0] == {"valid/3.jpg": "bee", "valid/4.jpg": "ant"}


@pytest.mark.parametrize(
    ("here", "there", "told"),
    [("Cat", "cat", "'Cat' for 'cat'"), ("\u00e9", "e\u0301", r"'\xe9' for 'e\u0301'")],
)
def test_the_same_class_written_otherwise(tmp_path: Path, here: str, there: str, told: str) -> None:
    write(tmp_path, f"train/{here}/1.jpg", f"val/{there}/2.jpg", "train/b/1.jpg", "val/b/2.jpg")
    assert f"but not in {tmp_path}/train, but {told} (1 such" in refused(tmp_path, "val")
    findings = Findings(tmp_path, keep_faults=True)
    class_folders(tmp_path, "val", findings)
    assert [f", but {told}: add it there" in text for _, text in findings.faults] == [True, False]


def test_imagenets_archives_are_no_shards(tmp_path: Path) -> None:
    (tmp_path / "ILSVRC2012_img_train.tar").touch()
    message = refused(tmp_path, "train")
    assert "archives as published: unpack them" in message and "ImageNet(" in message
    assert "make_shards" not in message


@pytest.mark.parametrize("titles", ["image,label\n", ""])
def test_lists_that_split_one_folder(tmp_path: Path, titles: str) -> None:
    write(tmp_path, *(f"images/{number}.jpg" for number in range(6)))
    (tmp_path / "train.csv").write_text(f"{titles}0.jpg,a\n1.jpg,b\n2.jpg,a\n")
    (tmp_path / "val.csv").write_text(f"{titles}3.jpg,a\n4.jpg,b\n")
    assert "images/5.jpg: " in refused(tmp_path, "train")  # no list names it
    (tmp_path / "images" / "5.jpg").unlink()
    # The lists say what validates: no share of the training images does.
    for share in (None, 0.5):
        train, _ = read(tmp_path, "train", split_by=share)
        assert train == {"images/0.jpg": "a", "images/1.jpg": "b", "images/2.jpg": "a"}
        val, _ = read(tmp_path, "val", split_by=share)
        assert val == {"images/3.jpg": "a", "images/4.jpg": "b"}


def test_a_list_of_test_images_without_classes_is_no_validation(tmp_path: Path) -> None:
    """As competitions have it: these are neither trained on nor a fault."""
    write(tmp_path, *(f"images/{kind}{n}.jpg" for kind in ("Train_", "Test ") for n in range(3)))
    (tmp_path / "train.csv").write_text(
        "image_id,healthy,rust\nTrain_0,1,0\nTrain_1,0,1\nTrain_2,1,0\n"
    )
    (tmp_path / "test.csv").write_text("image_id\nTest 0\nTest 1\nTest 2\n")
    train, _ = read(tmp_path, "train")
    assert train == {
        "images/Train_0.jpg": "healthy",
        "images/Train_1.jpg": "rust",
        "images/Train_2.jpg": "healthy",
    }
    assert "no validation images" in refused(tmp_path, "val")


VOC_BOX = "<annotation><object><bndbox><xmin>1</xmin></bndbox></object></annotation>"


@pytest.mark.parametrize(
    ("image", "file", "text"),
    [
        ("JPEGImages/1.jpg", "Annotations/1.xml", VOC_BOX),
        ("VOC2007/JPEGImages/1.jpg", "VOC2007/Annotations/1.xml", VOC_BOX),
        ("train/1.jpg", "train/1.xml", VOC_BOX),
        ("images/train/1.jpg", "labels/train/1.txt", "0 0.5 0.5 0.2 0.2\n"),
        ("train/images/1.jpg", "train/labels/1.txt", "3 0.5 0.5 2e-1 0.2"),
        ("train2017/1.jpg", "annotations/instances_train2017.json", '{"images": []}'),
        ("train/1.jpg", "train/_annotations.coco.json", '{"images": []}'),
    ],
)
def test_boxes_are_for_the_detector(tmp_path: Path, image: str, file: str, text: str) -> None:
    write(tmp_path, image)
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    message = refused(tmp_path, "train")
    assert "boxes for a detector" in message
    assert Path(file).name in message
    assert "python -m detect" in message


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ("meta/train.txt", "a/1\nb/1\n"),  # Food-101
        ("labels/train1.txt", "a/1.jpg\n"),  # DTD
        ("attributes/a.txt", "1 2 3\n"),  # CUB
    ],
)
def test_class_folders_beside_lists_of_their_own(tmp_path: Path, other: str, text: str) -> None:
    write(tmp_path, *(f"images/{name}/{number}.jpg" for name in "ab" for number in range(2)))
    (tmp_path / other).parent.mkdir()
    (tmp_path / other).write_text(text)
    message = refused(tmp_path, "train")
    assert f"{Path(other).parent}/ beside it is not read" in message
    assert f"--data {tmp_path / 'images'}" in message
    pairs, _ = read(tmp_path / "images", "train")  # as it says
    assert set(pairs.values()) == {"a", "b"}


def test_images_beside_annotations_of_their_own(tmp_path: Path) -> None:
    """As Oxford's pets are kept."""
    write(tmp_path, "images/beagle_1.jpg", "images/pug_1.jpg")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "list.txt").write_text("beagle_1 1 2 1\npug_1 2 2 2\n")
    message = refused(tmp_path, "train")
    assert f"put {tmp_path / 'images' / 'train.csv'} there" in message
    assert f"--data {tmp_path / 'images'}" in message
    (tmp_path / "images" / "train.csv").write_text("beagle_1.jpg,beagle\npug_1.jpg,pug\n")
    assert set(read(tmp_path / "images", "train")[0].values()) == {"beagle", "pug"}


@pytest.mark.parametrize("split", ["", "train/"])
@pytest.mark.parametrize("name", ["photos", "pictures", "jpg"])
def test_a_single_class_may_be_called_so(tmp_path: Path, split: str, name: str) -> None:
    write(tmp_path, f"{split}{name}/1.jpg")
    assert read(tmp_path, "train")[0] == {f"{split}{name}/1.jpg": name}


@pytest.mark.parametrize("name", ["labels", "images"])
def test_a_class_may_be_called_so(tmp_path: Path, name: str) -> None:
    write(
        tmp_path, f"train/{name}/1.jpg", "train/other/1.jpg", "val/other/1.jpg", f"val/{name}/1.jpg"
    )
    assert set(read(tmp_path, "train")[0].values()) == {name, "other"}


LABELLED = "file,label\n1.jpg,a\n2.jpg,b\n3.jpg,a\n4.jpg,b\n"


@pytest.mark.parametrize(
    "lists",
    [
        {"labels.csv": f"\n{LABELLED}", "val.csv": "\n\n3.jpg,a\n4.jpg,b\n"},
        {"labels.csv": LABELLED, "val.txt": "3\n4\n"},
        {"labels.csv": LABELLED, "dev.txt": "3\n4\n"},
        {"TrainSet.csv": "1.jpg,a\n2.jpg,b\n", "valset_labels.csv": "3.jpg,a\n4.jpg,b\n"},
        {"labels.csv": LABELLED, "train.txt": "1\n2\n", "validation.csv": "file\n3.jpg\n4.jpg\n"},
        {
            "labels.csv": "file,label,split\n1.jpg,a,train\n2.jpg,b,Train\n3.jpg,a,valid\n"
            "4.jpg,b,val\n"
        },
        {"metadata.csv": "subset;name;class\ntraining;1;a\ntraining;2;b\ndev;3;a\ndev;4;b\n"},
        {"metadata.csv": "name,class,usage\n1,a,train\n2,b,train\n3,a,val\n4,b,val\n"},
        {"train.csv": "name,class,split\n1,a,train\n2,b,train\n3,a,val\n4,b,val\n"},
        {"labels.csv": LABELLED, "splits.csv": "1.jpg,train\n2.jpg,train\n3.jpg,val\n4.jpg,val\n"},
        {"labels.csv": LABELLED, "metadata.csv": "file,set\n1,train\n2,train\n3,val\n4,val\n"},
        {
            "labels.csv": "id,file,label\n0,1.jpg,a\n1,2.jpg,b\n2,3.jpg,a\n3,4.jpg,b\n",
            "val.txt": "3\n4\n",
        },
    ],
)
def test_images_in_one_folder_are_split_by_lists(tmp_path: Path, lists: dict[str, str]) -> None:
    write(tmp_path, *(f"images/{number}.jpg" for number in range(1, 5)))
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
    assert read(tmp_path, "train")[0] == {"images/1.jpg": "a", "images/2.jpg": "b"}
    assert read(tmp_path, "val")[0] == {"images/3.jpg": "a", "images/4.jpg": "b"}


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"labels.csv": LABELLED, "train.txt": "1\n2\n5\n", "val.txt": "3\n"}, "image '5' is not"),
        ({"labels.csv": LABELLED, "train.txt": "1\n2\n", "val.txt": "3\n6\n"}, "image '6' is not"),
        ({"labels.csv": LABELLED, "splits.csv": "1,train\n2,val\n3,val\n"}, "such as 4.jpg: add"),
        (
            {"metadata.csv": "file,split\n1.jpg,train\n2.jpg,val\n"},
            "says the class of none of them",
        ),
        ({"labels.csv": "\n\nfoto,width,art\n1.jpg,40,a\n2.jpg,50,b\n"}, "add a column label"),
    ],
)
def test_lists_that_leave_something_open(
    tmp_path: Path, lists: dict[str, str], message: str
) -> None:
    write(tmp_path, *(f"images/{number}.jpg" for number in range(1, 5)))
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
    for split in ("train", "val"):
        with pytest.raises(InputError, match=re.escape(message)):
            read(tmp_path, split)


@pytest.mark.parametrize("table", ["labels.csv", "train.csv", "images/labels.csv"])
def test_lists_that_contradict_each_other(tmp_path: Path, table: str) -> None:
    write(tmp_path, *(f"images/{number}.jpg" for number in range(1, 5)))
    (tmp_path / table).write_text(LABELLED)
    other = tmp_path / ("metadata.csv" if table == "labels.csv" else "labels.csv")
    other.write_text("file,species\n1.jpg,x\n2.jpg,y\n")  # of something else
    assert read(tmp_path, "train")[0]["images/1.jpg"] == "a"
    other.write_text(LABELLED.replace("2.jpg,b", "2.jpg,a"))
    message = (
        rf"{other.name}, line 3, has the class 'a' for 2.jpg, but .*{table} 'b': correct either"
    )
    with pytest.raises(InputError, match=message):
        read(tmp_path, "train")


def test_a_list_of_validation_images_that_contradicts_another(tmp_path: Path) -> None:
    write(tmp_path, *(f"images/{number}.jpg" for number in range(1, 5)))
    (tmp_path / "labels.csv").write_text(LABELLED)
    (tmp_path / "val.csv").write_text("3.jpg,b\n4.jpg,a\n")
    with pytest.raises(InputError, match=r"labels.csv, line 4, has the class 'a' for 3.jpg, but"):
        read(tmp_path, "val")


def test_one_list_of_images_in_the_folders_of_splits(tmp_path: Path) -> None:
    write(tmp_path, "train/1.jpg", "train/2.jpg", "val/3.jpg", "val/4.jpg")
    (tmp_path / "labels.csv").write_text(LABELLED)
    assert read(tmp_path, "train")[0] == {"train/1.jpg": "a", "train/2.jpg": "b"}
    assert read(tmp_path, "val")[0] == {"val/3.jpg": "a", "val/4.jpg": "b"}
    (tmp_path / "labels.csv").write_text(
        "file,label,split\n1.jpg,a,val\n2.jpg,b,train\n3.jpg,a,val\n4.jpg,b,val\n"
    )
    with pytest.raises(InputError, match=r"has the split val for 1\.jpg, which is in .*train"):
        read(tmp_path, "train")


def test_a_column_splits_the_folder_train(tmp_path: Path) -> None:
    write(tmp_path, *(f"train/{number}.jpg" for number in range(1, 5)), "test/9.jpg")
    (tmp_path / "labels.csv").write_text(
        "file,label,split\n1.jpg,a,train\n2.jpg,b,train\n3.jpg,a,val\n4.jpg,b,val\n9.jpg,a,test\n"
    )
    assert read(tmp_path, "train")[0] == {"train/1.jpg": "a", "train/2.jpg": "b"}
    assert read(tmp_path, "val")[0] == {"train/3.jpg": "a", "train/4.jpg": "b"}


@pytest.mark.parametrize("folder", ["", "images/"])
@pytest.mark.parametrize(
    ("name", "text"),
    [("val.csv", "a/2.jpg\nb/4.jpg\n"), ("splits.csv", "1,train\n2,val\n3,train\n4,val\n")],
)
def test_lists_beside_class_folders_are_not_passed_over(
    tmp_path: Path, folder: str, name: str, text: str
) -> None:
    write(tmp_path, *(f"{folder}{image}.jpg" for image in ("a/1", "a/2", "b/3", "b/4")))
    (tmp_path / "labels.csv").write_text(LABELLED)
    assert len(read(tmp_path, "train")[0]) == 4  # this list says no split
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=r"which images are val images, .* move these into val/"):
        read(tmp_path, "train")


@pytest.mark.parametrize("name", ["train.csv", "val.csv"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty: correct it (one line per image: file name,class), or remove it"),
        (b"file,label\n", "names none of the images: correct it"),
        (b"1.jpg,caf\xe9\n", "is no text in UTF-8 or UTF-16 (byte 9): save it as UTF-8"),
        (b"7,x,1.jpg\n8,x,2.jpg\n", "names none of the images: correct it"),
    ],
)
@pytest.mark.parametrize("beside", [None, "labels.csv"])
def test_a_list_of_a_split_is_not_passed_over(
    tmp_path: Path, name: str, content: bytes, reason: str, beside: str | None
) -> None:
    write(tmp_path, *(f"images/{number}.jpg" for number in range(1, 5)))
    (tmp_path / (beside or "train.csv")).write_text(LABELLED)
    (tmp_path / name).write_bytes(content)
    for split in ("train", "val"):
        assert f"{tmp_path / name} {reason}" in refused(tmp_path, split)


@pytest.mark.parametrize("state", ["0", "", "query"])
def test_a_column_of_splits_says_which(tmp_path: Path, state: str) -> None:
    write(tmp_path, *(f"images/{number}.jpg" for number in range(1, 4)))
    text = f"file,label,split\n1.jpg,a,train\n2.jpg,b,{state}\n3.jpg,b,val\n"
    (tmp_path / "labels.csv").write_text(text)
    assert refused(tmp_path, "train") == (
        f"{tmp_path / 'labels.csv'}, line 3, has the split {state!r}: write train, val or test, or "
        "call the column something else"
    )


def test_images_that_no_list_of_a_split_names(tmp_path: Path) -> None:
    """They are left out where the training images have a list, of names alone or with classes."""
    write(tmp_path, *(f"images/{number}.jpg" for number in range(1, 5)))
    (tmp_path / "labels.csv").write_text(LABELLED)
    (tmp_path / "val.txt").write_text("4\n")
    assert list(read(tmp_path, "train")[0]) == ["images/1.jpg", "images/2.jpg", "images/3.jpg"]
    (tmp_path / "train.txt").write_text("1\n2\n")
    assert list(read(tmp_path, "train")[0]) == ["images/1.jpg", "images/2.jpg"]


def test_lists_of_test_images_take_none_from_training(tmp_path: Path) -> None:
    write(tmp_path, *(f"images/{number}.jpg" for number in range(1, 5)))
    (tmp_path / "train.csv").write_text(LABELLED)
    every = [f"images/{number}.jpg" for number in range(1, 5)]
    for text in ("id\n1\n2\n", "id\n7\n8\n", ""):  # some of them, others that are not there, none
        (tmp_path / "test.csv").write_text(text)
        assert list(read(tmp_path, "train")[0]) == every
        assert not has_validation("folders", tmp_path)
