"""`python -m detect`: what a person types and what comes back."""

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import torchvision.models as models
from torchvision.models.resnet import Bottleneck, ResNet

from common.runs import checkpoints
from common.weights.backbone import save_backbone
from detect import __main__ as command
from detect.recipes import RECIPES
from detect.report.drawing import boxes

pytestmark = pytest.mark.usefixtures("narrow_bodies")
Run = Callable[..., tuple[int, str, str]]
TINY = (
    "--detector.train-sizes 64 --detector.test-size 64 --detector.max-size 64 "
    "--detector.fpn-channels 16 --optimization.batch-size 4 --optimization.epochs 1 "
    "--workers 0 --device cpu"
).split()
OBJECT = (
    "<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{0}</xmin><ymin>{1}</ymin>"
    "<xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"
)


@pytest.fixture
def run(call_command: Callable[..., tuple[int, str, str]]) -> Run:
    return partial(call_command, command)


def write_devkit(root: Path, count: int = 10) -> Path:
    """A devkit of one bright box per image, of one of two classes."""
    rng = np.random.default_rng(0)
    year = root / "VOC2007"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (year / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("disc\nring\n")
    ids = [f"{number:06}" for number in range(count)]
    for number, image_id in enumerate(ids):
        pixels = rng.integers(0, 60, (48, 64, 3), dtype=np.uint8)
        x, y = (int(v) for v in rng.integers(1, 16, 2))
        pixels[y - 1 : y + 24, x - 1 : x + 24] = (255, 255, 0) if number % 2 else (0, 0, 255)
        cv2.imwrite(str(year / "JPEGImages" / f"{image_id}.jpg"), pixels)
        body = OBJECT.format(x, y, x + 24, y + 24, name=("disc", "ring")[number % 2])
        size = "<size><width>64</width><height>48</height><depth>3</depth></size>"
        xml = f"<annotation>{size}{body}</annotation>"
        (year / "Annotations" / f"{image_id}.xml").write_text(xml)
    (year / "ImageSets/Main/trainval.txt").write_text("\n".join(ids[:6]) + "\n")
    (year / "ImageSets/Main/test.txt").write_text("\n".join(ids[6:]) + "\n")
    return root


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_devkit(tmp_path_factory.mktemp("voc") / "VOCdevkit")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backbone") / "resnet18.safetensors"
    weights = models.resnet18(weights=None, num_classes=2).state_dict()
    save_backbone(weights, {"architecture": "resnet18", "recipe_name": "test"}, path)
    return path


@pytest.fixture(scope="module")
def trained(devkit: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "retinanet"
    arguments = ["--backbone", backbone, "--data", devkit, "--out", out, *TINY]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.setattr(sys, "argv", ["detect/__main__.py", "train", "toy-retinanet"])
        sys.argv += map(str, arguments)
        assert command.main() == 0
        *_, epoch, best, _, _, following = printed.getvalue().splitlines()
        assert epoch.split()[0] == "1/1" and epoch.endswith(" best")
        assert best.startswith("best  val mAP 11-pt ")
        # What it says comes next works as it stands.
        words = shlex.split(following.removeprefix("next  python -m detect "))
        patch.setattr(sys, "argv", ["detect/__main__.py", *words, "--device", "cpu"])
        assert command.main() == 0
    assert (out / "test" / "metrics.json").exists()
    return out


def one_line(text: str) -> str:
    assert text.startswith("error: ") and text.count("\n") == 1, text
    return text


def test_a_run_of_a_version_that_did_not_record_the_kind_of_data(
    run: Run, trained: Path, devkit: Path, backbone: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(trained, old, ignore=shutil.ignore_patterns("test"))
    facts = json.loads((old / "environment.json").read_text())
    assert facts.pop("data_kind") == "a VOC devkit"
    (old / "environment.json").write_text(json.dumps(facts))
    words = ("train", "toy-retinanet", "--backbone", backbone, "--data", devkit, "--out", old)
    code, out, err = run(*words, *TINY)
    assert code == 0, err
    assert "--split 2007:test" in out.splitlines()[-1]


def test_list_has_a_line_for_every_recipe(run: Run) -> None:
    code, out, _ = run("list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(RECIPES)


def test_evaluate_and_score_agree_in_both_formats(
    run: Run, devkit: Path, trained: Path, tmp_path: Path
) -> None:
    common = ("--data", devkit, "--split", "2007:test")
    code, out, _ = run(
        *("evaluate", "--run", trained, *common, "--out", tmp_path / "own"),
        *("--device", "cpu", "--workers", 0),
    )
    assert code == 0
    assert "VOC mAP" in out and "warning" not in out
    expected = json.loads((tmp_path / "own/metrics.json").read_text())
    assert set(expected["voc"]["per_class"]) == {"disc", "ring"}
    assert expected["voc"]["per_class"]["disc"]["objects"] == 2
    own = json.loads((tmp_path / "own/evaluation.json").read_text())
    assert own["training"] == str(trained.resolve())
    assert own["latency"]["batch_size"] == 1 and own["latency"]["images"] == 4
    assert 0 < own["latency"]["p50_ms"] <= own["latency"]["p90_ms"]
    assert own["throughput"]["batch_size"] == own["recipe"]["detector"]["test_batch_size"]
    assert own["throughput"]["images_per_second"] == own["images_per_second"] > 0
    assert f"latency p50 {own['latency']['p50_ms']:.4g} ms" in out
    assert json.loads((tmp_path / "own/detections.json").read_text())  # there is what to score
    for name in ("voc", "detections.json"):
        code, _, _ = run(
            *("score", "--detections", tmp_path / "own" / name, *common),
            *("--out", tmp_path / f"again-{name}"),
        )
        assert code == 0
        again = json.loads((tmp_path / f"again-{name}" / "metrics.json").read_text())
        assert again == expected
        facts = json.loads((tmp_path / f"again-{name}" / "evaluation.json").read_text())
        assert facts["data_fingerprint"] == own["data_fingerprint"]
        assert facts["latency"] is facts["throughput"] is facts["training"] is None


@pytest.mark.parametrize("split", ["2007:test", "2007:x"])
def test_the_best_checkpoint_where_it_was_chosen(
    run: Run, devkit: Path, trained: Path, tmp_path: Path, split: str
) -> None:
    shutil.copytree(devkit, other := tmp_path / "VOCdevkit")
    for data in (devkit, other):  # another set of these data, and data that are others
        listed = data / "VOC2007/ImageSets/Main"
        shutil.copy(listed / "test.txt", listed / "x.txt")
        code, out, err = run(
            *("evaluate", "--run", trained, "--data", data, "--split", split),
            *("--checkpoint", "best", "--out", tmp_path / data.parent.name),
            *("--device", "cpu", "--workers", 0),
        )
        (listed / "x.txt").unlink()
        assert code == 0, err
        told = f"warning: {data}: best.pt was chosen by its score on 2007:test, so that score "
        assert (told in out) == (data == devkit and split == "2007:test")


def test_report_of_two_folders(run: Run, devkit: Path, trained: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(
            *("evaluate", "--run", trained, "--data", devkit, "--split", "2007:test"),
            *("--out", tmp_path / name, "--device", "cpu", "--workers", 0),
        )
    code, out, _ = run("report", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "report.html")
    assert code == 0
    assert "toy-retinanet" in (tmp_path / "report.html").read_text()
    assert "| disc" in (tmp_path / "report.md").read_text()


def test_dry_run_leaves_nothing(run: Run, devkit: Path, backbone: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "dry"
    code, printed, _ = run(
        *("train", "toy-retinanet", "--backbone", backbone, "--data", devkit, "--out", out),
        *(*TINY, "--dry-run"),
    )
    assert code == 0
    assert "nothing is kept" in printed
    assert list((tmp_path / "runs").iterdir()) == []


def test_help_has_groups_defaults_and_an_example(run: Run) -> None:
    code, out, _ = run("train", "voc-retinanet-paper", "--help")
    assert code == 0
    for text in ("detector options", "optimization options", "example:", "2007:trainval"):
        assert text in out


@pytest.fixture
def train(run: Run, devkit: Path, backbone: Path, tmp_path: Path) -> Run:
    def call(**changed: object) -> tuple[int, str, str]:
        given = {"backbone": backbone, "data": devkit, "out": tmp_path / "run"} | changed
        flags = [text for name, value in given.items() for text in (f"--{name}", value)]
        return run("train", "toy-retinanet", *flags, *TINY)

    return call


def test_a_backbone_of_another_architecture(train: Run, tmp_path: Path) -> None:
    path = tmp_path / "r50.safetensors"
    weights = ResNet(Bottleneck, [3, 4, 6, 3]).state_dict()  # as wide as others know it
    save_backbone(weights, {"architecture": "resnet50"}, path)
    code, _, err = train(backbone=path)
    assert code == 2
    assert "resnet50" in one_line(err) and str(path) in err and "--body" in err
    path.with_suffix(".json").unlink()  # without a card the keys tell
    code, _, err = train(backbone=path)
    assert code == 2
    assert "is a resnet50" in one_line(err) and "--body resnet50" in err


def test_a_missing_backbone(train: Run, tmp_path: Path) -> None:
    code, _, err = train(backbone=tmp_path / "none.safetensors")
    assert code == 2
    assert "none.safetensors" in one_line(err)


def test_a_missing_data_folder_shows_both_trees(train: Run, tmp_path: Path) -> None:
    (tmp_path / "empty" / "VOC2007" / "JPEG").mkdir(parents=True)
    code, _, err = train(data=tmp_path / "empty")
    assert code == 2
    assert err.startswith("error: ")
    assert "ImageSets/" in err and "JPEG/" in err


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<name>disc</name>", "<name>cube</name>", ["cube"]),
        ("<xmax>", "<xmax>-", ["object 1"]),
    ],
)
def test_a_bad_object_is_named(
    train: Run, tmp_path: Path, old: str, new: str, words: list[str]
) -> None:
    data = write_devkit(tmp_path / "VOCdevkit")
    bad = data / "VOC2007" / "Annotations" / "000002.xml"
    text = bad.read_text()
    assert old in text
    bad.write_text(text.replace(old, new))
    code, _, err = train(data=data)
    assert code == 2
    for word in (str(bad), *words):
        assert word in one_line(err)


def test_a_truncated_image_is_named(train: Run, tmp_path: Path) -> None:
    data = write_devkit(tmp_path / "VOCdevkit")
    bad = data / "VOC2007" / "JPEGImages" / "000001.jpg"
    bad.write_bytes(bad.read_bytes()[:-100])
    code, _, err = train(data=data)
    assert code == 2
    assert str(bad) in one_line(err)


def test_detections_in_an_unknown_image(run: Run, devkit: Path, tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(
        '[{"image_id": 999, "category_id": 1, "bbox": [1, 1, 5, 5], "score": 0.5}]'
    )
    code, _, err = run(
        *("score", "--detections", tmp_path / "d.json", "--data", devkit),
        *("--split", "2007:test", "--out", tmp_path / "scored"),
    )
    assert code == 2
    assert "d.json" in one_line(err) and "999" in err


def test_another_backbone_of_the_same_name_is_another_run(
    train: Run, trained: Path, backbone: Path, tmp_path: Path
) -> None:
    other = tmp_path / backbone.name
    weights = models.resnet18(weights=None, num_classes=2).state_dict()
    weights["conv1.weight"] += 1
    save_backbone(weights, {"architecture": "resnet18"}, other)
    before = (trained / "environment.json").read_bytes()
    code, _, err = train(out=trained, backbone=other)
    assert code == 2
    assert "another run (backbone" in one_line(err)
    assert (trained / "environment.json").read_bytes() == before


def test_a_card_of_other_weights(train: Run, backbone: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_backbone(models.resnet18(weights=None).state_dict(), {}, other)
    other.with_suffix(".json").write_bytes(backbone.with_suffix(".json").read_bytes())
    code, _, err = train(backbone=other)
    assert code == 2
    assert "card of other weights" in one_line(err)


def test_an_image_that_does_not_fit_its_annotation(train: Run, tmp_path: Path) -> None:
    data = write_devkit(tmp_path / "VOCdevkit")
    path = data / "VOC2007" / "JPEGImages" / "000003.jpg"
    cv2.imwrite(str(path), np.zeros((60, 90, 3), np.uint8))
    code, _, err = train(data=data)
    assert code == 2
    assert str(path) in one_line(err)
    assert "90x60" in err and "64x48" in err


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--detector.train-sizes", "0"),
        ("--detector.nms-iou", "7"),
        ("--detector.trainable-stages", "-1"),
        ("--augmentation.flip", "2"),
        ("--optimization.clip-norm", "-1"),
        ("--optimization.lr", "inf"),
        ("--workers", "-1"),
    ],
)
def test_a_number_out_of_range(run: Run, flag: str, value: str) -> None:
    code, _, err = run("train", "voc-retinanet-paper", "--print-config", flag, value)
    assert code == 2
    assert flag.split(".")[-1].strip("-").replace("-", "_") in one_line(err)


def test_evaluate_with_less_than_no_workers(run: Run, tmp_path: Path) -> None:
    places = ("--run", tmp_path, "--data", tmp_path, "--out", tmp_path)
    code, _, err = run("evaluate", *places, "--workers", "-1")
    assert code == 2 and one_line(err).startswith("error: workers must be at least 0, not -1; ")


@pytest.mark.parametrize(
    "pixels",
    [
        "0.5",
        [0.5],
        {"mean": [0.5], "std": [1, 1, 1]},
        {"mean": 1},
        {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0, 0.2]},
    ],
)
def test_a_card_without_pixel_statistics(
    train: Run, backbone: Path, tmp_path: Path, pixels: object
) -> None:
    for file in (backbone, backbone.with_suffix(".json")):
        shutil.copy(file, tmp_path / file.name)
    card = tmp_path / backbone.with_suffix(".json").name
    card.write_text(json.dumps(json.loads(card.read_text()) | {"preprocessing": pixels}))
    code, _, err = train(backbone=tmp_path / backbone.name)
    assert code == 2
    assert "lacks mean and std of the pixels" in one_line(err)


def test_trackers_get_sample_pictures_with_boxes(trained: Path) -> None:
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="TensorBoard is optional"
    )
    events = reader.EventAccumulator(str(trained / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert "val/map_11point" in tags["scalars"] and "steps/loss" in tags["scalars"]
    assert tags["images"] == [f"samples/{number:06}" for number in (6, 7, 8, 9)]
    (image,) = events.Images("samples/000006")
    picture = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[1] == 64 * 4  # grown by a whole factor
    outline = np.array(boxes.IGNORED.colour[::-1])
    assert (np.abs(picture.astype(int) - outline) < 8).all(2).sum() > 50  # the object that is there


def test_a_run_is_checked_and_a_changed_weight_is_named(
    train: Run, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert train()[0] == 0
    code, printed, err = run("check", out, "--steps", "0:9")
    assert (code, err) == (0, "")
    assert "taking steps 0 to 2 again, from the start" in printed
    assert "equal: 1 states of steps 2" in printed
    state = checkpoints.load(out / "last.pt")
    state["model"]["head.regression_head.bbox_reg.bias"][0] += 1
    checkpoints.save(state, out / "last.pt")
    description = json.loads((out / "recipe.json").read_text())
    description["recipe"]["optimization"]["lr"] *= 2
    (out / "recipe.json").write_text(json.dumps(description))
    code, _, err = run("check", out, "--steps", "0:9")
    assert (code, err.count("\n")) == (1, 1)
    assert "step 2: model." in err and "not as it was: recipe.json" in err


@pytest.mark.parametrize("metric", ["coco", "voc"])
def test_each_number_of_a_score_is_printed_under_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], metric: str
) -> None:
    """All numbers differ, so that none can stand for another."""
    voc = {"map_11point": 0.11, "map_area": 0.22, "per_class": {}}
    coco = {"ap": 0.33, "ap50": 0.44, "ap75": 0.55}
    analysis = {"intervals": None, "reading": [], "recall": {"differs": []}}
    analysis |= {"label_errors": {}, "against": None}
    (tmp_path / "analysis.json").write_text(json.dumps(analysis))
    (tmp_path / "evaluation.json").write_text(json.dumps({"metric": metric}))
    command._print({"voc": voc, "coco": coco}, tmp_path)
    (line,) = capsys.readouterr().out.splitlines()
    by_voc, more = "VOC mAP 11.00 (11-point), 22.00 (area)", ", AP50 44.00, AP75 55.00"
    shown = f"COCO AP 33.00{more}; {by_voc}" if metric == "coco" else f"{by_voc}; COCO AP 33.00"
    assert line == f"{shown}; written to {tmp_path / 'metrics.json'}"


@pytest.mark.parametrize(
    ("mean", "told"),
    [
        (0.5, "3 candidates for label errors, ranked: {}"),
        (
            0.49,
            "3 candidates for label errors, ranked: {}; at this mAP most are the detector's own",
        ),
    ],
)
def test_a_weak_detector_is_no_second_opinion_on_the_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mean: float, told: str
) -> None:
    voc = {"map_11point": 0.9, "map_area": mean, "per_class": {}}
    analysis = {"intervals": None, "reading": [], "recall": {"differs": []}}
    analysis |= {"label_errors": {"missing": 1, "displaced": 2}, "against": None}
    (tmp_path / "analysis.json").write_text(json.dumps(analysis))
    (tmp_path / "evaluation.json").write_text("{}")
    command._print({"voc": voc, "coco": {"ap": 0.3}}, tmp_path)
    assert capsys.readouterr().out.splitlines()[1:] == [told.format(tmp_path / "label_errors.json")]
