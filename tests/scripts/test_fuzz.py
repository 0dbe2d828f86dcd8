"""Every parser takes or refuses changed inputs, and what long runs of `scripts/fuzz.py` found."""

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from fuzzing.parsers import PARSERS
from fuzzing.running import Parser, Session

from common.errors import InputError
from common.runs.metrics_log import read_metrics
from common.storage import open_regular, read_json, read_text
from common.weights.detectron2 import read_detectron2

RUNS = 400
"""Of each parser: 10,000 in all."""


@pytest.mark.parametrize("name", PARSERS)
def test_only_input_errors_come_out(name: str, tmp_path: Path) -> None:
    parser = PARSERS[name]
    session = Session(parser, parser.prepare(tmp_path), list(parser.seeds()))
    session.run(RUNS, seed=0)
    assert session.findings == {}
    assert sum(session.outcomes.values()) >= RUNS


def test_a_parser_that_breaks_is_found(tmp_path: Path) -> None:
    """A parser that lets one kind of error out."""

    def read(data: bytes) -> None:
        if not data.startswith(b"{"):
            raise InputError("no JSON: write it again")
        json.loads(data)

    parser = Parser("", lambda: [b'{"a": 1}'], lambda _: read)
    session = Session(parser, read, [b'{"a": 1}'], tmp_path)
    session.run(300, seed=0)
    assert any("Error" in told for told in session.findings)
    assert {p.read_bytes() for p in tmp_path.glob("finding-*")} == set(session.findings.values())


# The name of a class that torch takes seconds over, to say that it is none, in either kind of file.
LONG_NAME = b"\x80\x02ca.b\n" + b"x" * 100_000 + b"\n."


def torch_file(pickled: bytes) -> bytes:
    """A file of torch.save whose content is replaced."""
    whole, file = io.BytesIO(), io.BytesIO()
    torch.save({}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))
    return file.getvalue()


def old_torch_file(pickled: bytes) -> bytes:
    """The same as old versions wrote it."""
    file = io.BytesIO()
    torch.save({}, file, _use_new_zipfile_serialization=False)
    head, empty, _ = file.getvalue().partition(b"\x80\x02}q\x00.")
    assert empty
    return head + pickled


def shard_index(**wrong: Any) -> bytes:
    shard = {"name": "a.tar", "bytes": 1024, "sha256": "0" * 64, **wrong}
    samples = {"name": ["b"], "class": [0], "shard": [0], "offset": [0], "size": [9]}
    index = {"format": 1, "classes": ["a"], "shards": [shard], "samples": samples}
    return json.dumps(index).encode()


def png_that_states_more() -> bytes:
    whole = bytes(cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1])
    assert whole.endswith(b"\0\0\0\0IEND\xaeB`\x82")
    return whole[:-12] + b"\xae" + whole[-11:]


