"""Weights that others wrote: with torch's, timm's and torchvision's own means, and by hand."""

import argparse
import io
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.models as models
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from common.errors import InputError
from common.weights.reading import (
    Weights,
    check_finite,
    is_checkpoint,
    read_content,
    read_weights,
)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))


def plain(offset: float = 0) -> dict[str, Tensor]:
    return {name: value + offset for name, value in network().state_dict().items()}


def read(tmp_path: Path, content: object, **options: Any) -> Weights:
    torch.save(content, tmp_path / "x.pth", **options)
    return read_weights(tmp_path / "x.pth")


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return list(found) == list(expected) and all(torch.equal(found[k], expected[k]) for k in found)


def test_plain_files(tmp_path: Path) -> None:
    state = plain()
    found = read(tmp_path, state)
    assert same(found.tensors, state) and found.describe() == ""
    found = read(tmp_path, state, _use_new_zipfile_serialization=False)  # older than torch 1.6
    assert same(found.tensors, state)
    save_file(state, tmp_path / "x.safetensors")
    found = read_weights(tmp_path / "x.safetensors")
    assert found.tensors.keys() == state.keys()
    assert all(torch.equal(found.tensors[name], state[name]) for name in state)


# What timm's and torchvision's training scripts write, the average the second of two states.
CONTAINERS = {
    "timm": ("state_dict", "state_dict_ema"),
    "torchvision": ("model", "model_ema"),
}


@pytest.mark.parametrize("names", CONTAINERS.values(), ids=CONTAINERS)
def test_the_average_comes_first(tmp_path: Path, names: tuple[str, str]) -> None:
    raw, average = plain(1), plain(2)
    rest = {"epoch": 7, "args": argparse.Namespace(lr=0.1), "optimizer": {"state": {}}}
    found = read(tmp_path, {names[0]: raw, names[1]: average} | rest)
    assert same(found.tensors, average)
    assert found.describe() == f"took its {names[1]!r}"
    assert same(read(tmp_path, {names[0]: raw} | rest).tensors, raw)
    assert same(read(tmp_path, {names[0]: raw, names[1]: None} | rest).tensors, raw)


def test_an_averaged_model(tmp_path: Path) -> None:
    averaged = AveragedModel(network())
    averaged.update_parameters(network())
    found = read(tmp_path, averaged.state_dict())
    assert same(found.tensors, averaged.module.state_dict())
    assert "averages of an AveragedModel; took the prefix 'module.' off" in found.describe()
    assert found.averaged
    found = read(tmp_path, {"model": plain(), "model_ema": averaged.state_dict()})
    assert same(found.tensors, averaged.module.state_dict())
    assert found.part == "model_ema"


def test_prefixes_of_compiled_and_distributed_networks(tmp_path: Path) -> None:
    compiled = torch.compile(network())
    found = read(tmp_path, compiled.state_dict())
    assert list(found.tensors) == list(plain())
    assert found.prefix == "_orig_mod."
    doubled = {f"_orig_mod.module.{name}": value for name, value in plain().items()}
    found = read(tmp_path, doubled)
    assert same(found.tensors, plain()) or list(found.tensors) == list(plain())
    assert found.prefix == "_orig_mod.module."


def test_a_name_with_and_without_prefix(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="twice"):
        read(tmp_path, {"module.a": torch.zeros(1), "a": torch.zeros(1)})


@pytest.mark.parametrize(
    "others",
    [{"metrics": [0.5]}, {"metrics": "best"}, {"metrics": {}, "average": 3}],
    ids=["list", "text", "average"],
)
def test_checkpoints_of_others_with_names_like_ours(tmp_path: Path, others: dict[str, Any]) -> None:
    state = plain()
    found = read(tmp_path, {"model": state, "step": 3, "epoch": 1, **others})
    assert same(found.tensors, state) and found.part == "model"


