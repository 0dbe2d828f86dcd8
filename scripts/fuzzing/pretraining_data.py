"""What pretraining and both stages read: images, archives, lists, weights, checkpoints, logs."""

import gzip
import io
import json
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import save
from sharding.indexing import scan

from common.errors import InputError
from common.images.decoding import plain_jpeg, read_image
from common.images.headers import read_header
from common.images.orientation import exif_orientation, upright_size
from common.runs import checkpoints
from common.runs.folder import read_description
from common.runs.metrics_log import MetricsLog, read_metrics
from common.storage import to_json
from common.weights.backbone import load_backbone
from common.weights.initial import read_initial
from common.weights.reading import read_weights
from detect.recipes import RECIPES as DETECTORS
from detect.recipes import Recipe as Detector
from detect.train import _pixel_statistics
from fuzzing.mutations import GZIP, SAFETENSORS, zip_member
from fuzzing.running import Parser, Read
from pretrain.data import cifar
from pretrain.data.datasets import class_folders
from pretrain.data.shards import read_index
from pretrain.export.inspection import inspect
from pretrain.recipes import RECIPES, Recipe


def _file(name: str, use: Callable[[Path], object]) -> Callable[[Path], Read]:
    """Write an input to a file of a name, and use that."""

    def prepare(folder: Path) -> Read:
        path = folder / name

        def read(data: bytes) -> None:
            path.write_bytes(data)
            use(path)

        return read

    return prepare


# ---- images -------------------------------------------------------------------------------------


def _use_image(path: Path) -> None:
    data = path.read_bytes()
    read_header(data)
    exif_orientation(data)
    plain_jpeg(data)
    with_size = upright_size(path)
    assert min(with_size) >= 0
    read_image(path, upright=bool(len(data) % 2))


def _image_seeds() -> list[bytes]:
    pixels = np.arange(12 * 16 * 3, dtype=np.uint8).reshape(12, 16, 3)
    found = [cv2.imencode(end, pixels)[1].tobytes() for end in (".jpg", ".png", ".bmp", ".webp")]
    found.append(cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes())
    found.append(cv2.imencode(".png", pixels[..., 0])[1].tobytes())
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    found.append(found[0][:2] + segment + found[0][2:])
    gif = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff!\xf9\x04\0\0\0\0\0"
    return [*found, gif + b",\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"]


# ---- archives -----------------------------------------------------------------------------------


