"""`--init`: which weights a network begins with, against copies made by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection, resnet18, resnet34

from common.errors import InputError
from common.storage import write_json
from common.weights.backbone import save_backbone
from common.weights.initial import (
    describe_origin,
    initial_unless_resumed,
    load_initial,
    pixels_of_resumed_run,
    read_initial,
)

HEAD = ("head.classification_head.cls_logits",)


class Detector(nn.Module):
    """The names of a RetinaNet, small."""

    def __init__(self, classes: int, anchors: int = 9) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.body = resnet18(num_classes=2)
        del self.backbone.body.fc
        self.head = nn.Module()
        self.head.classification_head = nn.Module()
        self.head.classification_head.cls_logits = nn.Conv2d(8, anchors * classes, 3)
        self.head.regression_head = nn.Conv2d(8, anchors * 4, 3)


def logits_of(network: nn.Module) -> Tensor:
    found: Tensor = network.get_parameter(f"{HEAD[0]}.bias")
    return found


def run_of(network: nn.Module, folder: Path, classes: list[str], **more: Any) -> Path:
    folder.mkdir(exist_ok=True)
    state = {"model": network.state_dict(), "step": 1, "epoch": 1, "metrics": {}, **more}
    torch.save(state, folder / "best.pt")
    pixels = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    write_json(folder / "environment.json", {"classes": classes, "pixels": pixels})
    return folder


def test_rows_go_by_the_names_of_the_classes(tmp_path: Path) -> None:
    before, network = Detector(3), Detector(5)
    anew = logits_of(network).detach().clone().view(9, 5)
    folder = run_of(before, tmp_path / "run", ["cat", "dog", "cow"])
    told = load_initial(network, read_initial(folder), ["cow", "emu", "cat", "ant", "bee"], HEAD)
    assert "the head of 2 of 5 classes ('cow', 'cat'), the others new" in told
    rows, old = logits_of(network).view(9, 5), logits_of(before).view(9, 3)
    assert torch.equal(rows[:, 0], old[:, 2]) and torch.equal(rows[:, 2], old[:, 0])
    assert torch.equal(rows[:, [1, 3, 4]], anew[:, [1, 3, 4]])
    weight = network.get_parameter(f"{HEAD[0]}.weight").view(9, 5, 8, 3, 3)
    assert torch.equal(
        weight[:, 2], before.get_parameter(f"{HEAD[0]}.weight").view(9, 3, 8, 3, 3)[:, 0]
    )
    for name, value in before.state_dict().items():
        if "cls_logits" not in name and "num_batches" not in name:
            assert torch.equal(network.state_dict()[name], value), name


def test_names_that_differ_in_signs_alone_are_told_apart(tmp_path: Path) -> None:
    before, network = Detector(3), Detector(4)
    anew = logits_of(network).detach().clone().view(9, 4)
    folder = run_of(before, tmp_path / "run", ["1.5", "15", "dining table"])
    told = load_initial(network, read_initial(folder), ["15", "1-5", "1.5", "diningtable"], HEAD)
    assert "the head of 3 of 4 classes ('15', '1.5', 'diningtable'), the others new" in told
    rows, old = logits_of(network).view(9, 4), logits_of(before).view(9, 3)
    assert torch.equal(rows[:, [0, 2, 3]], old[:, [1, 0, 2]])
    assert torch.equal(rows[:, 1], anew[:, 1])  # of two that it may be, neither


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (["cat", "dog"], "the head of all 2 classes"),
        (["dog", "cat"], "the head of all 2 classes"),
        (["emu", "ant"], "the head of all 2 classes new, for it shares no class"),
    ],
)
def test_what_is_said_of_the_head(tmp_path: Path, classes: list[str], words: str) -> None:
    before, network = Detector(2), Detector(2)
    told = load_initial(
        network, read_initial(run_of(before, tmp_path / "r", ["cat", "dog"])), classes, HEAD
    )
    assert told.endswith(words)
    same = torch.equal(logits_of(network), logits_of(before))
    assert same is (classes == ["cat", "dog"])


def test_the_average_of_a_run_is_what_was_evaluated(tmp_path: Path) -> None:
    before, network = Detector(1), Detector(1)
    average = {name: value + 1 for name, value in before.state_dict().items()}
    initial = read_initial(run_of(before, tmp_path / "run", ["cat"], average=average))
    assert "took the average" in load_initial(network, initial, ["cat"], HEAD)
    torch.testing.assert_close(logits_of(network), logits_of(before) + 1)
    assert initial.pixels == {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


def test_a_classifier_becomes_the_body_of_a_detector_and_back(tmp_path: Path) -> None:
    classifier, network = resnet18(num_classes=4), Detector(2)
    card = {"architecture": "resnet18", "classes": ["a", "b", "c", "d"]}
    save_backbone(classifier.state_dict(), card, tmp_path / "x.safetensors")
    told = load_initial(network, read_initial(tmp_path / "x.safetensors"), ["a", "b"], HEAD)
    assert "new: head.regression_head.weight" in told
    body = network.backbone.body
    assert torch.equal(body.layer4[1].bn2.weight, classifier.layer4[1].bn2.weight)
    assert torch.equal(body.layer4[1].conv2.weight, classifier.layer4[1].conv2.weight)
    other = resnet18(num_classes=2)
    run = run_of(network, tmp_path / "run", ["a", "b"])
    told = load_initial(other, read_initial(run), ["a", "b"], ("fc",))
    assert "the head of all 2 classes new" in told
    assert torch.equal(other.layer4[1].conv2.weight, classifier.layer4[1].conv2.weight)


def test_a_classifier_with_other_classes(tmp_path: Path) -> None:
    before, network = resnet18(num_classes=2), resnet18(num_classes=3)
    save_backbone(before.state_dict(), {"classes": ["a", "b"]}, tmp_path / "x.pth")
    load_initial(network, read_initial(tmp_path / "x.pth"), ["b", "c", "a"], ("fc",))
    assert torch.equal(network.fc.weight[[2, 0]], before.fc.weight)
    assert torch.equal(network.fc.bias[[2, 0]], before.fc.bias)
    (tmp_path / "x.json").unlink()
    told = load_initial(network, read_initial(tmp_path / "x.pth"), ["b", "c", "a"], ("fc",))
    assert told.endswith("3 classes new, for the names of its classes are not known")


@pytest.mark.parametrize("version", ["retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"])
def test_retinanets_of_torchvision(tmp_path: Path, version: str) -> None:
    """Into the detector here, whose P6 comes from C5, as in v2; COCO's names as VOC has them."""
    from detect.network.retinanet import build_retinanet
    from detect.recipes import Detector as Settings

    theirs = getattr(detection, version)(weights=None, weights_backbone=None)
    state = theirs.state_dict()
    old = {  # as torchvision before 0.12 named the pyramid
        name.replace(".0.weight", ".weight").replace(".0.bias", ".bias") if "_blocks" in name
        else name: value
        for name, value in state.items()
    }  # fmt: skip
    torch.save(old, tmp_path / "x.pth")
    settings = Settings(head_norm="group" if version.endswith("v2") else "none")
    ours = build_retinanet(settings, "resnet50", 3, [0.5] * 3, [0.2] * 3)
    classes = ["aeroplane", "person", "unicorn"]
    told = load_initial(ours, read_initial(tmp_path / "x.pth"), classes, HEAD)
    assert "2 of 3 classes ('aeroplane', 'person'), the others new" in told
    assert ("new: backbone.fpn.extra_blocks.p6" in told) is (not version.endswith("v2"))
    rows = ours.get_parameter(f"{HEAD[0]}.bias").view(9, 3)
    assert torch.equal(rows[:, 0], state[f"{HEAD[0]}.bias"].view(9, 91)[:, 5])  # airplane
    for name, value in ours.state_dict().items():
        if "cls_logits" not in name and ".p6." not in name and "num_batches" not in name:
            assert torch.equal(value, state[name]), name


