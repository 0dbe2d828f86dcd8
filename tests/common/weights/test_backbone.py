"""Backbone files against torchvision, timm, hashlib and names written out by hand."""

import contextlib
import errno
import hashlib
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn
from torchvision.models import resnet18, resnet34, resnet50

from common.errors import InputError
from common.weights.backbone import (
    card_path,
    load_backbone,
    load_body,
    preprocessing,
    save_backbone,
)

CARD = {"architecture": "resnet18", "preprocessing": preprocessing(64, (0.1, 0.2, 0.3), (1, 2, 3))}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    network: nn.Module = resnet18(num_classes=7)
    for name, buffer in network.named_buffers():  # statistics that are not the initial ones
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return network.to(memory_format=torch.channels_last).eval()


@pytest.fixture
def file(network: nn.Module, tmp_path: Path) -> Path:
    path = tmp_path / "backbone.safetensors"
    save_backbone(network.state_dict(), CARD, path)
    return path


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_round_trip(network: nn.Module, file: Path) -> None:
    weights, card = load_backbone(file, "resnet18")
    assert equal(weights, network.state_dict())
    assert card == json.loads(card_path(file).read_text())
    assert card == {
        "architecture": "resnet18",
        "preprocessing": {
            "image_size": 64,
            "channel_order": "RGB",
            "input_range": [0.0, 1.0],
            "mean": [0.1, 0.2, 0.3],
            "std": [1, 2, 3],
        },
        "file": "backbone.safetensors",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    assert sorted(path.name for path in file.parent.iterdir()) == [
        "backbone.json",
        "backbone.safetensors",
    ]


def test_the_file_loads_strictly_elsewhere_with_the_same_output(
    network: nn.Module, file: Path
) -> None:
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = network(images)
        for other in (resnet18(num_classes=7), timm.create_model("resnet18", num_classes=7)):
            other.load_state_dict(safetensors.torch.load_file(file), strict=True)
            other.to(memory_format=torch.channels_last).eval()
            assert torch.equal(other(images), expected)


def test_weights_of_others_without_a_card(network: nn.Module, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    weights, card = load_backbone(tmp_path / "resnet18.pth", "resnet18")
    assert equal(weights, network.state_dict())
    assert card == {}


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_wrappers_are_taken_off(network: nn.Module, tmp_path: Path, prefix: str) -> None:
    wrapped = {prefix + name: value for name, value in network.state_dict().items()}
    torch.save(wrapped, tmp_path / "wrapped.pt")
    assert equal(load_backbone(tmp_path / "wrapped.pt", "resnet18")[0], network.state_dict())


@pytest.mark.parametrize(("value", "dtype"), [(torch.nan, "float32"), (torch.inf, "float16")])
def test_weights_that_are_no_numbers(
    network: nn.Module, tmp_path: Path, value: float, dtype: str
) -> None:
    weights = {n: v.to(getattr(torch, dtype), copy=True) for n, v in network.state_dict().items()}
    weights["bn1.running_var"][0] = value
    torch.save(weights, tmp_path / "nan.pth")
    with pytest.raises(
        InputError, match=r"nan\.pth holds NaN or infinite numbers, first in bn1\.r"
    ):
        load_backbone(tmp_path / "nan.pth", "resnet18")


def test_a_folder_is_no_file_of_weights(tmp_path: Path) -> None:
    (tmp_path / "my run").mkdir()
    with pytest.raises(InputError, match=r"is a folder, .*--run '.*/my run' --out 'my run.safet"):
        load_backbone(tmp_path / "my run", "resnet18")


def test_another_architecture_by_its_card(file: Path) -> None:
    with pytest.raises(InputError, match=r"holds a resnet18, but the recipe builds a resnet50"):
        load_backbone(file, "resnet50")


def test_damaged_and_missing_files(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    unread = r"backbone\.safetensors is not a readable"
    for damaged, told in ((content[:-10], unread), (content[:4], unread), (b"", "is empty: copy")):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=told):
            load_backbone(file, "resnet18")
    with pytest.raises(InputError, match=r"no\.safetensors is not there"):
        load_backbone(tmp_path / "no.safetensors", "resnet18")
    card_path(file).write_text("{")
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"backbone\.json is not JSON"):
        load_backbone(file, "resnet18")


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def test_code_in_a_pth_file_does_not_run(tmp_path: Path) -> None:
    torch.save({"conv1.weight": Bomb(tmp_path / "fired")}, tmp_path / "bomb.pth")
    with pytest.raises(InputError, match=r"bomb\.pth does not load safely: .* \(it names"):
        load_backbone(tmp_path / "bomb.pth", "resnet18")
    assert not (tmp_path / "fired").exists()


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pkl", ".safetensors", ""])
@pytest.mark.parametrize("how", ["pickle", "old torch", "nested", "stack of opcodes"])
def test_no_pickle_runs_under_any_name(tmp_path: Path, suffix: str, how: str) -> None:
    fired, path = tmp_path / "fired", tmp_path / f"bomb{suffix}"
    if how == "pickle":
        path.write_bytes(pickle.dumps({"conv1.weight": Bomb(fired)}))
    elif how == "old torch":
        torch.save({"conv1.weight": Bomb(fired)}, path, _use_new_zipfile_serialization=False)
    elif how == "nested":
        torch.save({"a": torch.zeros(1), "b": {"c": [Bomb(fired)]}}, path)
    else:
        path.write_bytes(b"cos\nsystem\n(S'touch %s'\ntR." % bytes(fired))
    with pytest.raises(InputError, match=path.name) as caught:
        load_backbone(path, "resnet18")
    assert not fired.exists()
    assert "\n" not in str(caught.value)
    pickle.loads(pickle.dumps(Bomb(fired)))
    assert fired.exists()  # the bomb is a live one


def lying(header: Any, data: bytes = bytes(8), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}


LIES = {
    "longer than the file": lying(entry([2], 0, 8), length=2**40),
    "longer than memory": lying(entry([2], 0, 8), length=2**63 - 1),
    "no header": lying({}, b"", length=0),
    "not JSON": lying(b"{" * 100_000),
    "an array": lying([]),
    "beyond the data": lying(entry([2**20], 0, 2**22)),
    "before the data": lying(entry([2], -8, 0)),
    "shape and bytes differ": lying(entry([3], 0, 8)),
    "product overflows": lying(entry([2**32, 2**32], 0, 8)),
    "offsets swapped": lying(entry([2], 8, 0)),
    "overlap": lying(entry([2], 0, 8) | {"v": entry([1], 4, 8)["w"]}),
    "bytes of nobody": lying(entry([1], 0, 4)),
    "unknown type": lying(entry([2], 0, 8, "PICKLE")),
    "nothing in it": lying({}, b""),
}


@pytest.mark.parametrize("content", LIES.values(), ids=LIES)
def test_a_safetensors_header_that_lies(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "backbone.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"backbone\.safetensors") as caught:
        load_backbone(path, "resnet18")
    assert "\n" not in str(caught.value)


def test_an_average_is_taken_and_told(
    network: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = {name: value + 1 for name, value in network.state_dict().items()}
    averaged = {f"module.{name}": value for name, value in network.state_dict().items()}
    path = tmp_path / "timm.pth"
    torch.save({"state_dict": raw, "state_dict_ema": averaged, "epoch": 3}, path)
    weights, _ = load_backbone(path, "resnet18")
    assert equal(weights, network.state_dict())
    assert capsys.readouterr().out == (
        f"{path}: took its 'state_dict_ema'; took the prefix 'module.' off\n"
    )


def test_other_ranks_are_silent(
    network: nn.Module,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK", "1")
    torch.save({"model": network.state_dict()}, tmp_path / "model.pth")
    load_backbone(tmp_path / "model.pth", "resnet18")
    assert capsys.readouterr().out == ""


def test_a_small_network_is_nobodys_body(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_backbone(network.state_dict(), {"architecture": "cifar-resnet20"}, path)
    with pytest.raises(InputError, match=r"cifar-resnet20, .* a resnet50: give another file$"):
        load_backbone(path, "resnet50")


def test_weights_without_a_single_known_name(network: nn.Module) -> None:
    foreign = {f"encoder.{name}": value for name, value in network.state_dict().items()}
    with pytest.raises(InputError, match=r"encoder\.conv1\.weight and so on, none is called as in"):
        load_body(headless(resnet18()), foreign, Path("x"))


def headless(network: nn.Module) -> nn.Module:
    network.fc = nn.Identity()
    return network


def test_a_body_takes_all_weights_but_the_classifier(network: nn.Module) -> None:
    body = headless(resnet18())
    load_body(body, network.state_dict(), Path("x"))
    body.eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        features = body(images)
        torch.testing.assert_close(
            network.get_submodule("fc")(features), network(images), rtol=1e-4, atol=1e-5
        )


def test_a_body_of_another_architecture_by_its_keys(network: nn.Module) -> None:
    weights = network.state_dict()
    with torch.device("meta"):
        wanted = {build: headless(build()) for build in (resnet18, resnet34, resnet50)}
        given = resnet34().state_dict()
    with pytest.raises(
        InputError, match=r"^x is a resnet18 \(missing layer1\.2\.conv1\.weight; .*--body resnet18"
    ):
        load_body(wanted[resnet34], weights, Path("x"))
    with pytest.raises(InputError, match=r"missing layer1\.0\.conv3\.weight"):
        load_body(wanted[resnet50], weights, Path("x"))
    with pytest.raises(InputError, match=r"unexpected layer1\.2\.conv1\.weight"):
        load_body(wanted[resnet18], given, Path("x"))
    small_stem = weights | {"conv1.weight": torch.zeros(64, 3, 3, 3)}
    with pytest.raises(InputError, match=r"conv1\.weight has shape \(64, 3, 3, 3\), not \(64, 3,"):
        load_body(wanted[resnet18], small_stem, Path("x"))


def test_a_refused_body_stays_as_it_was(network: nn.Module) -> None:
    body = headless(resnet18())
    before = {name: value.clone() for name, value in body.state_dict().items()}
    weights = dict(network.state_dict())
    del weights["layer4.1.bn2.running_mean"]
    with pytest.raises(
        InputError, match=r"missing layer4\.1\.bn2\.running_mean\): give another file$"
    ):
        load_body(body, weights, Path("x"))
    assert equal(body.state_dict(), before)


@pytest.mark.parametrize(
    ("body", "remedy"),
    [
        ("resnet34", r"add --body resnet34, or give another file$"),
        ("resnext50_32x4d", r"add --body resnext50_32x4d, or give another file$"),
        ("wide_resnet50_2", r"add --body wide_resnet50_2, or give another file$"),
        ("resnet50d", r"more\): give another file$"),  # which no detector here has
    ],
)
def test_a_refused_body_is_named(
    network: nn.Module, tmp_path: Path, body: str, remedy: str
) -> None:
    with torch.device("meta"):  # refused are names and shapes
        weights = timm.create_model(body).state_dict()
    with pytest.raises(InputError, match=rf"^x is a {body} \(.*{remedy}"):
        load_body(headless(resnet18()), weights, Path("x"))
    path = tmp_path / "by-its-card.safetensors"
    save_backbone(network.state_dict(), {"architecture": body}, path)
    remedy = remedy if "--body" in remedy else "builds a resnet18: give another file$"
    with pytest.raises(InputError, match=rf"holds a {body}, .*{remedy}"):
        load_backbone(path, "resnet18")


def test_a_file_that_is_no_card_stays(network: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text('{"stage": "pretrain"}')
    with pytest.raises(InputError, match=r"recipe\.json is no card"):
        save_backbone(network.state_dict(), CARD, tmp_path / "recipe.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"]


def test_two_backbones_cannot_share_a_card(network: nn.Module, file: Path) -> None:
    before = {path.name: path.read_bytes() for path in file.parent.iterdir()}
    with pytest.raises(
        InputError, match=r"backbone\.json is the card of backbone\.safetensors, .* another name"
    ):
        save_backbone(network.state_dict(), CARD, file.with_suffix(".pth"))
    assert {path.name: path.read_bytes() for path in file.parent.iterdir()} == before
    save_backbone(network.state_dict(), CARD | {"seed": 1}, file)  # its own it may replace
    assert load_backbone(file, "resnet18")[1]["seed"] == 1


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("renames", "old", "expected"),
    [
        (0, False, "is not there"),
        (1, False, "is not there"),
        (2, False, "new"),
        (0, True, "old"),
        (1, True, "is the card of other weights"),
        (2, True, "new"),
    ],
)
def test_a_kill_leaves_no_weights_with_a_wrong_card_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int, old: bool, expected: str
) -> None:
    path = tmp_path / "backbone.safetensors"
    weights = {"old": torch.zeros(2), "new": torch.ones(2)}

    def export(which: str) -> None:
        save_backbone({"conv1.weight": weights[which]}, CARD | {"seed": which}, path)

    if old:
        export("old")
    replace, done = Path.replace, 0

    def kill(source: Path, target: Path) -> Path:
        nonlocal done
        if done == renames:
            raise Killed
        done += 1
        return replace(source, target)

    with monkeypatch.context() as context:
        context.setattr(Path, "replace", kill)
        with contextlib.suppress(Killed):
            export("new")
    assert done == renames
    if expected in weights:
        found, card = load_backbone(path, "resnet18")
        assert torch.equal(found["conv1.weight"], weights[expected]) and card["seed"] == expected
    else:
        with pytest.raises(InputError, match=expected):
            load_backbone(path, "resnet18")
    export("new")  # again, whatever was left
    assert load_backbone(path, "resnet18")[1]["seed"] == "new"


def test_a_full_disk_leaves_the_old_weights_and_their_card(
    network: nn.Module, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in file.parent.iterdir()}

    def full(descriptor: int) -> None:
        if os.fstat(descriptor).st_size > 1e6:  # the weights', there is room for the card
            raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", full)
        with pytest.raises(InputError, match=r"backbone\.safetensors could not be written"):
            save_backbone(network.state_dict(), CARD | {"seed": 1}, file)
    assert {path.name: path.read_bytes() for path in file.parent.iterdir()} == before


def test_a_card_with_a_strange_architecture(file: Path) -> None:
    card = json.loads(card_path(file).read_text())
    card_path(file).write_text(json.dumps(card | {"architecture": ["resnet18"]}))
    with pytest.raises(InputError, match=r"builds a resnet18: give another file$"):
        load_backbone(file, "resnet18")
