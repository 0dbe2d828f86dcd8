"""The layouts of others, against their key lists written out from their naming rules."""

import hashlib
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50

from common.errors import InputError
from common.weights.backbone import save_backbone
from common.weights.layouts import Layout, check_ending, detectron2_name, encode

CARD = {"architecture": "resnet50"}
NORM = ("weight", "bias", "running_mean", "running_var")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    network: nn.Module = resnet50(num_classes=7)
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
        if name.endswith("running_mean"):
            buffer.normal_()
    return network.to(memory_format=torch.channels_last).eval()


# The bottleneck ResNet-50 of detectron2 (modeling/backbone/resnet.py) and of mmdetection
# (models/backbones/resnet.py), whose blocks hold the same layers under other names.
DETECTRON2_BLOCK = {
    "conv1": "conv1.norm",
    "conv2": "conv2.norm",
    "conv3": "conv3.norm",
    "shortcut": "shortcut.norm",
}
MMDET_BLOCK = {"conv1": "bn1", "conv2": "bn2", "conv3": "bn3", "downsample.0": "downsample.1"}


def resnet50_keys(
    stem: tuple[str, str], stages: tuple[str, ...], block: dict[str, str]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    def layer(conv: str, norm: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{conv}.weight", shape
        yield from ((f"{norm}.{value}", shape[:1]) for value in NORM)

    yield from layer(*stem, 64, 3, 7, 7)
    before = 64
    for stage, count, width in zip(stages, (3, 4, 6, 3), (64, 128, 256, 512), strict=True):
        for number in range(count):
            shapes = [(width, before, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            shapes += [(4 * width, before, 1, 1)] if number == 0 else []
            for (conv, norm), shape in zip(block.items(), shapes, strict=False):
                yield from layer(f"{stage}.{number}.{conv}", f"{stage}.{number}.{norm}", *shape)
            before = 4 * width


def shapes_of(weights: dict[str, Tensor], head: str) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(value.shape)
        for name, value in weights.items()
        if not name.startswith(head) and not name.endswith("num_batches_tracked")
    }


@pytest.mark.parametrize("ending", [".pkl", ".pth"])
def test_detectron2_finds_all_its_keys(network: nn.Module, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"d2{ending}"
    card = save_backbone(network.state_dict(), CARD, path, "detectron2")
    if ending == ".pkl":
        content = pickle.loads(path.read_bytes())
        assert all(type(value) is np.ndarray for value in content["model"].values())
    else:
        content = torch.load(path, weights_only=True)
    assert content["matching_heuristics"] is True
    weights = {name: torch.as_tensor(value) for name, value in content["model"].items()}
    stages = ("res2", "res3", "res4", "res5")
    expected = dict(resnet50_keys(("stem.conv1", "stem.conv1.norm"), stages, DETECTRON2_BLOCK))
    assert len(expected) == 265
    assert shapes_of(weights, "stem.fc.") == expected
    assert torch.equal(
        weights["res4.5.conv2.norm.running_var"],
        network.state_dict()["layer3.5.bn2.running_var"],
    )
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads((tmp_path / "d2.json").read_text()) == card


def test_mmdet_finds_all_its_keys(network: nn.Module, tmp_path: Path) -> None:
    save_backbone(network.state_dict(), CARD, tmp_path / "x.pth", "mmdet")
    weights = torch.load(tmp_path / "x.pth", weights_only=True)
    stages = ("layer1", "layer2", "layer3", "layer4")
    expected = dict(resnet50_keys(("conv1", "bn1"), stages, MMDET_BLOCK))
    assert shapes_of(weights, "fc.") == expected
    assert sum(not name.startswith("fc.") for name in weights) == 318  # counted in mmdet 3.3.0


@pytest.mark.parametrize("layout", ["torchvision", "timm"])
@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_features_are_the_same_to_the_bit(
    network: nn.Module, tmp_path: Path, layout: Layout, ending: str
) -> None:
    path = tmp_path / f"x{ending}"
    save_backbone(network.state_dict(), CARD, path, layout)
    theirs: nn.Module = resnet50(num_classes=7)
    if layout == "timm":
        theirs = timm.create_model("resnet50", num_classes=7, checkpoint_path=str(path))
    else:
        load = timm.models.load_state_dict if ending == ".safetensors" else torch.load
        theirs.load_state_dict(load(str(path)), strict=True)
    seen: dict[nn.Module, list[Tensor]] = {}
    for model in (network, theirs):
        outputs = seen[model] = []
        for stage in ("layer1", "layer2", "layer3", "layer4"):
            model.get_submodule(stage).register_forward_hook(
                lambda module, inputs, output, outputs=outputs: outputs.append(output)
            )
    images = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        logits = network(images)
        assert torch.equal(theirs.to(memory_format=torch.channels_last).eval()(images), logits)
    assert len(seen[network]) == 4
    assert all(map(torch.equal, seen[network], seen[theirs]))


def test_the_safetensors_file_says_that_it_is_of_torch(tmp_path: Path) -> None:
    weights = resnet18().state_dict()
    save_backbone(weights, CARD, tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(weights)


def test_a_view_brings_no_more_than_itself() -> None:
    values = torch.arange(100_000.0)
    small = encode({"w": values[:10]}, "torchvision", ".pth")
    assert len(small) < 5_000


def test_what_is_written_does_not_change(network: nn.Module) -> None:
    weights = network.state_dict()
    before = {name: (value.clone(), value.stride()) for name, value in weights.items()}
    encode(weights, "torchvision", ".safetensors")
    for name, (value, stride) in before.items():
        assert torch.equal(weights[name], value) and weights[name].stride() == stride


WRONG = [
    ("torchvision", ".pkl", ".safetensors or .pth"),
    ("timm", ".onnx", ".safetensors or .pth"),
    ("mmdet", ".safetensors", ".pth"),
    ("detectron2", ".safetensors", ".pkl or .pth"),
    ("onnx", ".pth", ".onnx"),
]


@pytest.mark.parametrize(("layout", "ending", "right"), WRONG)
def test_wrong_endings(tmp_path: Path, layout: str, ending: str, right: str) -> None:
    with pytest.raises(InputError, match=rf"{layout} must end in {right}$"):
        check_ending(tmp_path / f"x{ending}", layout)


def test_a_wrong_ending_leaves_nothing(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must end in"):
        save_backbone(network.state_dict(), CARD, tmp_path / "x.safetensors", "detectron2")
    assert list(tmp_path.iterdir()) == []


# The names on the right are those of detectron2's own ResNet.
NAMES = {
    "conv1.weight": "stem.conv1.weight",
    "bn1.running_var": "stem.conv1.norm.running_var",
    "layer1.0.conv1.weight": "res2.0.conv1.weight",
    "layer1.0.bn1.weight": "res2.0.conv1.norm.weight",
    "layer2.0.downsample.0.weight": "res3.0.shortcut.weight",
    "layer2.0.downsample.1.running_mean": "res3.0.shortcut.norm.running_mean",
    "layer3.22.conv3.weight": "res4.22.conv3.weight",
    "fc.weight": "stem.fc.weight",
}


@pytest.mark.parametrize(("ours", "theirs"), NAMES.items())
def test_detectron2_names(ours: str, theirs: str) -> None:
    assert detectron2_name(ours) == theirs