def test_another_network_is_refused(tmp_path: Path) -> None:
    save_backbone(resnet34().state_dict(), {}, tmp_path / "x.pth")
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(InputError, match=r"x\.pth is of another network \(0 of 6 weights fit"):
        load_initial(network, read_initial(tmp_path / "x.pth"), ["a"], ("fc",))


def test_a_resumed_run_goes_on_from_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = run_of(Detector(1), tmp_path / "source", ["a"])
    out = tmp_path / "out"
    out.mkdir()
    described = describe_origin(source, out, "auto")
    assert len(described["init"]) == 64
    assert initial_unless_resumed(source, out, "auto", loud=True) is not None
    assert pixels_of_resumed_run(out, "auto") is None
    (out / "last.pt").touch()
    write_json(out / "recipe.json", described)
    write_json(out / "environment.json", {"pixels": {"mean": [1, 1, 1], "std": [2, 2, 2]}})
    (source / "best.pt").write_bytes(b"changed")
    assert describe_origin(source, out, "auto") == described
    assert describe_origin(None, out, "auto") == described
    assert initial_unless_resumed(source, out, "auto", loud=True) is None
    assert "resumes from its own checkpoint" in capsys.readouterr().out
    assert pixels_of_resumed_run(out, "auto") == {"mean": [1, 1, 1], "std": [2, 2, 2]}
    assert describe_origin(None, tmp_path / "new", "auto") == {}


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no best\.pt and no last\.pt"):
        read_initial(tmp_path)


