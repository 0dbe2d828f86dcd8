"""A classifier on photos: against torchvision's transforms, and every file it can come from."""

import csv
import json
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.models as models
from PIL import Image
from torchvision.transforms import v2

import pretrain
from common.errors import InputError
from common.images.decoding import IMAGENET_MEAN, IMAGENET_STD
from pretrain import __main__ as command
from pretrain.export.backbone_file import export_run
from pretrain.predictor import BATCH, Pixels, Predictor

Run = Callable[..., tuple[int, str, str]]
CLASSES = ("ant", "=bee", "cat, wild")


@pytest.fixture
def run(call_command: Callable[..., tuple[int, str, str]]) -> Run:
    return partial(call_command, command, "predict", "--device", "cpu", "--workers", 0)


@pytest.fixture(scope="module")
def classifier(drawn_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    return drawn_run(root / "r18", "tiny-imagenet-resnet18", CLASSES)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, shape in (("a.jpg", (300, 280)), ("b/a.jpg", (64, 500)), ("c.png", (40, 30))):
        (root / name).parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(shape[::-1], Image.Resampling.BICUBIC).save(root / name)
    return root


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def one_line(text: str) -> str:
    assert text.startswith("error: ") and text.count("\n") == 1, text
    return text


def test_scores_are_those_of_torchvision(tmp_path: Path, photos: Path) -> None:
    torch.manual_seed(0)
    network = models.resnet18(num_classes=7).eval()
    torch.save(network.state_dict(), tmp_path / "r18.pth")
    prepare = v2.Compose(
        [v2.Resize(256, antialias=True), v2.CenterCrop(224), v2.ToDtype(torch.float32, scale=True),
         v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    )  # fmt: skip
    opened = pretrain.load(tmp_path / "r18.pth", device="cpu")
    assert opened.classes == tuple("0123456")
    for path in ("a.jpg", "c.png"):
        with Image.open(photos / path) as image:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        with torch.inference_mode():
            expected = network(prepare(pixels)[None]).softmax(1)[0].sort(descending=True)
        (found,) = opened.predict(photos / path, top_k=9)
        np.testing.assert_allclose(found.scores, expected.values.numpy(), atol=2e-6)
        assert found.labels.tolist() == expected.indices.tolist()
        assert found.names == tuple(map(str, found.labels))


@pytest.mark.parametrize("crop", ["tiny-imagenet-resnet18", "cifar10-resnet20"])
def test_a_run_and_all_that_it_becomes_give_the_same(
    drawn_run: Callable[..., Path], tmp_path: Path, photos: Path, crop: str
) -> None:
    torch.manual_seed(0)
    folder = drawn_run(tmp_path / "run", crop, CLASSES)
    expected = pretrain.load(folder, device="cpu").predict(photos)
    assert len(expected) == 3 and len(expected[0].names) == 3
    files = {"torchvision": "a.safetensors"}
    files |= {"onnx": "o.onnx"} if crop.startswith("cifar") else {"detectron2": "d.pkl"}
    sources = [folder / "best.pt"]
    for layout, name in files.items():
        export_run(folder, layout, tmp_path / name, "best")
        sources.append(tmp_path / name)
    for source in sources:
        found = pretrain.load(source, device="cpu").predict(photos)
        for one, other in zip(found, expected, strict=True):
            assert one.names == other.names, source
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    # A last checkpoint of the same weights, away from its run: no names, and the stock stem.
    (tmp_path / "moved.pt").write_bytes((folder / "last.pt").read_bytes())
    moved = pretrain.load(tmp_path / "moved.pt", device="cpu")
    assert moved.classes == ("0", "1", "2") and len(moved.notes) == 2


def test_forms_in_memory(classifier: Path, photos: Path) -> None:
    opened = pretrain.load(classifier, device="cpu")
    assert opened.classes == CLASSES and opened.notes == ()
    with Image.open(photos / "c.png") as image:
        pixels = np.array(image)
        (expected,) = opened.predict(image)
    forms = [photos / "c.png", pixels, torch.from_numpy(pixels).permute(2, 0, 1)]
    for form in forms:
        (found,) = opened.predict(form)
        assert np.array_equal(found.scores, expected.scores) and found.names == expected.names
    assert len(opened.predict(forms, top_k=1)[2].names) == 1
    with pytest.raises(InputError, match="top_k 0: choose a whole number"):
        opened.predict(forms, top_k=0)


def test_files_of_a_run(run: Run, classifier: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--run", classifier, "--images", photos, "--out", out)
    code, printed, _ = run(*arguments, "--top-k", 2, "--verbose")
    assert code == 0
    table, listed = rows(out), json.loads((out / "predictions.json").read_text())
    assert [entry["file_name"] for entry in listed] == ["a.jpg", "b/a.jpg", "c.png"]
    assert [(row["file_name"], row["rank"]) for row in table] == [
        (entry["file_name"], str(rank)) for entry in listed for rank in (1, 2)
    ]
    told = [one for entry in listed for one in entry["predictions"]]
    for row, entry in zip(table, told, strict=True):
        assert row["class"].removeprefix("'") == entry["class"] == CLASSES[int(row["class_id"])]
        assert float(row["score"]) == entry["score"]
    # No spreadsheet takes a class for a formula.
    assert {row["class"] for row in table} <= {"ant", "'=bee", "cat, wild"}
    assert f"b/a.jpg: {listed[1]['predictions'][0]['class']} " in printed


def test_what_is_done_is_kept_when_it_is_asked_to_end(
    run: Run, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(BATCH + 1):
        Image.new("RGB", (20, 16)).save(tmp_path / f"photos/{number:03}.png")
    batch, begun = Predictor._batch, list[int]()

    def interrupted(*arguments: Any) -> Any:
        begun.append(1)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return batch(*arguments)

    monkeypatch.setattr(Predictor, "_batch", interrupted)
    out = tmp_path / "out"
    code, printed, err = run("--run", classifier, "--images", tmp_path / "photos", "--out", out)
    assert (code, err) == (130, "interrupted\n")
    assert f"ended early: {BATCH} of {BATCH + 1} photos in {out}" in printed
    (out / "predictions.partial.csv").rename(out / "predictions.csv")
    listed = json.loads((out / "predictions.partial.json").read_text())
    assert len(listed) == BATCH == len({row["file_name"] for row in rows(out)})


def test_few_photos_are_in_memory_at_a_time(
    run: Run, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(3 * BATCH):
        Image.new("RGB", (20, 16 + number % 5)).save(tmp_path / f"photos/{number}.png")
    alive, most = weakref.WeakSet[Any](), [0]
    square, batch = Pixels.square, Predictor._batch

    def cut(pixels: Pixels, photo: Any) -> Any:
        made = square(pixels, photo)
        kept = np.empty_like(made).view(_Watched)
        kept[:] = made
        alive.add(kept)
        most[0] = max(most[0], len(alive))
        return kept

    class _Watched(np.ndarray):  # type: ignore[type-arg]
        __hash__ = object.__hash__  # type: ignore[assignment]

    def classified(*arguments: Any) -> Any:
        assert len(alive) <= BATCH + 1
        return batch(*arguments)

    monkeypatch.setattr(Pixels, "square", cut)
    monkeypatch.setattr(Predictor, "_batch", classified)
    code, printed, _ = run(
        "--run", classifier, "--images", tmp_path / "photos", "--out", tmp_path / "out"
    )
    assert code == 0 and printed.startswith(f"{3 * BATCH} photos")
    assert BATCH <= most[0] <= BATCH + 2  # those of a batch, and the one that is being read


def test_files_without_names_and_broken_photos(
    run: Run, classifier: Path, photos: Path, tmp_path: Path
) -> None:
    export_run(classifier, "torchvision", tmp_path / "w.safetensors", "best")
    (tmp_path / "w.json").unlink()
    (tmp_path / "broken.jpg").write_text("<html>")
    out = tmp_path / "out"
    code, printed, err = run(
        *("--weights", tmp_path / "w.safetensors", "--out", out),
        *("--images", tmp_path / "broken.jpg", photos / "*.jpg"),
    )
    assert code == 2
    first, last = err.splitlines()
    assert "broken.jpg is damaged or not an image" in first
    assert last.startswith("error: 1 of 2 photos could not be read")
    assert "no card with class names: classes are numbered from 0" in printed
    assert "no card says how photos are prepared: 224 pixels, mean 0.485" in printed
    assert {row["class"] for row in rows(out)} == {"0", "1", "2"}


def test_what_cannot_be_opened(
    run: Run, classifier: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    headless = {k: v for k, v in models.resnet18().state_dict().items() if k[:3] != "fc."}
    torch.save(headless, tmp_path / "headless.pth")
    torch.save({"fc.weight": torch.zeros(2, 3)}, tmp_path / "unknown.pth")
    body = {f"backbone.body.{k}": v for k, v in headless.items()}
    torch.save(body | {"head.conv.weight": torch.zeros(2, 3)}, tmp_path / "detector.pth")
    damaged = models.resnet18(num_classes=3).state_dict()
    damaged["bn1.weight"][2] = torch.nan
    torch.save(damaged, tmp_path / "nan.pth")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    rest = ("--images", photos, "--out", tmp_path / "out")
    for flags, words in (
        (("--weights", tmp_path / "headless.pth"), "no classifier that is known"),
        (("--weights", tmp_path / "unknown.pth"), "a network that is not known"),
        (("--weights", tmp_path / "detector.pth"), "holds a detector"),
        (("--weights", tmp_path / "nan.pth"), "holds NaN or infinite numbers, first in bn1.weight"),
        (("--weights", tmp_path / "none.pth"), "none.pth is not there"),
        (("--weights", tmp_path / "broken.onnx"), "not a graph that onnxruntime runs"),
        (("--run", tmp_path / "empty"), "recipe.json is missing"),
        ((), "predict needs a classifier: give --run or --weights"),
        (("--run", classifier, "--weights", classifier), "name two classifiers"),
        (("--run", classifier, "--images", tmp_path / "empty"), "names no photo"),
        (("--run", classifier, "--images", tmp_path / "no.jpg"), "is not there"),
    ):
        given = rest if "--images" not in flags else rest[2:]
        code, _, err = run(*flags, *given)
        assert code == 2 and words in one_line(err)
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with torch.device("meta"):
        import torchvision.models.resnet as resnet
    state: dict[str, Any] = resnet.ResNet(resnet.Bottleneck, [2, 2, 2, 2], 3).state_dict()
    torch.save(state, tmp_path / "r26.pth")
    with pytest.raises(InputError, match="holds a resnet26, which timm builds: pip install timm"):
        pretrain.load(tmp_path / "r26.pth")


@pytest.mark.parametrize("shape", [(3, 256), (4, 512)])
def test_a_head_of_another_shape(tmp_path: Path, shape: tuple[int, int]) -> None:
    state = models.resnet18(num_classes=3).state_dict()
    key = "fc.weight" if shape[0] == 3 else "fc.bias"  # the weight says how many classes there are
    torch.save(state | {"fc.weight": torch.zeros(shape)}, tmp_path / "r18.pth")
    with pytest.raises(InputError, match=rf"r18\.pth: {key} is missing, not known or of another"):
        pretrain.load(tmp_path / "r18.pth")


def _graph(path: Path, images: list[int | str] | None, kind: str = "FLOAT") -> Path:
    """Write a graph that answers every input with zeros for three classes."""
    onnx = pytest.importorskip("onnx")
    make, kinds = onnx.helper, onnx.TensorProto
    zeros = make.make_tensor("zeros", kinds.FLOAT, [1, 3], [0.0] * 3)
    graph = make.make_graph(
        [make.make_node("Constant", [], ["logits"], value=zeros)],
        "g",
        [make.make_tensor_value_info("x", getattr(kinds, kind), images)] if images else [],
        [make.make_tensor_value_info("logits", kinds.FLOAT, [1, 3])],
    )
    opset = make.make_opsetid("", 18)
    onnx.save(make.make_model(graph, opset_imports=[opset], ir_version=9), path)
    return path


@pytest.mark.parametrize(
    ("images", "kind"),
    [
        (["N", 3, 64, 96], "FLOAT"),
        (["N", 64, 64, 3], "FLOAT"),
        (["N", 3, "S", "S"], "FLOAT"),
        ([1, 3, 64, 64], "FLOAT"),
        (["N", 3, 64, 64], "UINT8"),
        (["N"], "FLOAT"),
        (None, "FLOAT"),
    ],
)
def test_a_graph_of_other_images(images: list[int | str] | None, kind: str, tmp_path: Path) -> None:
    path = _graph(tmp_path / "g.onnx", images, kind)
    with pytest.raises(InputError, match=r"g\.onnx is no graph from images .* export one"):
        pretrain.load(path)


def test_a_graph_of_anybodys(tmp_path: Path) -> None:
    opened = pretrain.load(_graph(tmp_path / "g.onnx", ["N", 3, 64, 64]))
    assert (opened.pixels.size, opened.classes) == (64, tuple("012"))


@pytest.mark.parametrize("crop", ["square", None, 3])
def test_a_card_with_an_unknown_crop_is_not_followed(tmp_path: Path, crop: object) -> None:
    path = tmp_path / "r18.pth"
    torch.save(models.resnet18(num_classes=3).state_dict(), path)
    pixels = {"image_size": 64, "mean": [0, 0, 0], "std": [1, 1, 1]}
    card = {"classes": list("abc"), "preprocessing": pixels, "recipe": {"images": {"crop": crop}}}
    path.with_suffix(".json").write_text(json.dumps(card))
    opened = pretrain.load(path)
    assert (opened.pixels.size, opened.pixels.crop) == (224, "resized")
    assert [note.partition(":")[0] for note in opened.notes] == [
        "no card says how photos are prepared"
    ]


def test_a_network_of_timm(tmp_path: Path, photos: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("resnet26", num_classes=4).eval()
    torch.save(network.state_dict(), tmp_path / "r26.pth")
    opened = pretrain.load(tmp_path / "r26.pth", device="cpu")
    assert len(opened.predict(photos)) == 3 and opened.classes == tuple("0123")


def test_an_answer_that_is_no_number_is_none() -> None:
    """Whatever holds the weights: a graph's are not looked at, and half precision overflows."""
    pixels = Pixels(size=4, crop="pad", mean=IMAGENET_MEAN, std=IMAGENET_STD)
    opened = Predictor(lambda x: x.mean((2, 3)) * torch.inf, "abc", pixels, torch.device("cpu"))
    with pytest.raises(InputError, match="returns NaN or infinite numbers"):
        opened.predict(np.full((5, 5, 3), 128, np.uint8))


def test_results_name_their_photo_and_a_bad_one_need_not_stop_the_rest(
    classifier: Path, photos: Path, tmp_path: Path
) -> None:
    opened = pretrain.load(classifier, device="cpu")
    (tmp_path / "bad.png").write_text("<html>")
    given = [photos / "c.png", tmp_path / "bad.png", photos / "a.jpg"]
    with pytest.raises(InputError, match=r"bad\.png is damaged"):
        opened.predict(given)
    found = opened.predict(given, keep_going=True)
    assert [one.path for one in found] == given
    assert [len(one.names) for one in found] == [3, 0, 3]
    assert "bad.png is damaged" in str(found[1].error) and found[0].error is None
    assert found[2].names == opened.predict(given[2])[0].names


@pytest.mark.parametrize("top_k", [2.5, None, "3", 0])
def test_a_number_of_classes_that_is_none_is_refused(classifier: Path, top_k: Any) -> None:
    with pytest.raises(InputError, match=f"top_k {top_k!r}: choose a whole number, 1 or more"):
        pretrain.load(classifier, device="cpu").predict(np.zeros((9, 9, 3), np.uint8), top_k)
    with pytest.raises(InputError, match="source is a NoneType: give"):
        pretrain.load(None)  # type: ignore[arg-type]
