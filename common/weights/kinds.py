"""What a file is that holds no weights, or is called as another kind: by its first bytes."""

import zipfile
from pathlib import Path

from common.errors import InputError

EXPECTED = "a .safetensors file, or a .pth with a state dict of tensors"

_TORCH_PICKLE = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # what old torch.save begins with
_PICKLE = b"\x80"
_ZIP = b"PK\x03\x04"
_PACKED = "an archive: unpack it, and give what is in it"
_NOT_TORCH = (".safetensors", ".pkl")
"""Endings of files that torch does not write."""
_BEGINNINGS = {
    b"\x89HDF": "a Keras file (HDF5)",
    b"\x93NUMPY": "a NumPy array",
    b"version https://git-lfs": "a pointer of Git LFS, not the file (run git lfs pull)",
    b"\xff\xd8\xff": "a picture",
    b"\x89PNG": "a picture",
    b"GGUF": "a GGUF file",
    b"{": "JSON, such as the settings or the index of weights: give the weights, all in one file",
    b"\x1f\x8b": "an archive of gzip: unpack it, and give what is in it",
    b"<": "a web page, as a failed download leaves it",
    _PICKLE: "a pickle, such as detectron2's, which could run code",
}
_ENDINGS = {
    ".onnx": "an ONNX graph",
    ".keras": "a Keras archive",
    ".npz": "a NumPy archive",
    ".pb": "a TensorFlow graph",
    ".index": "a part of a TensorFlow checkpoint",
    ".data-00000-of-00001": "a part of a TensorFlow checkpoint",
    ".engine": "a TensorRT engine",
    ".distcp": "a part of a distributed checkpoint: put it together, python -m "
    "torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pth",
    ".tflite": "a TensorFlow graph",
    ".msgpack": "a Flax file",
}


def refuse_foreign(path: Path) -> None:
    """Refuse a file that is of another kind than its name says.

    Raises:
        InputError: It is; the message says of which, and what to do.
    """
    kind = _foreign_kind(path)
    if kind:
        raise InputError(f"{path} is {kind}{'' if ':' in kind else f': give {EXPECTED}'}")


def _foreign_kind(path: Path) -> str | None:
    """Name the format of a file that is not what its ending says; None: not known."""
    with path.open("rb") as file:
        start = file.read(512)
    if start[8:9] == b"{" and start[4:8] == bytes(4) and path.suffix != ".safetensors":
        return "a safetensors file under another name: rename it to end in .safetensors"
    kind = _archive_kind(path) if is_archive(path) else None
    if kind is None and path.suffix in _NOT_TORCH and start.startswith((_ZIP, _TORCH_PICKLE)):
        return "a torch file under another name: rename it to end in .pth"
    if kind or is_archive(path):
        return kind
    if not start.startswith(_TORCH_PICKLE):
        for beginning, kind in _BEGINNINGS.items():
            if start.startswith(beginning) and (beginning, path.suffix) != (_PICKLE, ".pkl"):
                return kind
        if start[257:262] == b"ustar":
            return _PACKED
    buffer = "an ONNX graph, or another protocol buffer" if start.startswith(b"\x08") else None
    return _ENDINGS.get(path.suffix.lower(), buffer)


def is_archive(path: Path) -> bool:
    """Tell a ZIP archive, as torch.save writes them."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # it says that it continues in another file
        return True


def _archive_kind(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError):
        return None  # torch's own error will tell
    if any(name.endswith(".npy") for name in names):
        return "a NumPy archive"
    if "model.weights.h5" in names:
        return "a Keras archive"
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript program, which carries code"
    if any(
        name.endswith(("/archive_format", "/serialized_exported_program.json")) for name in names
    ):
        return "a program of torch.export: give the state_dict() that it was made of"
    return None if any(name.endswith("data.pkl") for name in names) else _PACKED