def test_a_larger_network_of_the_family_is_refused(tmp_path: Path) -> None:
    """A ResNet-34 holds all names and shapes of a ResNet-18, and would be cut in half."""
    torch.save(resnet34(num_classes=3).state_dict(), tmp_path / "larger.pth")
    with pytest.raises(InputError, match="holds a resnet34, and the recipe builds a resnet18"):
        load_initial(resnet18(num_classes=3), read_initial(tmp_path / "larger.pth"), "abc", ("fc",))


def test_a_detector_with_another_body_is_refused(tmp_path: Path) -> None:
    larger = Detector(1)
    larger.backbone.body = resnet34()
    torch.save(larger.state_dict(), tmp_path / "larger.pth")
    for network in (Detector(1), resnet18(num_classes=1)):
        with pytest.raises(InputError, match="holds a resnet34, and the recipe builds a resnet18"):
            load_initial(network, read_initial(tmp_path / "larger.pth"), ["a"], HEAD)


@pytest.mark.parametrize(
    ("container", "prefix"),
    [("model", "module."), ("state_dict", "model."), (None, "_orig_mod."), ("model", "")],
)
def test_a_detector_in_the_wrapping_of_others_is_whole(
    tmp_path: Path, container: str | None, prefix: str
) -> None:
    given, network = Detector(1), Detector(1)
    state: dict[str, Any] = {prefix + name: value for name, value in given.state_dict().items()}
    torch.save({container: state, "epoch": 3} if container else state, tmp_path / "x.pth")
    told = load_initial(network, read_initial(tmp_path / "x.pth"), ["a"], HEAD)
    assert (f"took the prefix {prefix!r} off" in told) == bool(prefix)
    assert "new: " not in told and "left" not in told
    rows = {f"{layer}.{kind}" for layer in HEAD for kind in ("weight", "bias")}
    for name, value in network.state_dict().items():
        if name not in rows and "num_batches" not in name:  # whose classes are not known
            assert torch.equal(value, given.state_dict()[name]), name


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = resnet18(num_classes=3).state_dict()
    state["layer2.0.conv1.weight"][0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(InputError, match=r"first in layer2\.0\.conv1\.weight: give an earlier"):
        load_initial(resnet18(num_classes=3), read_initial(tmp_path / "nan.pth"), "abc", ("fc",))