def test_our_checkpoints_are_refused_with_the_remedy(tmp_path: Path) -> None:
    content = {"model": plain(), "step": 9, "epoch": 3, "metrics": {}}
    assert is_checkpoint(content)
    with pytest.raises(InputError, match=r"x\.pth is a checkpoint of epoch 3: .* pretrain export"):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "holds nothing, no plain state dict"),
        ({"a": torch.zeros(1), "b": 3}, "holds 'a' (Tensor), 'b' (int), no plain state dict"),
        ({"model": {"a": 1}, "step": 3}, "holds 'model' (dict), 'step' (int), no plain"),
        ({str(n): n for n in range(9)}, "'3' (int) and 5 more, no plain"),
        ({1: torch.zeros(1)}, "holds '1' (Tensor), no plain"),
        ([torch.zeros(1)], "holds a list: give a .safetensors file, or a .pth with a state dict"),
        (torch.zeros(1), "holds a Tensor"),
    ],
    ids=str,
)
def test_anything_else_is_named(tmp_path: Path, content: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, content)
    assert words in str(caught.value) and "x.pth" in str(caught.value)


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return file.getvalue()


def safetensors_bytes(tmp_path: Path) -> bytes:
    save_file(plain(), tmp_path / "y.safetensors")
    return (tmp_path / "y.safetensors").read_bytes()


@pytest.mark.parametrize("suffix", [".pth", ".bin", ""])
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "a Keras file"),
        (b"\x93NUMPY\x01\x00" + bytes(99), "a NumPy array"),
        (zipped("arr_0.npy"), "a NumPy archive"),
        (zipped("config.json", "model.weights.h5"), "a Keras archive"),
        (zipped("net/data.pkl", "net/constants.pkl"), "a TorchScript program"),
        (b"<!doctype html>", "a web page"),
        (b"\xff\xd8\xff\xe0" + bytes(99), "a picture"),
        (b"\x89PNG\r\n" + bytes(99), "a picture"),
        (b"GGUF\3" + bytes(99), "a GGUF file"),
        (b"\x08\x0a\x12\x07pytorch", "an ONNX graph, or another"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (pickle.dumps({"model": {"a": np.zeros(1)}, "__author__": "x"}), "a pickle, such as det"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_of_others_are_named(tmp_path: Path, suffix: str, content: bytes, kind: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"is {kind}.*: give a .safetensors file, or a .pth"):
        read_content(path)


def packed(names: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(names))
    return file.getvalue()


@pytest.mark.parametrize("suffix", [".pth", ".pt2", ".json", ".zip", ".tar"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (zipped("w/net.pth"), "is an archive: unpack it, and give what is in it"),
        (packed("net.pth"), "is an archive: unpack it, and give what is in it"),
        (
            zipped("net/data/weights/weight_0", "net/archive_format"),
            r"is a program of torch.export: give the state_dict\(\) that it was made of",
        ),
        (b'{"weight_map": {}}', "is JSON, such as the settings or the index of weights: give the"),
    ],
    ids=["zip", "tar", "export", "index"],
)
def test_what_holds_weights_elsewhere(
    tmp_path: Path, suffix: str, content: bytes, told: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path} {told}"):
        read_content(path)


def test_a_part_of_a_distributed_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "__0_0.distcp").write_bytes(b"x")
    with pytest.raises(InputError, match=r"distributed checkpoint: put it together, .*dcp_to"):
        read_content(tmp_path / "__0_0.distcp")


def test_quantised_weights_are_no_weights(tmp_path: Path) -> None:
    tensors = {"conv1.weight": torch.ones(2, 2, 1, 1), "bn1.num_batches_tracked": torch.tensor(3)}
    check_finite(tensors, tmp_path)
    tensors["conv1.weight"] = tensors["conv1.weight"].to(torch.int8)
    with pytest.raises(InputError, match=r"whole numbers \(int8\), first in conv1.weight: give"):
        check_finite(tensors, tmp_path)


def test_sparse_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"conv1.weight": torch.ones(1, 1).to_sparse(), "fc.bias": torch.ones(1)}, path)
    with pytest.raises(InputError, match=r"sparse tensor, conv1.weight: save it by to_dense\(\)"):
        read_weights(path)


