"""`python -m pretrain inspect`: what it says of every kind of file, and of bad ones."""

import json
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import TensorProto, helper
from torch import nn
from torchvision.models import resnet18, resnext50_32x4d, wide_resnet50_2
from torchvision.models.detection import retinanet_resnet50_fpn

from common.runs.certificate import weights_digest
from common.weights.backbone import fingerprint
from pretrain import __main__ as command
from pretrain.export.backbone_file import export_run
from pretrain.export.inspection import inspect
from pretrain.networks import build_network

Run = Callable[..., tuple[int, str, str]]
MakeRun = Callable[..., Path]


@pytest.fixture
def run(call_command: Callable[..., tuple[int, str, str]]) -> Run:
    return partial(call_command, command, "inspect")


@pytest.fixture(scope="module")
def trained(drawn_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn_run(tmp_path_factory.mktemp("runs") / "r18", "tiny-imagenet-resnet18-fd")


PARAMETERS = sum(parameter.numel() for parameter in resnet18(num_classes=3).parameters())


@pytest.mark.parametrize(
    ("layout", "name", "words"),
    [
        (
            "torchvision",
            "a.safetensors",
            ["kind: safetensors", "torchvision.models.resnet18 and timm", "--body resnet18"],
        ),
        (
            "mmdet",
            "a.pth",
            [
                "kind: torch file",
                'fits: mmdet, ResNet, depth=18, style="pytorch"',
                "--body resnet18",
            ],
        ),
        ("detectron2", "a.pkl", ["kind: detectron2", "fits: detectron2, RESNETS.DEPTH 18"]),
        ("detectron2", "a.pth", ["kind: detectron2", "fits: detectron2, RESNETS.DEPTH 18"]),
    ],
)
def test_our_exports(
    run: Run, trained: Path, tmp_path: Path, layout: str, name: str, words: list[str]
) -> None:
    export_run(trained, layout, tmp_path / name, "best")
    code, out, err = run(tmp_path / name)
    assert (code, err) == (0, "")
    for word in (
        *words,
        f"{(tmp_path / name).stat().st_size:,} bytes",
        f"tensors: 122, with {PARAMETERS:,} parameters in float32",
        "classifier: 3 classes",
        "architecture: resnet18, by keys and shapes",
        f"card: resnet18 for {layout}, recipe tiny-imagenet-resnet18-fd, seed 4, best checkpoint",
        "val_accuracy 0.7500",
        "SHA-256 right",
    ):
        assert word in out, word


def test_weights_of_others(tmp_path: Path) -> None:
    state = resnext50_32x4d().half().state_dict()
    wrapped = {f"module.{name}": value for name, value in state.items()}
    torch.save({"state_dict_ema": wrapped, "state_dict": wrapped}, tmp_path / "x.pth")
    text = "\n".join(inspect(tmp_path / "x.pth"))
    for words in (
        "found: took its 'state_dict_ema'; took the prefix 'module.' off",
        "parameters in float16",
        "classifier: 1,000 classes",
        "architecture: resnext50_32x4d, by keys",
        f"--backbone {tmp_path / 'x.pth'} --body resnext50_32x4d",
        "does not fit: mmdet, which reads a plain .pth",
        "card: none beside it",
    ):
        assert words in text, words


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (
            resnext50_32x4d,
            'fits: mmdet, ResNeXt of groups=32, base_width=4, depth=50, style="pytorch"',
        ),
        (wide_resnet50_2, "does not fit: mmdet, whose ResNeXt widens no block that has one group"),
    ],
)
def test_mmdet_has_another_name_or_none(
    tmp_path: Path, network: Callable[[], nn.Module], told: str
) -> None:
    torch.save(network().state_dict(), tmp_path / "x.pth")
    assert told in list(inspect(tmp_path / "x.pth"))


