"""A detector on photos: against evaluate, Pillow and what `detect score` reads."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectors import write_detector_run
from PIL import Image

import detect
from common.errors import InputError
from common.images.photos import find_photos, read_photo
from detect import __main__ as command
from detect import predict
from detect.predict import image_ids, picture_names
from detect.predictor import Predictor

pytestmark = pytest.mark.usefixtures("narrow_bodies")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(call_command: Callable[..., tuple[int, str, str]]) -> Run:
    return partial(call_command, command, "predict", "--device", "cpu", "--workers", 0)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory, narrow_bodies: None) -> Path:
    return write_detector_run(tmp_path_factory.mktemp("runs") / "r18")


@pytest.fixture(scope="module")
def predictor(detector: Path) -> Predictor:
    return detect.load(detector, device="cpu")


def scene(height: int = 48, width: int = 64, seed: int = 0) -> Any:
    pixels = np.random.default_rng(seed).integers(0, 60, (height, width, 3), dtype=np.uint8)
    pixels[8:32, 20:44] = (255, 255, 0)
    return pixels


def save(path: Path, pixels: Any = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene() if pixels is None else pixels).save(path, **options)
    return path


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("boxes", "scores", "labels"))


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def results(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "predictions.json").read_text())


def one_line(text: str) -> str:
    assert text.startswith("error: ") and text.count("\n") == 1, text
    return text


# ---- against evaluate ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(
    tmp_path_factory: pytest.TempPathFactory, toy_devkit: Path, narrow_bodies: None
) -> tuple[Path, Path]:
    """A run, and its evaluation beside it."""
    classes = tuple((toy_devkit / "classes.txt").read_text().split())
    root = tmp_path_factory.mktemp("evaluated")
    folder = write_detector_run(root / "run", classes)
    arguments = ["--run", folder, "--data", toy_devkit, "--split", "2007:test", "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["detect", "evaluate", *map(str, arguments), "--workers", "0"])
        sys.argv += ["--out", str(root / "elsewhere" / "test")]
        assert command.main() == 0
    return folder, root / "elsewhere" / "test"


def test_boxes_are_those_of_an_evaluation_and_can_be_scored(
    run: Run,
    evaluated: tuple[Path, Path],
    toy_devkit: Path,
    tmp_path: Path,
    call_command: Callable[..., tuple[int, str, str]],
) -> None:
    folder, evaluation = evaluated
    test = (toy_devkit / "VOC2007/ImageSets/Main/test.txt").read_text().split()
    images = [toy_devkit / "VOC2007/JPEGImages" / f"{name}.jpg" for name in test]
    code, out, _ = run(
        *("--run", folder, "--images", *images, "--out", tmp_path, "--score-threshold", 0.05)
    )
    assert code == 0 and "0.05" in out
    expected = json.loads((evaluation / "detections.json").read_text())
    found = results(tmp_path)
    assert len(found) == len(expected) > 50
    for mine, theirs in zip(found, expected, strict=True):
        assert mine["image_id"] == theirs["image_id"]
        assert mine["category_id"] == theirs["category_id"]
        assert mine["score"] == pytest.approx(theirs["score"], abs=1e-5)
        assert mine["bbox"] == pytest.approx(theirs["bbox"], abs=1e-3)
        assert Path(mine["file_name"]).stem in test
    code, _, _ = call_command(
        command, "score", "--detections", tmp_path / "predictions.json", "--data", toy_devkit,
        "--split", "2007:test", "--out", tmp_path / "scored", "--bootstrap", 0,
    )  # fmt: skip
    assert code == 0
    scored, own = (
        json.loads((f / "metrics.json").read_text()) for f in (tmp_path / "scored", evaluation)
    )
    assert scored["voc"]["map_area"] == pytest.approx(own["voc"]["map_area"], abs=1e-6)


def test_the_threshold_is_that_of_the_best_f1(
    run: Run, evaluated: tuple[Path, Path], detector: Path, tmp_path: Path
) -> None:
    folder, evaluation = evaluated
    analysis = json.loads((evaluation / "analysis.json").read_text())
    assert "score_threshold" in analysis["confusion"]  # of weights by chance: None, or anything
    best = analysis["confusion"]["score_threshold"] = 0.625
    (evaluation / "analysis.json").write_text(json.dumps(analysis))
    save(tmp_path / "a.png")
    code, out, _ = run("--run", folder, "--images", tmp_path / "a.png", "--out", tmp_path / "o")
    assert code == 0
    assert f"from score {best:.4g} on: the best F1 on 2007:test ({evaluation})" in out
    assert all(entry["score"] >= best for entry in results(tmp_path / "o"))
    opened = detect.load(folder, device="cpu")
    assert opened.threshold == best
    opened._network.head.classification_head.cls_logits.bias.data -= 6
    low = opened.predict(tmp_path / "a.png", 0.0)[0]
    assert low.scores.min() < 0.05  # the least that the recipe keeps
    kept = opened.predict(tmp_path / "a.png", float(low.scores[10]))[0]
    assert same(kept, type(low)(low.boxes[:11], low.scores[:11], low.labels[:11], (), (0, 0)))
    # Moved with its evaluation inside, it is found; evaluated at another epoch, it is not.
    shutil.copytree(folder, tmp_path / "moved")
    (tmp_path / "moved/evaluations.json").unlink()
    assert detect.load(tmp_path / "moved", device="cpu").threshold == 0.5
    shutil.copytree(evaluation, tmp_path / "moved/test")
    assert detect.load(tmp_path / "moved", device="cpu").threshold == best
    record = tmp_path / "moved/test/evaluation.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"epoch": 7}))
    assert detect.load(tmp_path / "moved", device="cpu").threshold == 0.5
    _, out, _ = run("--run", detector, "--images", tmp_path / "a.png", "--out", tmp_path / "o")
    assert "from score 0.5 on: no evaluation of these weights is known" in out
    # One without a hit knows no best F1; one with it, older or newer, does.
    analysis["confusion"]["score_threshold"] = None
    (evaluation / "analysis.json").write_text(json.dumps(analysis))
    opened = detect.load(folder, device="cpu")
    assert opened.threshold == 0.5
    assert opened.threshold_origin == f"no detection on 2007:test was a hit ({evaluation})"
    analysis["confusion"]["score_threshold"] = 0.75
    shutil.copytree(evaluation, folder / "older")
    (folder / "older/analysis.json").write_text(json.dumps(analysis))
    os.utime(folder / "older/evaluation.json", (0, 0))
    assert detect.load(folder, device="cpu").threshold == 0.75


# ---- photos of every kind -----------------------------------------------------------------------


def test_a_path_an_array_a_tensor_and_an_image_give_the_same(
    predictor: Predictor, tmp_path: Path
) -> None:
    pixels = scene()
    path = save(tmp_path / "a.png", pixels)
    channels_first = torch.from_numpy(pixels).permute(2, 0, 1)
    grey = np.ascontiguousarray(pixels[..., 0])
    forms = [path, str(path), pixels, channels_first, channels_first.float() / 255]
    forms += [Image.fromarray(pixels), np.dstack([pixels, grey])]
    found = [predictor.predict(form)[0] for form in forms]  # one by one: equal to the bit
    assert len(found[0].boxes) > 3
    assert found[0].names[0] in predictor.classes and found[0].size == (64, 48)
    assert all(same(one, found[0]) for one in found[1:])
    assert same(predictor.predict(tmp_path)[0], found[0])  # a folder
    together = predictor.predict(np.stack([pixels, pixels]))
    assert [len(one.boxes) for one in together] == [len(found[0].boxes)] * 2
    three = np.dstack([grey] * 3)
    assert same(predictor.predict(grey)[0], predictor.predict(three)[0])
    assert predictor.predict([]) == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (scene().astype(np.float32), r"photo 0 is an array of float32 and shape \(48, 64, 3\)"),
        (np.zeros((3, 48, 64), np.uint8), r"shape \(3, 48, 64\): give \(H, W, 3\)"),
        (torch.zeros(48, 64, 3), r"tensor of shape \(48, 64, 3\): give \(3, H, W\)"),
        (torch.full((3, 8, 8), 255.0), r"floats from 255 to 255"),
        (torch.zeros(3, 8, 8, dtype=torch.int32), r"tensor of torch.int32: give uint8, or"),
        ([scene(), None], "photo 1 is of type NoneType"),
        (b"\xff\xd8\xff", "photo 0 is of type bytes: give a path"),
        ([Path(__file__).parent], "detect is a folder: give it alone, or its files"),
        ("no/such.jpg", "no/such.jpg is not there"),
    ],
)
def test_what_is_no_photo_is_refused(predictor: Predictor, wrong: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        predictor.predict(wrong)


def test_results_name_their_photo_and_a_bad_one_need_not_stop_the_rest(
    predictor: Predictor, tmp_path: Path
) -> None:
    good = [save(tmp_path / name, scene(seed=2)) for name in ("a.png", "c.png")]
    (tmp_path / "b.png").write_text("<html>")
    with pytest.raises(InputError, match=r"b\.png is damaged"):
        predictor.predict(tmp_path)
    found = predictor.predict(tmp_path, keep_going=True)
    assert [one.path for one in found] == [good[0], tmp_path / "b.png", good[1]]
    assert [bool(one.error) for one in found] == [False, True, False]
    assert "b.png is damaged" in str(found[1].error)
    assert found[1].boxes.shape == (0, 4) and found[1].size == (0, 0)
    assert same(found[0], found[2]) and len(found[0].boxes) > 3
    assert [one.path for one in predictor.predict([scene(), str(good[0])])] == [None, good[0]]


@pytest.mark.parametrize("threshold", ["0.5", 1.5, float("nan"), [0.5]])
def test_a_threshold_that_is_none_is_refused(predictor: Predictor, threshold: Any) -> None:
    with pytest.raises(InputError, match=r"score_threshold .*: choose a number in \[0, 1\]"):
        predictor.predict(scene(), threshold)


def test_a_run_that_is_no_path_is_refused() -> None:
    with pytest.raises(InputError, match="run is a NoneType: give the folder of a run"):
        detect.load(None)  # type: ignore[arg-type]


def test_modes_of_pillow_that_say_nothing_of_their_range() -> None:
    """Mode I holds 32 bits: 8 or 16 of them by the values; what fits neither is refused."""
    grey = np.arange(0, 240, dtype=np.uint8).reshape(12, 20)
    expected = np.repeat(grey[..., None], 3, axis=2)
    eight = Image.fromarray(grey).convert("I")
    sixteen = Image.fromarray(grey.astype(np.int32) * 257)
    dark = Image.fromarray(grey.astype(np.uint16))
    assert (eight.mode, sixteen.mode, dark.mode) == ("I", "I", "I;16")
    np.testing.assert_array_equal(read_photo(eight), expected)
    np.testing.assert_array_equal(read_photo(sixteen), expected)
    assert not read_photo(dark).any()  # of 16 bits by its mode
    for values in (-1, 65536):
        with pytest.raises(InputError, match="photo 3 has values from"):
            read_photo(Image.fromarray(np.full((2, 2), values, np.int32)), "photo 3")
    with pytest.raises(InputError, match="the image is of Pillow's mode F"):
        read_photo(Image.fromarray(grey.astype(np.float32)))


def test_pictures_of_before_stay_and_are_told(run: Run, detector: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / name / f"{name}.jpg")
    out = tmp_path / "out"
    told = [run("--run", detector, "--images", tmp_path / n, "--out", out)[1] for n in ("a", "b")]
    assert "earlier call" not in told[0]
    assert (
        f"{out / 'pictures'} also holds 1 file of an earlier call, such as a.jpg: remove" in told[1]
    )
    assert (out / "pictures/a.jpg").exists()


def test_a_photo_is_turned_upright(predictor: Predictor, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6  # a viewer turns it clockwise
    path = save(tmp_path / "turned.png", exif=exif)
    upright = np.ascontiguousarray(np.rot90(scene(), -1))
    (found,), (expected,) = predictor.predict(path), predictor.predict(upright)
    assert found.size == expected.size == (48, 64)
    assert same(found, expected)
    with Image.open(path) as image:
        assert same(predictor.predict(image)[0], expected)


def test_every_format_and_mode_is_read(
    run: Run, detector: Path, predictor: Predictor, tmp_path: Path
) -> None:
    rgb = Image.fromarray(scene())
    photos = tmp_path / "photos"
    photos.mkdir()
    rgb.save(photos / "a.JPG", "JPEG")
    rgb.save(photos / "b.jpeg")
    rgb.save(photos / "c.webp")
    rgb.save(photos / "d.bmp")
    rgb.convert("L").save(photos / "e.png")
    rgb.convert("CMYK").save(photos / "f.jpg")
    rgb.convert("P").save(photos / "g.png")
    rgb.convert("RGBA").save(photos / "h.png")
    cv2.imwrite(str(photos / "i.png"), scene()[..., ::-1].astype(np.uint16) * 257)
    save(photos / "j.png", scene(7, 300))
    save(photos / "k.png", scene(1, 1))
    (photos / "notes.txt").write_text("no photo")
    (photos / "._a.JPG").write_bytes(b"macOS")
    out = tmp_path / "out"
    code, printed, _ = run("--run", detector, "--images", photos, "--out", out, "--verbose")
    assert code == 0
    assert "1 other file skipped, such as " in printed  # hidden ones are not counted
    assert len([line for line in printed.splitlines() if "64x48: " in line]) == 9
    assert "j.png 300x7: " in printed and "k.png 1x1: " in printed
    pictures = sorted(path.name for path in (out / "pictures").iterdir())
    assert pictures == [f"{letter}.jpg" for letter in "abcdefghijk"]
    assert size_of(out / "pictures/k.jpg") == (4, 4)
    # 16 bits, in memory too, as 8 bits; alpha left out.
    sixteen = Image.open(io.BytesIO((photos / "i.png").read_bytes()))
    forms = [photos / "i.png", photos / "h.png", sixteen, scene()]
    found = [predictor.predict(form)[0] for form in forms]
    assert all(same(one, found[-1]) for one in found)


# ---- files --------------------------------------------------------------------------------------


def test_a_broken_photo_is_named_and_the_others_are_done(
    run: Run, detector: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    whole = save(photos / "a.jpg").read_bytes()
    (photos / "b\n.jpg").write_bytes(whole[:-200])
    (photos / "c.jpg").write_text("<html>")
    save(photos / "d.jpg")
    out = tmp_path / "out"
    code, printed, err = run("--run", detector, "--images", photos, "--out", out)
    assert code == 2
    first, second, last = err.splitlines()
    assert "b\\n.jpg is cut off" in first and "c.jpg is damaged or not an image" in second
    assert last.startswith("error: 2 of 4 photos could not be read")
    assert "on 2 photos" in printed
    assert last.endswith("the others are done")
    assert {entry["file_name"] for entry in results(out)} == {"a.jpg", "d.jpg"}
    assert sorted(path.name for path in (out / "pictures").iterdir()) == ["a.jpg", "d.jpg"]
    code, _, err = run("--run", detector, "--images", photos / "c.jpg", "--out", out)
    assert code == 2 and err.splitlines()[-1] == (
        "error: 1 of 1 photo could not be read: mend or remove those named above"
    )


def test_the_same_name_in_two_folders(run: Run, detector: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for name in ("a/x.jpg", "b/x.jpg", "a/x.png", "a/X.bmp"):
        save(photos / name, scene(seed=len(name)))
    code, _, _ = run("--run", detector, "--images", photos, "--out", photos)
    assert code == 0
    pictures = {str(p.relative_to(photos / "pictures")) for p in photos.rglob("pictures/*/*")}
    assert pictures == {"a/X.jpg", "a/x.jpg.jpg", "a/x.png.jpg", "b/x.jpg"}
    entries = results(photos)
    assert {entry["image_id"] for entry in entries} == {"a/X.bmp", "a/x.jpg", "a/x.png", "b/x.jpg"}
    assert all(entry["image_id"] == entry["file_name"] for entry in entries)
    before = (photos / "predictions.json").read_bytes()
    code, printed, _ = run("--run", detector, "--images", photos, "--out", photos)
    assert code == 0 and "on 4 photos" in printed  # not on its own pictures
    assert (photos / "predictions.json").read_bytes() == before
    code, _, err = run("--run", detector, "--images", photos / "pictures", "--out", photos)
    assert code == 2 and "which is written to" in one_line(err)


def test_names_of_pictures_never_meet() -> None:
    names = ["x.jpg/y.png", "x.png", "x.bmp", "x.png.jpg", "x.bmp.jpg", "x.bmp.2.jpg"]
    pictures = picture_names(names)
    assert pictures[0] == "x.jpg/y.jpg" and "x.jpg" not in pictures  # a folder has that name
    assert len({name.casefold() for name in pictures}) == len(names)


def test_image_ids_are_numbers_where_names_are() -> None:
    assert image_ids(["000000000139.jpg", "000000000285.png"]) == [139, 285]
    assert image_ids(["2008_000008.jpg", "2008_000015.jpg"]) == [2008000008, 2008000015]
    assert image_ids(["1.jpg", "01.jpg"]) == ["1", "01"]
    assert image_ids(["a/1.jpg", "b/1.jpg"]) == ["a/1.jpg", "b/1.jpg"]
    assert image_ids(["cat.jpg", "2.jpg"]) == ["cat", "2"]


def test_a_pattern_a_bracket_and_a_folder_that_holds_itself(tmp_path: Path) -> None:
    save(tmp_path / "in/a/1.jpg")
    save(tmp_path / "in/b/2.png")
    save(tmp_path / "in/[x].jpg")
    (tmp_path / "in/b/again").symlink_to(tmp_path / "in")
    assert find_photos([tmp_path / "in"]).names == ("[x].jpg", "a/1.jpg", "b/2.png")
    assert find_photos([tmp_path / "in/*/*.jpg"]).names == ("1.jpg",)
    assert find_photos([tmp_path / "in/[ab]/*"]).names == ("a/1.jpg", "b/2.png")
    assert find_photos([tmp_path / "in/[x].jpg"]).names == ("[x].jpg",)
    twice = find_photos([tmp_path / "in/a/1.jpg", tmp_path / "in/a", tmp_path / "in/../in/a"])
    assert twice.names == ("1.jpg",)


@pytest.mark.parametrize(
    ("images", "words"),
    [("none.jpg", "none.jpg is not there"), ("empty", "empty names no photo"),
     ("empty/*.jpg", "names no photo"), ("text", "names no photo among 1 file")],
)  # fmt: skip
def test_where_no_photo_is(
    run: Run, detector: Path, tmp_path: Path, images: str, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text/notes.txt").write_text("x")
    out = tmp_path / "out"
    code, _, err = run("--run", detector, "--images", tmp_path / images, "--out", out)
    assert code == 2 and words in one_line(err)
    assert not out.exists()


def test_a_run_without_a_checkpoint(run: Run, detector: Path, tmp_path: Path) -> None:
    shutil.copytree(detector, tmp_path / "run")
    (tmp_path / "run/last.pt").unlink()
    save(tmp_path / "a.jpg")
    arguments = ("--images", tmp_path / "a.jpg", "--out", tmp_path / "out")
    code, _, err = run("--run", tmp_path / "run", *arguments)
    assert code == 2 and "last.pt is missing" in one_line(err)
    code, _, err = run("--run", tmp_path / "none", *arguments)
    assert code == 2 and "recipe.json is missing" in one_line(err)
    code, _, err = run("--run", detector, *arguments, "--score-threshold", 1.5)
    assert code == 2 and "score_threshold" in one_line(err)
    assert not (tmp_path / "out").exists()


def test_as_many_boxes_are_drawn_as_are_written(
    run: Run, detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        save(tmp_path / f"photos/{number}.png", scene(2000, 1000, number))
    drawn = []
    paint = predict.boxes.paint_boxes

    def painted(pixels: Any, labelled: Any, side: int) -> Any:
        drawn.append([one.box for one in labelled])
        return paint(pixels, labelled, side)

    monkeypatch.setattr(predict.boxes, "paint_boxes", painted)
    out = tmp_path / "out"
    code, _, _ = run("--run", detector, "--images", tmp_path / "photos", "--out", out)
    assert code == 0
    entries = results(out)
    assert len(entries) == sum(map(len, drawn)) > 0
    x, y, width, height = entries[0]["bbox"]
    corners = np.array([x, y, x + width, y + height])
    assert drawn[0][0] == pytest.approx(corners * 0.8)  # 2000 pixels are drawn as 1600
    assert size_of(out / "pictures/0.jpg") == (800, 1600)


def test_few_photos_are_in_memory_at_a_time(
    run: Run, detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(80):
        save(tmp_path / f"photos/{number}.png", scene(32 + number % 3, 32))
    alive = {"now": 0, "most": 0}
    prepare, draw = predict.prepare, predict._Work._draw

    def prepared(*arguments: Any, **options: Any) -> Any:
        alive["now"] += 1
        alive["most"] = max(alive.values())
        return prepare(*arguments, **options)

    def drawn(*arguments: Any) -> None:
        alive["now"] -= 1
        draw(*arguments)

    monkeypatch.setattr(predict, "prepare", prepared)
    monkeypatch.setattr(predict._Work, "_draw", drawn)
    code, printed, _ = run(
        "--run", detector, "--images", tmp_path / "photos", "--out", tmp_path / "out"
    )
    assert code == 0 and "on 80 photos" in printed
    assert alive["now"] == 0
    assert alive["most"] <= 4 * 8 + 1  # batches that are searched for photos of one shape


def test_the_package_imports_without_torch() -> None:
    text = "import detect, pretrain, sys; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_looking_at_photos_leaves_the_network_as_an_evaluation_needs_it(
    predictor: Predictor,
) -> None:
    """The pictures of a training are drawn by the network that the next epoch evaluates."""
    network = predictor._network
    before, network.score_thresh = network.score_thresh, 0.4  # as of a recipe that drops below 0.4
    try:
        assert predictor.predict(scene(), score_threshold=0.01)[0].size == (64, 48)
        assert network.score_thresh == 0.4
    finally:
        network.score_thresh = before