@pytest.mark.parametrize(("suffix", "kind"), [(".onnx", "ONNX"), (".msgpack", "Flax")])
def test_endings_of_others(tmp_path: Path, suffix: str, kind: str) -> None:
    (tmp_path / f"x{suffix}").write_bytes(b"\x08\x07")
    with pytest.raises(InputError, match=kind):
        read_content(tmp_path / f"x{suffix}")


@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.pkl", "x.SafeTensors", "x"])
def test_safetensors_under_another_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(safetensors_bytes(tmp_path))
    with pytest.raises(InputError) as caught:
        read_weights(path)
    told = f"{path} is a safetensors file under another name: rename it to end in .safetensors"
    assert str(caught.value) == told


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("name", ["x.safetensors", "x.pkl"])
def test_torch_under_another_name(tmp_path: Path, name: str, new: bool, cut: bool) -> None:
    path = tmp_path / name
    state = {"conv1.weight": torch.zeros(1000)}
    torch.save(state, path, _use_new_zipfile_serialization=new)
    path.write_bytes(path.read_bytes()[: 2000 if cut else None])
    with pytest.raises(InputError) as caught:
        read_weights(path)
    assert (
        str(caught.value) == f"{path} is a torch file under another name: rename it to end in .pth"
    )


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"<html>", "a web page"),
        (pickle.dumps({"a": 1}), "a pickle"),
        (b"x" * 99, "not a readable"),
    ],
)
def test_a_safetensors_file_that_is_none(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.safetensors is {kind}"):
        read_weights(tmp_path / "x.safetensors")


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("new", [True, False])
def test_nothing_runs_beside_what_training_scripts_keep(tmp_path: Path, new: bool) -> None:
    arguments = argparse.Namespace(hook=Bomb(tmp_path / "fired"))
    with pytest.raises(InputError, match=r"it names getattr, which is no tensor"):
        read(tmp_path, {"model": plain(), "args": arguments}, _use_new_zipfile_serialization=new)
    assert not (tmp_path / "fired").exists()


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(1000.0)}, tmp_path / "x.pth")
    content = bytearray((tmp_path / "x.pth").read_bytes())
    content[content.index(torch.tensor(500.0).numpy().tobytes())] ^= 1
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.pth .*damaged"):
        read_content(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
        ("a.pth", b"", "is empty: copy it again"),
        ("a.safetensors", b"", "is empty: copy it again"),
    ],
)
def test_files_that_did_not_arrive(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_content(tmp_path / name)


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1000)}, tmp_path / "a.pth")
    content = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cut off or damaged: copy it again"):
        read_content(tmp_path / "a.pth")


@pytest.mark.parametrize("prefix", ["resnet.", "", "module.resnet."])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_resnet_of_transformers(tmp_path: Path, name: str, prefix: str) -> None:
    """Its names written down from torchvision's, block by block."""
    resnet = models.get_model(name, weights=None, num_classes=3)
    expected = resnet.state_dict()
    modules = {"conv1": "embedder.embedder.convolution", "bn1": "embedder.embedder.normalization"}
    for stage in range(4):
        for number, block in enumerate(getattr(resnet, f"layer{stage + 1}")):
            mine, theirs = f"layer{stage + 1}.{number}.", f"encoder.stages.{stage}.layers.{number}."
            for place in range(3 if hasattr(block, "conv3") else 2):
                modules[f"{mine}conv{place + 1}"] = f"{theirs}layer.{place}.convolution"
                modules[f"{mine}bn{place + 1}"] = f"{theirs}layer.{place}.normalization"
            if block.downsample is not None:
                modules[f"{mine}downsample.0"] = f"{theirs}shortcut.convolution"
                modules[f"{mine}downsample.1"] = f"{theirs}shortcut.normalization"
    modules = {mine: prefix + theirs for mine, theirs in modules.items()}
    modules["fc"] = f"{prefix.removesuffix('resnet.')}classifier.1"
    renamed = {}
    for key, value in expected.items():
        module, _, leaf = key.rpartition(".")
        renamed[f"{modules[module]}.{leaf}"] = value
    found = read(tmp_path, renamed).tensors
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