def test_a_network_of_timm_alone(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18d").state_dict(), tmp_path / "x.pth")
    text = "\n".join(inspect(tmp_path / "x.pth"))
    assert 'fits: timm.create_model("resnet18d"); not torchvision' in text
    assert "does not fit: the detector here" in text and "mmdet" not in text
    assert "resnext101_64x4d, wide_resnet50_2" in text  # what it builds on


@pytest.mark.parametrize(
    ("name", "block", "told"),
    [
        ("cifar-resnet20", None, "cifar-resnet20,"),
        ("cifar-resnet20", "bottleneck", "cifar-resnet20 of bottleneck blocks,"),
        ("densenet100-bc", None, "densenet100-bc,"),
    ],
)
def test_small_networks(tmp_path: Path, name: str, block: Any, told: str) -> None:
    torch.save(build_network(name, 7, block=block).state_dict(), tmp_path / "x.pth")
    text = "\n".join(inspect(tmp_path / "x.pth"))
    assert f"architecture: {told} by keys and shapes" in text
    assert f'build_network("{name}", num_classes=7' in text


def test_unknown_weights(tmp_path: Path) -> None:
    torch.save({"decoder.w": torch.zeros(2, 2)}, tmp_path / "x.pth")
    text = "\n".join(inspect(tmp_path / "x.pth"))
    assert "architecture: not known (first keys: decoder.w)" in text
    assert "classifier: none" in text and "4 parameters" in text


def test_checkpoints_and_runs(run: Run, trained: Path) -> None:
    code, out, _ = run(trained)
    assert code == 0
    for words in (
        "run of `python -m pretrain train tiny-imagenet-resnet18-fd`, seed 4",
        "architecture: resnet18, stem no-pool",
        "epochs: 2 of 2",
        "val_accuracy 0.5000",
        "checkpoints: last.pt, best.pt",
        f"python -m pretrain export --run {trained}",
    ):
        assert words in out, words
    spaced = Path(shutil.copytree(trained, trained.parent / "a run"))
    assert f"python -m pretrain export --run '{spaced}'" in run(spaced)[1]
    code, out, _ = run(trained / "best.pt")
    assert "checkpoint of epoch 1, step 10; weights only" in out and "resnet18" in out
    code, out, _ = run(trained / "last.pt")
    assert "checkpoint of epoch 2, step 20; a training can resume from it" in out
    assert f"{PARAMETERS:,} parameters" in out


def graph() -> onnx.ModelProto:
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 4])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 2], [0.0] * 8)
    node = helper.make_node("MatMul", ["images", "w"], ["logits"])
    body = helper.make_graph([node], "g", [images], [logits], [weight])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)])


def test_a_graph(tmp_path: Path) -> None:
    onnx.save(graph(), tmp_path / "x.onnx")
    text = "\n".join(inspect(tmp_path / "x.onnx"))
    for words in (
        "kind: ONNX graph, opset 18, 1 operations",
        "tensors: 1, with 8 numbers in float",
        "input: images (batch, 4)",
        "output: logits (batch, 2)",
    ):
        assert words in text, words


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_arrays_are_read_and_nothing_runs(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "x.pkl"
    arrays = {"stem.conv1.weight": np.zeros((2, 3), np.float32), "n": np.asarray(3)}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "x"}, protocol))
    assert "tensors: 2, with 7 parameters in float32, int64" in "\n".join(inspect(path))
    arrays["stem.conv1.weight"].flags.writeable = False
    arrays["n"] = np.asarray([1, 2], ">f4")
    path.write_bytes(pickle.dumps({"model": arrays}, protocol))
    assert "tensors: 2, with 8 parameters in float32" in "\n".join(inspect(path))
    path.write_bytes(pickle.dumps({"model": {"a": Bomb(tmp_path / "fired")}}, protocol))
    with pytest.raises(ValueError, match="no array"):
        inspect(path)
    assert not (tmp_path / "fired").exists()