def shard_tar(name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo(name)
        member.size, member.type = len(content), kind
        tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


INPUTS = {
    "image": [png_that_states_more()],
    "checkpoint": [torch_file(LONG_NAME)],
    "coco": [
        b'{"images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}], '
        b'"categories": [{"id": 1, "name": "a"}], "annotations": [{"id": 1, "image_id": 1, '
        b'"category_id": 1, "bbox": [1, 1, 1' + b"0" * 400 + b", 2]}]}",
        b'{"images": [], "annotations": [0], "categories": [{"id": 1, "name": "a"}]}',
        b'{"images": [], "annotations": [{"image_id": []}], "categories": '
        b'[{"id": 1, "name": "a"}]}',
        b'{"images": [{"id": 1, "file_name": "a.jpg", "width": Infinity, "height": 9}], '
        b'"annotations": [], "categories": [{"id": 1, "name": "a"}]}',
    ],
    "voc-xml": [
        b"<annotation><size><width>9223372036854775808</width><height>9</height></size></annotation>"
    ],
    "yolo-labels": [b"1 0.1 0.1 0.2 0.1 0.2 0.3 0.1 -1e308\n", b"0 1e308 0.5 1e308 0.5\n"],
    "yolo-yaml": [
        b"names: {.inf: a}\ntrain: images/train\n",
        b"names: [a]\ntrain: 2001-99-99\n",
        b"names: [a]\ntrain: !!timestamp x\n",
        b"a: &a [x, x]\nb: &b [*a, *a]\nnames: *b\ntrain: images/train\n",
        b"names: [a]\nnc: 0x" + b"f" * 9000 + b"\ntrain: images/train\n",
        b"names: [a]\ntrain: " + b"a" * 300,
        b"names: [a]\ntrain: images/train\nval: /\n",
        b"names: [a]\ntrain: images/train\nkpt_shape: [" + b"17" * 2000 + b", 3]\n",
    ],
    "torch-weights": [
        torch_file(LONG_NAME),
        old_torch_file(LONG_NAME),
        old_torch_file(b"\x80\x02}q\x00." + LONG_NAME),  # where it names the storages
        torch_file(
            b"\x80\x02}q\x00X\x05\x00\x00\x00modelq\x01}q\x02K\x01K\x02ss."
        ),  # {"model": {1: 2}}
        b"PK\x03\x04"
        + bytes(60)
        + b"PK\x06\x06"
        + bytes(52)
        + b"PK\x06\x07"
        + bytes(12)
        + b"\x02\0\0\0"
        + b"PK\x05\x06"
        + bytes(18),
    ],
    "id-list": [b"x" * 300, b"x" * 300 + b" 1\n", b"a\\" * 400],
    "detections-voc": [b"img 3 0.9 1 2 1e308 9\n"],
    "detections-coco": [
        gzip.compress(bytes(30_000_000), mtime=0),
        b"[" * 100_000,
        b'[{"image_id": 1, "category_id": 1, "score": 1, "bbox": [0, 0, 1'
        + b"0" * 5000
        + b", 1]}]",
    ],
    "metrics": [
        b'{"step": 1, "a": 1' + b"0" * 400 + b"}\n",
        b"\xff\n",
        b'{"step": "a"}\n',
        b"[" * 100_000 + b"\n",
        b"3\n",
    ],
    "recipe": [b'{"a": 1' + b"0" * 5000 + b"}", b"[" * 100_000, b"\xff"],
    "cifar-batch": [
        b"\x80\x02c" + b"x" * 5000 + b"\nndarray\n.",
    ],
    "shard-tar": [
        shard_tar(f"a/{'x' * 5000}.cls", b"none"),
        shard_tar(f"a/{'x' * 5000}.cls", b"0"),
        shard_tar(f"../{'x' * 5000}.jpg", b"0"),
        shard_tar(f"a/{'x' * 5000}.jpg", b"", tarfile.SYMTYPE),
    ],
    "shard-index": [
        b"[" * 100_000,
        b'{"format": 1' + b"0" * 5000 + b"}",
        shard_index(name="9" * 5000),
        shard_index(bytes=10**3000),
    ],
}


@pytest.mark.parametrize("name", INPUTS)
def test_what_was_found_stays_mended(name: str, tmp_path: Path) -> None:
    parser = PARSERS[name]
    session = Session(parser, parser.prepare(tmp_path), [])
    for data in INPUTS[name]:
        session.give(data)
    assert session.findings == {}
    assert any(told.startswith("refused") for told in session.outcomes)


def test_a_pickle_cannot_reach_numpy_itself(tmp_path: Path) -> None:
    """A type whose state lacks two entries kills the process where numpy takes it."""
    path = tmp_path / "a.pkl"
    whole = pickle.dumps({"model": {"a": np.ones((2, 3), ">f8")}}, 2)
    path.write_bytes(whole)
    found = read_detectron2(path)["a"]
    assert found.dtype == np.float64 and found.dtype.isnative
    assert np.array_equal(found, np.ones((2, 3)))
    assert whole.count(b"NNN") == 1
    path.write_bytes(whole.replace(b"NNN", b"N"))
    assert np.array_equal(read_detectron2(path)["a"], found)  # nothing of it is needed


def test_a_pickle_that_takes_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    for content in (
        b"\x80\x02}r" + struct.pack("<I", 2**31) + b".",
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.",
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match="no file of detectron2|not a pickle of arrays"):
            read_detectron2(path)


def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "metrics.jsonl"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(OSError, match="No regular file"):
            open_regular(path)
        for read in (read_text, read_json):
            with pytest.raises(InputError, match="No regular file"):
                read(path)
    with pytest.raises(InputError, match="No regular file"):
        read_metrics(tmp_path)
