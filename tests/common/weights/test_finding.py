"""Weights as others leave them: containers, prefixes, detectors, two networks in a file."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection, resnet18, resnet50

from common.errors import InputError
from common.weights.backbone import load_backbone
from common.weights.layouts import detectron2_name, torchvision_name
from common.weights.reading import read_weights
from common.weights.resnets import is_body

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return resnet18(num_classes=3).state_dict()


def under(prefix: str, state: State, without: str = "-") -> State:
    return {prefix + name: value for name, value in state.items() if not name.startswith(without)}


def found(content: object, path: Path, part: str = "") -> State:
    torch.save(content, path)
    return load_backbone(Path(f"{path}{part}"), "resnet18")[0]


def same(found: State, expected: State) -> bool:
    bodies = [{n: v for n, v in one.items() if is_body(n)} for one in (found, expected)]
    return bodies[0].keys() == bodies[1].keys() and all(
        torch.equal(bodies[0][name], value) for name, value in bodies[1].items()
    )


PREFIXES = (
    "model. backbone. net. encoder_q. module.encoder_q. module. _orig_mod. ema.module. "
    "model._orig_mod. module.backbone. student.backbone. trunk.0. backbone.0. body."
).split()


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("more", [False, True], ids=["alone", "with a head"])
def test_the_prefix_is_taken_off_and_said(
    state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str], prefix: str, more: bool
) -> None:
    head = {"head.weight": torch.zeros(2, 2), "queue": torch.zeros(4)} if more else {}
    assert same(found(under(prefix, state) | head, tmp_path / "x.pth"), state)
    left = "; left 2 tensors without it" if more else ""
    said = f"{tmp_path / 'x.pth'}: took the prefix {prefix!r} off{left}\n"
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    "name", "net model model_state_dict state_dict model_ema ema weights student epoch_7".split()
)
def test_the_container_is_opened_and_said(
    state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    rest = {"epoch": 3, "best": np.float64(0.7), "optimizer": {"state": {}, "param_groups": []}}
    rest |= {"loss": {"center": torch.zeros(1, 4)}}
    path = tmp_path / "x.pth"
    assert same(found({**rest, name: under("model.", state)}, path), state)
    assert capsys.readouterr().out == f"{path}: took its {name!r}; took the prefix 'model.' off\n"
    assert same(found({name: {"module": state, "decay": 0.9}}, path), state)
    assert f"took its '{name}.module'" in capsys.readouterr().out


def shifted(state: State) -> State:
    return {name: value + 1 for name, value in state.items()}


AVERAGES: dict[str, Callable[[State, State], Any]] = {
    "timm": lambda a, b: {"state_dict": a, "state_dict_ema": b},
    "torchvision": lambda a, b: {"model": a, "model_ema": under("module.", b)},
    "mmengine": lambda a, b: {"state_dict": a, "ema_state_dict": under("module.", b)},
    "ultralytics": lambda a, b: {"model": a, "ema": b},
    "Lightning": lambda a, b: {"state_dict": under("model.", a) | under("ema.module.", b)},
}


@pytest.mark.parametrize("name", AVERAGES)
def test_of_a_network_and_its_average_the_average(state: State, tmp_path: Path, name: str) -> None:
    content = AVERAGES[name](shifted(state), state)
    assert same(found(content, tmp_path / "x.pth"), state)


def test_of_the_encoders_of_moco_the_one_that_learns(state: State, tmp_path: Path) -> None:
    two = under("module.encoder_q.", state) | under("module.encoder_k.", shifted(state))
    assert same(found({"state_dict": two}, tmp_path / "x.pth"), state)


PAIRS: dict[str, tuple[Callable[[State, State], Any], str]] = {
    "containers": (lambda a, b: {"student": a, "teacher": under("backbone.", b)}, "teacher"),
    "prefixes": (
        lambda a, b: {"state_dict": under("student.", a) | under("teacher.backbone.", b)},
        "teacher.backbone",
    ),
    "BYOL": (lambda a, b: under("online.", a) | under("target.", b), "target"),
    "two of no name": (lambda a, b: {"generator": a, "judge": b}, "judge"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_of_two_networks_it_is_asked_which(state: State, tmp_path: Path, name: str) -> None:
    make, second = PAIRS[name]
    content, path = make(shifted(state), state), tmp_path / "x.pth"
    with pytest.raises(InputError, match=rf"x\.pth holds 2 networks .*: name one, as .*#{second}$"):
        found(content, path)
    assert same(found(content, path, f"#{second}"), state)
    with pytest.raises(InputError, match="2 networks .*, but no 'other': name one"):
        found(content, path, "#other")


def test_a_file_with_such_a_name_is_itself(state: State, tmp_path: Path) -> None:
    assert same(found(state, tmp_path / "run#2.pth"), state)


DETECTORS: dict[str, Callable[[State], Any]] = {
    "mmdet": lambda s: {
        "meta": {"epoch": 12},
        "state_dict": under("backbone.", s, "fc.")
        | {"neck.lateral_convs.0.conv.weight": torch.zeros(256, 128, 1, 1)}
        | {"bbox_head.retina_cls.weight": torch.zeros(720, 256, 3, 3)},
    },
    "detectron2": lambda s: {
        "model": {
            f"backbone.bottom_up.{detectron2_name(name)}": value
            for name, value in s.items()
            if is_body(name)
        }
        | {"backbone.fpn_lateral3.weight": torch.zeros(256, 128, 1, 1)},
    },
    "detectron2, C4": lambda s: {
        "model": {f"backbone.{detectron2_name(n)}": v for n, v in s.items() if is_body(n)}
    },
    "DETR": lambda s: {"model": under("backbone.0.body.", s, "fc.") | {"query": torch.zeros(2, 2)}},
}


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_gives_its_body(
    state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert same(found(DETECTORS[name](state), tmp_path / "x.pth"), state)
    said = capsys.readouterr().out
    assert "took the prefix 'backbone." in said
    assert ("translated detectron2's names" in said) is name.startswith("detectron2")


@pytest.mark.parametrize("build", ["retinanet_resnet50_fpn_v2", "fasterrcnn_resnet50_fpn"])
def test_a_detector_of_torchvision_gives_its_body(tmp_path: Path, build: str) -> None:
    network = getattr(detection, build)(weights=None, weights_backbone=None)
    torch.save(network.state_dict(), tmp_path / "x.pth")
    weights, _ = load_backbone(tmp_path / "x.pth", "resnet50")
    assert same(weights, network.backbone.body.state_dict())


def test_a_detector_of_ours_gives_its_body_and_its_pixels(state: State, tmp_path: Path) -> None:
    content = {"step": 1, "epoch": 1, "metrics": {}, "model": shifted(state)}
    content["average"] = under("backbone.body.", state) | {"head.x": torch.zeros(1)}
    content["model"] = {name: value + 1 for name, value in content["average"].items()}
    pixels = '{"pixels": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}}'
    (tmp_path / "environment.json").write_text(pixels)
    torch.save(content, tmp_path / "best.pt")
    weights, card = load_backbone(tmp_path / "best.pt", "resnet18")
    assert same(weights, state)
    assert card["preprocessing"]["mean"] == [0.1, 0.2, 0.3]


def test_pickles_of_detectron2(state: State, tmp_path: Path) -> None:
    arrays = {detectron2_name(n): v.numpy() for n, v in state.items() if is_body(n)}
    (tmp_path / "R-18.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "x"}))
    assert same(load_backbone(tmp_path / "R-18.pkl", "resnet18")[0], state)


def test_names_of_detectron2_there_and_back() -> None:
    with torch.device("meta"):
        names = list(resnet50().state_dict())
    assert [torchvision_name(detectron2_name(name)) for name in names] == names


@pytest.mark.parametrize("content", [nn.Linear(2, 2), {"model": resnet18(), "epoch": 1}], ids=repr)
def test_whole_networks_are_refused_with_the_remedy(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.pt")
    remedy = r"it names torch\S+, which is no tensor .*: save the state_dict\(\) alone where"
    with pytest.raises(InputError, match=remedy) as caught:
        read_weights(tmp_path / "x.pt")
    assert "\n" not in str(caught.value)


def test_names_from_files_are_escaped(state: State, tmp_path: Path) -> None:
    hostile = "a\x1b[31m\nb"
    with pytest.raises(InputError) as caught:
        found({hostile: state, "other": state}, tmp_path / "x.pth")
    assert re.search(r"[\x00-\x1f]", str(caught.value)) is None
