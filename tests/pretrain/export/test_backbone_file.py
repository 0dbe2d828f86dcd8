"""Exports as their users meet them: the printed settings run, and give the run's own features."""

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from torch import Tensor, nn
from torchvision.models import resnet18

from common.errors import InputError
from pretrain import __main__ as command
from pretrain.export.backbone_file import export_run
from pretrain.networks import build_network

MakeRun = Callable[..., Path]
ANTS = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def run(drawn_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    return drawn_run(tmp_path_factory.mktemp("runs") / "r18", "tiny-imagenet-resnet18-fd")


def network_of(run: Path) -> nn.Module:
    recipe = json.loads((run / "recipe.json").read_text())["recipe"]
    classes = json.loads((run / "environment.json").read_text())["classes"]
    network = build_network(recipe["network"], len(classes), recipe["stem"], recipe["block"])
    network.load_state_dict(torch.load(run / "best.pt")["model"])
    return network.eval()


def execute(lines: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(compile("\n".join(lines), "card", "exec"), names)
    return names


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
@pytest.mark.parametrize("layout", ["torchvision", "timm"])
def test_the_settings_run_and_give_the_same_logits(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, name: str
) -> None:
    card = export_run(run, layout, tmp_path / name, "best")
    assert json.loads((tmp_path / "a.json").read_text()) == json.loads(json.dumps(card))
    names = execute(card["use"], tmp_path, monkeypatch)
    assert type(names["model"]).__module__.split(".")[0] == layout
    assert names["images"].shape == (2, 3, 64, 64)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.inference_mode():
        expected = network_of(run)((names["images"] - mean) / std)
    assert torch.equal(names["logits"], expected)  # the stem without pooling among it


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("cifar10-resnet20-fd", {}),
        ("cifar10-resnet20", {"block": "bottleneck"}),
        ("cifar10-densenet100", {}),
    ],
)
def test_small_networks_keep_their_own_keys(
    drawn_run: MakeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recipe: str,
    changes: dict[str, Any],
) -> None:
    run = drawn_run(tmp_path / "run", recipe, **changes)
    card = export_run(run, "torchvision", tmp_path / "a.safetensors", "best")
    names = execute(card["use"], tmp_path, monkeypatch)
    network = network_of(run)
    state = names["model"].state_dict()
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    assert "pretrain.networks" in (tmp_path / "a.md").read_text()
    for layout, ending in (("timm", ".pth"), ("detectron2", ".pkl"), ("mmdet", ".pth")):
        with pytest.raises(InputError, match=f"which {layout} has no class for: take --format"):
            export_run(run, layout, tmp_path / f"b{ending}", "best")
    assert not list(tmp_path.glob("b.*"))


def test_detectron2_settings(run: Path, tmp_path: Path) -> None:
    card = export_run(run, "detectron2", tmp_path / "a.pkl", "best")
    found = yaml.safe_load("\n".join(card["use"]))
    assert found == {
        "MODEL": {
            "WEIGHTS": "a.pkl",
            "PIXEL_MEAN": [123.675, 116.28, 103.53],
            "PIXEL_STD": [58.395, 57.12, 57.375],
            "RESNETS": {"DEPTH": 18, "STRIDE_IN_1X1": False, "RES2_OUT_CHANNELS": 64},
        },
        "INPUT": {"FORMAT": "RGB"},
    }
    assert card["use"][0].startswith('# Trained with the stem "no-pool"')
    weights = pickle.loads((tmp_path / "a.pkl").read_bytes())["model"]
    ours = torch.load(run / "best.pt")["model"]
    np.testing.assert_array_equal(
        weights["res5.1.conv2.norm.running_var"], ours["layer4.1.bn2.running_var"]
    )


def test_mmdet_settings(run: Path, tmp_path: Path) -> None:
    card = export_run(run, "mmdet", tmp_path / "a.pth", "best")
    names: dict[str, Any] = {}
    exec("\n".join(card["use"]), names)
    assert names["model"] == {
        "data_preprocessor": {
            "type": "DetDataPreprocessor",
            "mean": [123.675, 116.28, 103.53],
            "std": [58.395, 57.12, 57.375],
            "bgr_to_rgb": True,
            "pad_size_divisor": 32,
        },
        "backbone": {
            "type": "ResNet",
            "depth": 18,
            "style": "pytorch",
            "norm_cfg": {"type": "BN", "requires_grad": True},
            "norm_eval": True,
            "frozen_stages": 1,
            "init_cfg": {"type": "Pretrained", "checkpoint": "a.pth"},
        },
    }
    state = torch.load(tmp_path / "a.pth", weights_only=True)
    resnet18(num_classes=3).load_state_dict(state, strict=True)


