"""Own data through the commands: the same weights from every format, and what is said of them."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import formats
import numpy as np
import pytest
import torch

from common.errors import InputError
from common.runs.checkpoints import load as load_checkpoint
from detect import __main__ as command
from detect.data import heads
from detect.data.dataset import Annotation, LabelledImage
from detect.data.pixels import read_pixels
from detect.data.splits import limit_images

pytestmark = pytest.mark.usefixtures("narrow_bodies")
Run = Callable[..., tuple[int, str, str]]
TINY = (
    "--backbone scratch --detector.train-sizes 64 --detector.test-size 64 --detector.max-size 64 "
    "--detector.fpn-channels 16 --optimization.batch-size 2 --optimization.epochs 1 "
    "--optimization.warmup-steps 1 --workers 0 --device cpu"
).split()
OF_YEARS = ("--train-split", "2024:train", "--val-split", "2024:val")


@pytest.fixture
def train(call_command: Run, tmp_path: Path) -> Run:
    def call(data: Path, *flags: object, out: str = "run") -> tuple[int, str, str]:
        years = OF_YEARS if (data / "VOC2024").is_dir() and "--train-split" not in flags else ()
        arguments = ("--data", data, "--out", tmp_path / out, *years, *TINY, *flags)
        return call_command(command, "train", "toy-retinanet", *arguments)

    return call


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    return formats.write_voc(tmp_path / "devkit", formats.draw_objects())


def lists(devkit: Path, **names: str) -> None:
    for name, ids in names.items():
        path = devkit / f"VOC2024/ImageSets/Main/{name}.txt"
        path.write_text("".join(f"img_{number:0>3}\n" for number in ids.split()))


def rewrite(devkit: Path, change: Callable[[str], str]) -> None:
    for path in (devkit / "VOC2024/Annotations").iterdir():
        path.write_text(change(path.read_text()))


def one_line(text: str) -> str:
    assert text.startswith("error: ") and text.count("\n") == 1, text
    return text


def test_the_same_objects_train_to_the_same_weights_in_every_format(
    train: Run, tmp_path: Path
) -> None:
    objects = formats.draw_objects()
    weights = {}
    for name, write in formats.WRITERS.items():
        code, out, err = train(write(tmp_path / name, objects), out=f"run-{name}")
        assert code == 0, err
        assert "training on 4 images" in out and "validating on 2 images" in out
        weights[name] = load_checkpoint(tmp_path / f"run-{name}" / "last.pt")["model"]
    first = weights.pop("devkit")
    for name, other in weights.items():
        assert all(torch.equal(first[key], other[key]) for key in first), name


def test_without_a_validation_set(train: Run, call_command: Run, tmp_path: Path) -> None:
    root = formats.write_export(tmp_path / "export", formats.draw_objects())
    (root / "ImageSets/Main/val.txt").unlink()
    code, out, err = train(root, "--optimization.epochs", 2)
    assert code == 0, err
    assert "no validation: the data have no set for it (--split-by 0.2 would keep some" in out
    assert not (tmp_path / "run/best.pt").exists()
    assert '"val_' not in (tmp_path / "run/metrics.jsonl").read_text()
    assert "best" not in out and "undefined" not in out and not out.endswith("\n\n")
    code, out, err = call_command(
        *(command, "evaluate", "--run", tmp_path / "run", "--data", root),
        *("--out", tmp_path / "scored", "--device", "cpu", "--workers", 0),
    )
    assert code == 0, err  # of its only set
    assert "of 2 objects" in out
    told = f"warning: {root}: the run was trained on 4 of these 4 images; what is measured on them"
    assert told in " ".join(out.split()) and "train with --split-by to keep some" in out


def test_what_split_by_kept_is_what_is_evaluated(
    train: Run, call_command: Run, tmp_path: Path
) -> None:
    root = formats.write_export(tmp_path / "export", formats.draw_objects())
    (root / "ImageSets/Main/val.txt").unlink()
    code, out, err = train(root, "--split-by", 0.5)
    assert code == 0, err
    kept = int(re.search(r"validating on (\d+) image", out)[1])  # type: ignore[index]
    assert kept < 4 and "--split-by 0.5" in " ".join(out.rpartition("next")[2].split())
    arguments = ("evaluate", "--run", tmp_path / "run", "--data", root, "--workers", 0)
    for split, images in (((), kept), (("--split", "val"), kept), (("--split", "train,val"), 4)):
        scored = tmp_path / f"scored-{len(split)}-{images}"
        code, out, err = call_command(
            command, *arguments, *split, "--out", scored, "--device", "cpu"
        )
        if images == 4:  # both parts are no set of the data as they lie there
            assert code == 2 and "has no set 'val'" in one_line(err)
            continue
        assert code == 0, err
        assert json.loads((scored / "evaluation.json").read_text())["images"] == images
        assert "the run was trained on" not in out
    code, out, err = call_command(
        command, *arguments, "--split", "train", "--out", tmp_path / "t", "--device", "cpu"
    )
    assert code == 0, err
    trained = 4 - kept
    assert f"the run was trained on {trained} of these {trained} images" in " ".join(out.split())


def test_images_trained_on_are_known_again_wherever_they_lie(
    train: Run, call_command: Run, tmp_path: Path
) -> None:
    root = formats.write_export(tmp_path / "export", formats.draw_objects())
    (root / "ImageSets/Main/val.txt").unlink()
    code, out, err = train(root, "--split-by", 0.5)
    assert code == 0, err
    kept = int(re.search(r"validating on (\d+) image", out)[1])  # type: ignore[index]
    listed = (tmp_path / "run/training_images.txt").read_text().splitlines()
    assert len(listed) == 4 - kept and all(re.fullmatch(r"[0-9a-f]{16}  \S+", x) for x in listed)

    moved = root.rename(tmp_path / "moved")
    arguments = ("evaluate", "--run", tmp_path / "run", "--data", moved, "--workers", 0)
    for more, count in (((), 4 - kept), (("--split-by", 0.5), 0)):
        code, out, err = call_command(
            *(command, *arguments, *more, "--out", tmp_path / f"scored-{count}", "--device", "cpu")
        )
        assert code == 0, err
        told = f"the run was trained on {count} of these 4 images"
        assert (told in " ".join(out.split())) == bool(count)
        assert ("--split-by 0.5 leaves them out" in " ".join(out.split())) == bool(count)


def test_sets_that_overlap_are_told_of(train: Run, call_command: Run, tmp_path: Path) -> None:
    root = formats.write_export(tmp_path / "export", formats.draw_objects())
    sets = root / "ImageSets/Main"
    both = (sets / "train.txt").read_text() + (sets / "val.txt").read_text()
    (sets / "everything.txt").write_text(both)
    code, _, err = train(root)
    assert code == 0, err
    code, out, err = call_command(
        *(command, "evaluate", "--run", tmp_path / "run", "--data", root, "--workers", 0),
        *("--split", "everything", "--out", tmp_path / "scored", "--device", "cpu"),
    )
    assert code == 0, err
    assert "the run was trained on 4 of these 6 images" in " ".join(out.split())


# ---- what is said, and refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda xml: xml.replace("object>", "Object>"), "holds <Object>, which is not <object>"),
        (
            lambda xml: xml.split("<object>")[0] + "</annotation>",
            "nothing to learn: none of its images has an object",
        ),
        (
            lambda xml: xml.replace("<bndbox>", "<difficult>1</difficult><bndbox>"),
            "nothing to learn: all of its objects (6) are marked difficult: unmark them, or train",
        ),
    ],
)
def test_images_that_nothing_can_be_learnt_from(
    train: Run, devkit: Path, change: Callable[[str], str], told: str
) -> None:
    rewrite(devkit, change)
    code, _, err = train(devkit)
    assert code == 2
    assert told in one_line(err)


def test_difficult_objects_alone_can_be_trained_on(train: Run, devkit: Path) -> None:
    rewrite(devkit, lambda xml: xml.replace("<bndbox>", "<difficult>1</difficult><bndbox>"))
    code, out, err = train(devkit, "--difficult", "--dry-run")
    assert code == 0, err
    assert out.count("6 of them difficult") == 1


def test_what_is_odd_is_said_once(train: Run, devkit: Path) -> None:
    (devkit / "classes.txt").write_text("helmet\nvest\nhead gear\ngloves\n")
    rewrite(devkit, lambda xml: xml.replace("<xmin>1<", "<xmin>0<"))
    lists(devkit, train="0 1 2 3", val="3 4")
    code, out, err = train(devkit, "--dry-run")
    assert code == 0, err
    for told in (
        "warning: no training image has an object of gloves: none can be found",
        "warning: training images among the 2 validation images: 1;",
        "warning: 2 of 6 boxes begin at 0 and 0 have decimals, so they look counted from 0: add "
        "--coordinates zero-based",
    ):
        assert out.count(told) == 1, told


def test_boxes_over_the_edge_are_cut_in_training_and_scored_as_they_are(
    train: Run, call_command: Run, devkit: Path, tmp_path: Path
) -> None:
    lists(devkit, train="0 1 2 3", val="4 5")
    rewrite(devkit, lambda xml: re.sub(r"<xmin>\d+<", "<xmin>-9<", xml, count=1))
    code, out, err = train(devkit)
    assert code == 0, err
    assert out.count("reach over the edge of their image, cut there: 4; verify names them") == 1
    text = (devkit / "VOC2024/Annotations/img_004.xml").read_text()
    box = [re.search(rf"<{side}>(.*?)<", text)[1] for side in ("xmin", "ymin", "xmax", "ymax")]
    (tmp_path / "dets").mkdir()
    for name in formats.CLASSES:
        (tmp_path / f"dets/comp4_det_test_{name}.txt").touch()
    (tmp_path / "dets/comp4_det_test_helmet.txt").write_text(f"img_004 0.9 {' '.join(box)}\n")
    code, _, err = call_command(
        *(command, "score", "--detections", tmp_path / "dets", "--data", devkit),
        *("--split", "2024:val", "--out", tmp_path / "scored", "--iou", "0.999"),
    )
    assert code == 0, err
    metrics = json.loads((tmp_path / "scored/metrics.json").read_text())
    assert metrics["voc"]["per_class"]["helmet"]["ap_area"] == 1.0


def test_no_validation_because_none_was_asked_for(train: Run, devkit: Path) -> None:
    code, out, err = train(devkit, "--val-split", "none")
    assert code == 0, err
    assert "no validation: none was asked for" in out


def test_limit_images_trains_and_validates_on_so_many(train: Run, tmp_path: Path) -> None:
    objects = formats.draw_objects(12)
    root = formats.write_export(tmp_path / "export", objects)
    code, out, err = train(root, "--limit-images", 3, "--split-by", "0.5")
    assert code == 2 and "--split-by" in one_line(err)
    code, out, err = train(root, "--limit-images", 3)
    assert code == 0, err
    assert "training on 3 images of train" in out and "validating on 2 images" in out
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    assert environment["train_images"] == 3
    code, out, err = train(root, "--limit-images", 1, out="one")
    assert code == 0, err
    assert "validating on 1 image " in out


def test_the_same_images_are_kept_and_every_class_with_them() -> None:
    def image(number: int, label: int) -> LabelledImage:
        box, hard = np.array([[1.0, 1, 9, 9]]), np.zeros(1, bool)
        annotation = Annotation(str(number), 10, 10, box, np.array([label]), hard)
        return LabelledImage(Path(f"{number}.jpg"), annotation)

    images = [image(n, 2 if n == 77 else n % 2) for n in range(100)]
    kept = limit_images(images, 10, 3)
    assert len(kept) == 10
    assert {int(i.annotation.labels[0]) for i in kept} == {0, 1, 2}
    again = limit_images(images[::-1], 10, 3)
    ids = [int(i.annotation.image_id) for i in kept]
    assert ids == sorted(ids) == sorted(int(i.annotation.image_id) for i in again)
    assert limit_images(images, None, 3) == limit_images(images, 100, 3) == images


def test_a_copy_of_a_training_image_validates(train: Run, devkit: Path) -> None:
    folder = devkit / "VOC2024/JPEGImages"
    shutil.copy(folder / "img_000.jpg", folder / "img_004.jpg")
    code, out, err = train(devkit, "--dry-run")
    assert code == 0, err
    assert "warning: training images among the 2 validation images: 1;" in out


@pytest.mark.parametrize("how", ["file", "copy"])
def test_a_picture_of_two_images_is_said(
    train: Run, call_command: Run, tmp_path: Path, how: str
) -> None:
    data = formats.write_coco(tmp_path / "coco", formats.draw_objects())
    path = data / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    name = content["images"][0]["file_name"]
    if how == "copy":
        name = shutil.copy(data / "images" / name, data / "images" / "copy.jpg").name
    content["images"].append({**content["images"][0], "id": 99, "file_name": name})
    path.write_text(json.dumps(content))
    code, out, err = call_command(command, "verify", "--data", data, "--workers", 0)
    assert code == 0, err
    told = "images of train that share their picture with another: 1, such as 99 and 7"
    assert f"warning: {told}" in out
    code, out, err = train(data, "--dry-run")
    assert code == 0, err
    assert "warning: training images that share their picture with another: 1, such as " in out


def test_images_that_begin_alike_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = np.empty((0, 4)), np.empty(0, np.int64), np.empty(0, np.bool_)
    images = []
    for number in range(20):
        path = tmp_path / f"{number}.bmp"
        path.write_bytes(bytes(5000) + (number % 19).to_bytes(1, "big"))
        images.append(LabelledImage(path, Annotation(path.stem, 8, 8, *nothing)))
    read: list[Path] = []
    digest = heads._digest
    monkeypatch.setattr(heads, "_digest", lambda path: (read.append(path), digest(path))[1])
    found = heads.read_heads(images)
    assert heads.count_shared(images[:10], found[:10], images[10:], found[10:]) == 1
    assert sorted(read) == sorted(image.path for image in images)


def test_turned_photos_are_said_once_and_read_upright(train: Run, devkit: Path) -> None:
    path = devkit / "VOC2024/JPEGImages/img_001.jpg"
    upright = cv2.imread(str(path))
    path.write_bytes(formats.oriented(np.rot90(upright).copy(), 6))
    code, out, err = train(devkit)
    assert code == 0, err
    assert out.count("by their EXIF orientation and as they were annotated: 1") == 1
    path.write_bytes(formats.oriented(np.zeros((50, 70, 3), np.uint8), 6))
    code, _, err = train(devkit, out="other")
    assert code == 2
    assert "has 70x50 pixels (EXIF orientation 6: on its side" in one_line(err)
    assert "its annotation says 64x48" in err


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """As a camera stores what stands upright, by the table of the EXIF standard."""
    first_row, first_column = {
        1: ("top", "left"),
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }[orientation]
    if first_row in ("left", "right"):
        pixels = pixels.transpose(1, 0, 2)
    if first_row in ("bottom", "right"):
        pixels = pixels[::-1]
    if first_column in ("bottom", "right"):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_is_turned_to_what_its_annotation_is_of(
    tmp_path: Path, orientation: int
) -> None:
    upright = np.zeros((24, 40, 3), np.uint8)
    upright[:8, :16], upright[16:, 24:] = (255, 0, 0), (0, 255, 0)
    path = tmp_path / "photo.jpg"
    path.write_bytes(formats.oriented(turned(upright, orientation), orientation))
    nothing = np.empty((0, 4)), np.empty(0, np.int64), np.empty(0, np.bool_)
    seen = read_pixels(LabelledImage(path, Annotation("photo", 40, 24, *nothing)))
    assert seen.shape == upright.shape
    assert np.abs(seen.astype(int) - upright[:, :, ::-1]).mean() < 8
    if orientation >= 5:
        stored = read_pixels(LabelledImage(path, Annotation("photo", 24, 40, *nothing)))
        assert stored.shape == (40, 24, 3)
    with pytest.raises(InputError, match="its annotation says 41x24"):
        read_pixels(LabelledImage(path, Annotation("photo", 41, 24, *nothing)))


def test_images_without_objects_stay_unless_asked(train: Run, devkit: Path) -> None:
    code, out, err = train(devkit, "--classes", "helmet", "--dry-run")
    assert code == 0, err
    assert "training on 4 images of 2024:train (2 without objects): helmet 2" in out
    code, out, err = train(devkit, "--classes", "helmet", "--no-empty-images", "--dry-run")
    assert code == 0, err
    assert "training on 2 images of 2024:train (0 without objects): helmet 2" in out
    assert "2 images without objects left out" in out


# ---- resume -------------------------------------------------------------------------------------


def swapped(devkit: Path) -> None:
    (devkit / "classes.txt").write_text("vest\nhelmet\nhead gear\n")


def moved(devkit: Path) -> None:
    rewrite(devkit, lambda xml: xml.replace("<xmax>64<", "<xmax>63<"))


def repainted(devkit: Path) -> None:
    path = devkit / "VOC2024/JPEGImages/img_001.jpg"
    cv2.imwrite(str(path), np.zeros_like(cv2.imread(str(path))))


CHANGES = {
    "classes": (
        swapped,
        "the class list: helmet, vest, head gear then, vest, helmet, head gear now",
    ),
    "objects": (moved, "the annotations of the training images"),
    "images": (lambda devkit: lists(devkit, train="1 0 2 3"), "the training images"),
    "pictures": (
        repainted,
        "the files of the training images, by their sizes",
    ),
    "fewer": (lambda devkit: lists(devkit, train="0 1 2"), "4 images then, 3 now"),
    "validation": (lambda devkit: lists(devkit, val="5 4"), "the validation images"),
}


def test_a_resume_on_other_data_names_what_changed(
    train: Run, devkit: Path, tmp_path: Path
) -> None:
    assert train(devkit)[0] == 0
    for number, (change, told) in enumerate(CHANGES.values()):
        other = Path(shutil.copytree(devkit, tmp_path / f"other-{number}"))
        change(other)
        code, _, err = train(other)
        assert code == 2, told
        assert told in one_line(err) and "give the data as they were" in err
    code, _, err = train(devkit, "--coordinates", "zero-based")
    assert code == 2
    assert "the annotations of the training images" in one_line(err)
    assert train(devkit)[0] == 0


# ---- evaluation ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """A run on two of the three classes, and the same data in two formats."""
    root = tmp_path_factory.mktemp("trained")
    objects = formats.draw_objects()
    written = {name: formats.WRITERS[name](root / name, objects) for name in ("devkit", "coco")}
    arguments = ["--data", str(written["coco"]), "--out", str(root / "run"), *TINY]
    with pytest.MonkeyPatch.context() as patch:
        argv = ["detect", "train", "toy-retinanet", *arguments, "--classes", "vest,helmet"]
        patch.setattr("sys.argv", argv)
        assert command.main() == 0
    return root / "run", written


def test_a_run_is_evaluated_on_the_classes_it_knows(
    trained: tuple[Path, dict[str, Path]], call_command: Run, tmp_path: Path
) -> None:
    run, written = trained
    metrics, firsts = [], []
    for name, split in (("devkit", "2024:val"), ("coco", "val")):
        code, out, err = call_command(
            *(command, "evaluate", "--run", run, "--data", written[name], "--split", split),
            *("--out", tmp_path / name, "--device", "cpu", "--workers", 0),
        )
        assert code == 0, err
        assert "head gear is no class of the run: such objects do not count" in out
        metrics.append(json.loads((tmp_path / name / "metrics.json").read_text())["voc"])
        (line,) = [line for line in out.splitlines() if "VOC mAP" in line]
        firsts.append(line.split()[0])
        facts = json.loads((tmp_path / name / "evaluation.json").read_text())
        assert facts["classes"] == ["vest", "helmet"]
    assert metrics[0] == metrics[1]
    assert list(metrics[0]["per_class"]) == ["vest", "helmet"]
    assert firsts == ["VOC", "COCO"]
    (written["devkit"] / "classes.txt").write_text("helmet\nhead gear\n")
    code, _, err = call_command(
        *(command, "evaluate", "--run", run, "--data", written["devkit"], "--split", "2024:val"),
        *("--out", tmp_path / "none", "--device", "cpu", "--workers", 0),
    )
    assert code == 2
    assert "lacks classes that the run" in one_line(err) and "vest" in err


def test_images_without_annotations_are_detected_on_and_not_scored(
    trained: tuple[Path, dict[str, Path]], call_command: Run, devkit: Path, tmp_path: Path
) -> None:
    shutil.rmtree(devkit / "VOC2024/Annotations")
    code, out, err = call_command(
        *(command, "evaluate", "--run", trained[0], "--data", devkit, "--split", "2024:val"),
        *("--out", tmp_path / "found", "--device", "cpu", "--workers", 0),
    )
    assert code == 0, err
    assert "without annotated objects they are not scored" in out
    assert not (tmp_path / "found/metrics.json").exists()
    code, _, err = call_command(
        *(command, "score", "--detections", tmp_path / "found/detections.json", "--data", devkit),
        *("--split", "2024:val", "--out", tmp_path / "scored"),
    )
    assert code == 2
    assert "training and scoring need: add them" in one_line(err)