def _tar(entries: dict[str, bytes], kind: int = tarfile.USTAR_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def _shard(kind: int = tarfile.USTAR_FORMAT, name: str = "a/0") -> bytes:
    return _tar({f"{name}.jpg": b"jpeg", f"{name}.cls": b"0", "1.png": b"", "1.cls": b"1\n"}, kind)


def _published() -> cifar.Published:
    return replace(cifar.CIFAR10, train=(cifar.Batch("data_batch_1", 2, ""),))


def _cifar_archive(folder: Path) -> Read:
    published = _published()
    path = folder / published.versions[0].archive

    def read(data: bytes) -> None:
        path.write_bytes(data)
        cifar.read_archive(published, path, published.train, official=False)

    return read


def _cifar_batch(folder: Path) -> Read:
    """Read a batch as it is unpacked, records or a pickle by its first byte."""
    published = _published()

    def read(data: bytes) -> None:
        for name in ("data_batch_1", "data_batch_1.bin"):
            (folder / name).unlink(missing_ok=True)
        (folder / f"data_batch_1{'' if data[:1] == bytes([128]) else '.bin'}").write_bytes(data)
        cifar.read_unpacked(published, folder, published.train, official=False)

    return read


def _records() -> bytes:
    return bytes(3073) + bytes([9]) + bytes(range(256)) * 12


def _cifar_pickle(protocol: int) -> bytes:
    data = np.zeros((1, 3072), np.uint8)
    return pickle.dumps({"data": data, "labels": [3], "batch_label": "x"}, protocol)


def _shard_index() -> list[bytes]:
    sample = {"name": ["a.jpg", "b.jpg"], "class": [0, 1], "shard": [0, 0]}
    index = {
        "format": 1,
        "made_from": None,
        "pixels": "256 px, JPEG 95",
        "classes": ["ant", "bee"],
        "shards": [{"name": "a.tar", "bytes": 1024, "sha256": "0" * 64}],
        "samples": {**sample, "offset": [0, 512], "size": [9, 512]},
    }
    return [json.dumps(index).encode(), json.dumps({**index, "pixels": None}).encode()]


def _index(folder: Path) -> Read:
    (folder / "a.tar").write_bytes(bytes(1024))

    def read(data: bytes) -> None:
        (folder / "index.json").write_bytes(data)
        found = read_index(folder)
        for number in range(min(3, len(found.labels))):
            found.read(number)
        _ = found.described

    return read


def _label_table(folder: Path) -> Read:
    """Read train images in one folder, of which a list beside it says the classes."""
    (folder / "train").mkdir()
    for name in ("a.jpg", "b.jpg", "c d.png"):
        (folder / "train" / name).write_bytes(b"x")

    def read(data: bytes) -> None:
        for suffix in ("csv", "txt"):
            (folder / f"train.{suffix}").unlink(missing_ok=True)
        (folder / f"train.{'csv' if len(data) % 2 else 'txt'}").write_bytes(data)
        class_folders(folder, "train")

    return read


_TABLES = (
    b"id,label\na,cat\nb,dog\nc d,cat\n",
    b"image\tclass\na.jpg\tcat\nb.jpg\tdog\nc d.png\tdog\n",
    b"ImageId,PredictionString\na,n1 1 2 3 4 n1 5 6 7 8\nb,n2 1 1 1 1\nc d,n2 1 2 3 4\n",
    b"train/a.jpg;0\ntrain/b.jpg;1\n'c d.png';1\n",
)

# ---- weights ------------------------------------------------------------------------------------


def _tensors() -> dict[str, torch.Tensor]:
    names = ("conv1.weight", "layer1.0.conv1.weight", "bn1.num_batches_tracked", "fc.weight")
    shapes = ((2, 3, 1, 1), (2, 2, 1, 1), (), (3, 2))
    return {
        name: torch.zeros(shape, dtype=torch.int64 if not shape else torch.float32)
        for name, shape in zip(names, shapes, strict=True)
    }


def _torch(content: Any, **how: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **how)
    return file.getvalue()


def _wrapped() -> list[Any]:
    tensors = _tensors()
    prefixed = {f"module.{name}": value for name, value in tensors.items()}
    checkpoint = {"model": tensors, "step": 3, "epoch": 1, "metrics": {"val_accuracy": 0.5}}
    return [tensors, {"state_dict": prefixed, "epoch": 2}, {**checkpoint, "optimizer": {}}]


def _use_weights(path: Path) -> None:
    """Do with a file of weights what a command does; each refuses what the others may take."""
    uses: tuple[Callable[[Path], object], ...] = (read_initial, read_weights)
    errors = []
    for use in uses:
        try:
            use(path)
        except InputError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _use_checkpoint(path: Path) -> None:
    checkpoints.load_to_resume(path)


def _use_detectron2(path: Path) -> None:
    _use_weights(path)


def _pickled(protocol: int, kind: str = "<f4") -> bytes:
    names = ("stem.conv1.weight", "res2.0.conv1.weight")
    arrays = {name: np.zeros((2, 1, 1, 1), kind) for name in names}
    return pickle.dumps({"model": arrays, "__author__": "x"}, protocol)


def _card(folder: Path) -> Read:
    weights = folder / "a.safetensors"
    weights.write_bytes(save(_tensors()))

    def read(data: bytes) -> None:
        (folder / "a.json").write_bytes(data)
        _, card = load_backbone(weights, "resnet50")
        _pixel_statistics(card, weights)
        read_initial(weights)

    return read


def _card_seeds() -> list[bytes]:
    pixels = {"image_size": 224, "channel_order": "RGB", "mean": [0.5] * 3, "std": [0.2] * 3}
    card = {
        "architecture": "resnet50",
        "layout": "torchvision",
        "recipe_name": "a",
        "seed": 0,
        "epoch": 3,
        "metrics": {"val_accuracy": 0.5},
        "classes": ["ant", "bee"],
        "preprocessing": pixels,
        "file": "a.safetensors",
    }
    return [json.dumps(card).encode(), b"{}"]


# ---- runs ---------------------------------------------------------------------------------------


def _recipe(stage: str) -> bytes:
    recipes: Any = RECIPES if stage == "pretrain" else DETECTORS
    name, made = next(iter(recipes.items()))
    recipe = made() if callable(made) else made
    return to_json({"stage": stage, "name": name, "seed": 0, "recipe": recipe}).encode()


def _metrics(folder: Path) -> Read:
    (folder / "recipe.json").write_bytes(_recipe("pretrain"))

    def read(data: bytes) -> None:
        (folder / "metrics.jsonl").write_bytes(data)
        read_metrics(folder)
        inspect(folder)
        log = MetricsLog(folder, step=3)
        log.write({"step": 4, "loss": 0.5})

    return read


def _description(folder: Path) -> Read:
    def read(data: bytes) -> None:
        (folder / "recipe.json").write_bytes(data)
        stage = "detect" if b'"detect"' in data else "pretrain"
        if stage == "detect":
            read_description(folder, stage, Detector)
        else:
            read_description(folder, stage, Recipe)
        inspect(folder)

    return read


_RECORDS = (
    b'{"step": 1, "epoch": 1, "loss": 0.5, "seconds": 1.5}\n'
    b'{"step": 2, "epoch": 2, "val_accuracy": 0.25}\n'
)

PARSERS = {
    "image": Parser(
        "headers, orientation and pixels of images",
        _image_seeds,
        _file("a.jpg", _use_image),
        [
            *(b"\xff\xd8", b"\xff\xd9", b"\xff\xda", b"\xff\xc0", b"\xff\xc2", b"\xff\xe1"),
            *(b"Exif\0\0", b"II*\0", b"MM\0*", b"VP8 ", b"VP8L", b"VP8X", b"EXIF"),
            *(b"IHDR", b"IDAT", b"PLTE", b"eXIf", b"acTL", b"fcTL"),
        ],
    ),
    "cifar-archive": Parser(
        "CIFAR's archives",
        lambda: [
            gzip.compress(_tar({"cifar-10-batches-bin/data_batch_1.bin": _records()}), mtime=0)
        ],
        _cifar_archive,
        (b"cifar-10-batches-bin/data_batch_1.bin", b"ustar\0", b"ustar  \0"),
        (GZIP,),
    ),
    "cifar-batch": Parser(
        "CIFAR's batches, records and pickles",
        lambda: (_records(), *(_cifar_pickle(protocol) for protocol in (0, 2, 4))),
        _cifar_batch,
        (b"cnumpy\nndarray\n", b"cos\nsystem\n", b"R.", b"\x93", b"\x81", b"b", b"\x86", b"2"),
    ),
    "shard-index": Parser("index.json of tar shards", _shard_index, _index),
    "shard-tar": Parser(
        "tar files of shards, when they are indexed",
        lambda: (
            _shard(),
            _shard(tarfile.GNU_FORMAT, "a" * 120),
            _shard(tarfile.PAX_FORMAT, "é" * 120),
        ),
        _file("train-0.tar", scan),
        (b"ustar\0", b"ustar  \0", b".cls", b".jpg", b"path=", b"size=", b"GNU.sparse.major=1\n"),
    ),
    "label-table": Parser(
        "lists of images and their classes",
        lambda: _TABLES,
        _label_table,
        (b"a.jpg", b"b", b"c d", b"cat", b"label", b'"', b'""', b"\t", b";"),
    ),
    "safetensors": Parser(
        "weights in safetensors",
        lambda: (save(_tensors(), {"format": "pt"}), save({"a": torch.zeros(2)})),
        _file("a.safetensors", _use_weights),
        (b'"F32"', b'"BF16"', b'"F8_E4M3"', b'"F4"', b'"data_offsets"', b'"shape"'),
        (SAFETENSORS,),
    ),
    "card": Parser("the JSON card of a backbone", _card_seeds, _card),
    "torch-weights": Parser(
        "weights in torch's files, old and new",
        lambda: [
            *(_torch(content) for content in _wrapped()),
            _torch(_tensors(), _use_new_zipfile_serialization=False),
        ],
        _file("a.pth", _use_weights),
        (
            b"ctorch\nFloatStorage\n",
            b"ctorch._utils\n_rebuild_tensor_v2\n",
            b"cos\nsystem\n",
            b"R.",
        ),
        (zip_member("data.pkl"),),
    ),
    "checkpoint": Parser(
        "checkpoints of a training",
        lambda: [_torch(content) for content in _wrapped()[1:]],
        _file("last.pt", _use_checkpoint),
        (b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n", b"cos\nsystem\n", b"R."),
        (zip_member("data.pkl"),),
    ),
    "detectron2": Parser(
        "detectron2's pickles of weights",
        lambda: [*(_pickled(protocol) for protocol in (0, 2, 4)), _pickled(2, ">f8")],
        _file("a.pkl", _use_detectron2),
        (b"cnumpy\ndtype\n", b"c_codecs\nencode\n", b"cos\nsystem\n", b"R.", b"\x93", b"b", b"2"),
    ),
    "metrics": Parser("metrics.jsonl of a run", lambda: (_RECORDS, b""), _metrics),
    "recipe": Parser(
        "recipe.json of a run", lambda: [_recipe("pretrain"), _recipe("detect")], _description
    ),
}