def test_stems_of_stock_networks(
    drawn_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stem in ("imagenet", "small"):
        run = drawn_run(tmp_path / stem, "tiny-imagenet-resnet18", stem=stem)
        card = export_run(run, "timm", tmp_path / f"{stem}.pth", "best")
        names = execute(card["use"], tmp_path, monkeypatch)
        images = torch.randn(1, 3, 64, 64)
        with torch.inference_mode():
            assert torch.equal(names["model"](images), network_of(run)(images))
        lines = "\n".join(export_run(run, "mmdet", tmp_path / "m.pth", "best")["use"])
        assert ("fine-tune" in lines) == (stem == "small")


def test_timm_takes_features_from_the_file(run: Path, tmp_path: Path) -> None:
    export_run(run, "timm", tmp_path / "a.safetensors", "best")
    path = str(tmp_path / "a.safetensors")
    overlay = {"file": path, "num_classes": 3}
    model = timm.create_model(
        "resnet18",
        pretrained=True,
        pretrained_cfg_overlay=overlay,
        features_only=True,
        out_indices=(1, 2, 3, 4),
    ).eval()
    ours = network_of(run)
    ours.maxpool = nn.MaxPool2d(3, 2, 1)  # timm's stem
    seen: list[Tensor] = []
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        ours.get_submodule(stage).register_forward_hook(lambda m, i, output: seen.append(output))
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        features = model(images)
        ours(images)
    assert all(map(torch.equal, features, seen)) and len(seen) == 4


def test_the_command_prints_the_settings(
    run: Path, tmp_path: Path, call_command: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = call_command(
        *(command, "export", "--run", run, "--format", "torchvision"),
        *("--out", tmp_path / "a.pth", "--checkpoint", "last"),
    )
    assert (code, err) == (0, "")
    assert out.startswith(f"wrote {tmp_path / 'a.pth'}: resnet18, last checkpoint of epoch 2")
    card = json.loads((tmp_path / "a.json").read_text())
    # The card names the file beside it; what is printed, the path as it was given.
    printed = [line.replace('"a.pth"', f'"{tmp_path / "a.pth"}"') for line in card["use"]]
    assert printed != card["use"]
    assert re.sub(r"^  ", "", out.split("\n\n", 1)[1], flags=re.M).splitlines() == printed
    assert "last checkpoint, epoch 2" in (tmp_path / "a.md").read_text()


RESULTS = """recipe,changes,data,train_images,seed,best_accuracy,last_accuracy,test_accuracy
{recipe},optimization.epochs=2 optimization.milestones=,x,80,0,0.70,0.60,
{recipe},optimization.epochs=2 optimization.milestones=,x,80,1,0.80,0.64,
{recipe},optimization.epochs=2 optimization.milestones=,x,80,2,0.90,0.68,
{recipe},optimization.epochs=3,x,80,3,0.1,0.1,
{recipe},optimization.epochs=2 optimization.milestones=,x,81,4,0.1,0.1,
other,optimization.epochs=2 optimization.milestones=,x,80,5,0.1,0.1,
"""
OURS = RESULTS.format(recipe="tiny-imagenet-resnet18-fd")


def test_error_bars_by_hand(
    run: Path, tmp_path: Path, call_command: Callable[..., tuple[int, str, str]]
) -> None:
    table = tmp_path / "results.csv"
    table.write_text(RESULTS.format(recipe="tiny-imagenet-resnet18-fd"))
    out = tmp_path / "a.safetensors"
    code, _, err = call_command(command, "export", "--run", run, "--out", out, "--results", table)
    assert (code, err) == (0, "")
    text = (tmp_path / "a.md").read_text()
    assert "| n = 3, seeds 0, 1, 2 | mean ± sample deviation |" in text
    assert "| accuracy, best epoch | 80.00% ± 10.00 |" in text
    assert "| accuracy, last epoch | 64.00% ± 4.00 |" in text
    assert "no error bar" not in text and "One run" not in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (RESULTS.format(recipe="another"), "has no run of tiny-imagenet-resnet18-fd with optim"),
        ("a,b\n1,2\n", "lacks recipe, changes"),
        ("", "has no run of"),
        (None, "is no table of results, leave --results out"),
        ("\0\n", "results.csv"),
        (OURS.replace("0.70", "x"), "has no number as its best_accuracy"),
        (OURS.replace("0.64", "nan"), "has no number as its last_accuracy"),
        (OURS.replace("80,1,0.80", "80,one,0.80"), "has no number as its seed"),
        (OURS.replace("80,1,0.80", f"80,{'9' * 400},0.80"), "has no number as its seed"),
        (OURS.replace("80,1,0.80,0.64,", "80,1"), "has no number as its best_accuracy"),
        (OURS.replace("x,80,0,0.70,0.60,", "x,80"), "has no number as its seed"),
    ],
)
def test_results_that_do_not_fit(
    run: Path, tmp_path: Path, content: str | None, words: str
) -> None:
    table = tmp_path / "results.csv"
    if content is not None:
        table.write_text(content)
    with pytest.raises(InputError, match=words) as caught:
        export_run(run, "torchvision", tmp_path / "a.pth", "best", table)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("a.*"))


def test_other_texts_are_not_overwritten(run: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(InputError, match=r"README\.md is no model card of this project"):
        export_run(run, "torchvision", tmp_path / "README.safetensors", "best")
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    export_run(run, "torchvision", tmp_path / "a.safetensors", "best")
    export_run(run, "torchvision", tmp_path / "a.safetensors", "best")  # its own it may