BAD = {
    "missing.pth": None,
    "text.pth": b"hello",
    "empty.pth": b"",
    "cut.safetensors": b"\x10\0\0\0\0\0\0\0{",
    "page.pth": b"<html>",
    "broken.onnx": b"\xff\xff\xff",
    "broken.pkl": b"\x80\x05",
    "list.pkl": pickle.dumps([1]),
    "longdouble.pkl": pickle.dumps({"model": {"a": np.zeros(2, np.longdouble)}}),
    "object.pkl": pickle.dumps({"model": {"a": "b"}}),
    "opcodes.pkl": b"cos\nsystem\n(S'true'\ntR.",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_sentence_and_exit_2(run: Run, tmp_path: Path, name: str) -> None:
    content = BAD[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    code, out, err = run(tmp_path / name)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and name in err and err.count("\n") == 1


def test_folders_and_cards_that_do_not_fit(run: Run, trained: Path, tmp_path: Path) -> None:
    code, _, err = run(tmp_path)
    assert code == 2 and "recipe.json" in err and err.count("\n") == 1
    export_run(trained, "torchvision", tmp_path / "a.pth", "best")
    torch.save(resnet18().state_dict(), tmp_path / "a.pth")
    code, _, err = run(tmp_path / "a.pth")
    assert code == 2 and "is the card of other weights" in err


@pytest.mark.parametrize("metrics", ["good", ["val_accuracy"], 3])
def test_a_card_whose_metrics_are_no_object(run: Run, tmp_path: Path, metrics: Any) -> None:
    torch.save({"w": torch.zeros(2)}, tmp_path / "x.pth")
    (tmp_path / "x.json").write_text(json.dumps({"metrics": metrics}))
    code, out, err = run(tmp_path / "x.pth")
    assert (code, out) == (2, "")
    assert "x.json: 'metrics' is no JSON object" in err and err.count("\n") == 1


def test_a_card_whose_metrics_are_no_numbers(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(2)}, tmp_path / "x.pth")
    (tmp_path / "x.json").write_text('{"metrics": {"val_accuracy": "high", "val_loss": 0.5}}')
    assert "epoch None, val_loss 0.5000, SHA-256 right" in "\n".join(inspect(tmp_path / "x.pth"))


def test_a_checkpoint_of_others_with_names_like_ours(run: Run, tmp_path: Path) -> None:
    content = {"model": resnet18().state_dict(), "step": 1, "epoch": 1, "metrics": [0.5]}
    torch.save(content, tmp_path / "x.pth")
    code, out, err = run(tmp_path / "x.pth")
    assert (code, err) == (0, "")
    assert "found: took its 'model'" in out and "architecture: resnet18" in out


@pytest.mark.parametrize(
    ("recipe", "word"), [({"optimization": [2]}, "optimization"), ("cifar10-resnet20", "recipe")]
)
def test_a_run_whose_recipe_is_no_object(run: Run, tmp_path: Path, recipe: Any, word: str) -> None:
    description = {"stage": "pretrain", "name": "x", "seed": 0, "recipe": recipe}
    (tmp_path / "recipe.json").write_text(json.dumps(description))
    code, out, err = run(tmp_path)
    assert (code, out) == (2, "")
    assert f"recipe.json: '{word}' is no JSON object" in err and err.count("\n") == 1


def test_a_log_without_epochs(run: Run, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text('{"stage": "pretrain"}')
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    code, out, err = run(tmp_path)
    assert (code, err) == (0, "") and "epochs: None of None" in out


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    damaged = resnet18(num_classes=3).state_dict()
    damaged["layer1.0.conv1.weight"][0] = torch.inf
    torch.save(damaged, tmp_path / "nan.pth")
    told = "\n".join(inspect(tmp_path / "nan.pth"))
    assert "NaN or infinite numbers, first in layer1.0.conv1.weight" in told


def test_strictly_is_said_where_it_is_so(tmp_path: Path) -> None:
    """Of wrapped, headless and odd files `load_state_dict` would fail."""
    state = resnet18(num_classes=3).state_dict()
    files = {
        "whole": (state, "fits: torchvision.models.resnet18 and timm, strictly"),
        "wrapped": ({f"module.{n}": v for n, v in state.items()}, "(wrapped, prefix 'module.')"),
        "within": ({"state_dict": state, "epoch": 3}, "its weights lie under 'state_dict')"),
        "headless": ({n: v for n, v in state.items() if n[:2] != "fc"}, "no classifier (fc))"),
        "odd": (state | {"fc.bias": torch.zeros(4)}, "(other keys or shapes beside the body)"),
    }
    for name, (content, words) in files.items():
        torch.save(content, tmp_path / "x.pth")
        lines = inspect(tmp_path / "x.pth")
        (told,) = [line for line in lines if "torchvision.models" in line]
        assert told.endswith(words), name
        assert told.startswith("fits: " if name == "whole" else "does not fit as it is: "), name


def test_a_detector_is_called_one(tmp_path: Path) -> None:
    """Of its body is nothing said that holds for a classifier, and its certificate is its own."""
    network = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5)
    state = network.state_dict()
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "dp.pth")
    torch.save(state, tmp_path / "x.pth")
    trained = {name: value for name, value in state.items() if "num_batches" not in name}
    card = {"layout": "torchvision", "sha256": fingerprint(tmp_path / "x.pth")}
    proof = {"digest": "abc", "step": 1, "weights": weights_digest(trained)}
    (tmp_path / "x.json").write_text(json.dumps(card | {"certificate": proof}))
    text = "\n".join(inspect(tmp_path / "x.pth"))
    assert "a RetinaNet in torchvision's layout, body resnet50" in text
    assert "torchvision.models.detection.retinanet_resnet50_fpn, strictly (num_classes=5)" in text
    assert "--body resnet50, which takes the body" in text and "timm, strictly" not in text
    assert "SHA-256 right" in text and "the weights are those of it" in text
    wrapped = "\n".join(inspect(tmp_path / "dp.pth"))
    assert "a RetinaNet in" in wrapped and "strictly" not in wrapped
