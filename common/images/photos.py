"""Photos that a person names or holds: found, read upright, whatever their form.

Where the boxes and published accuracies of data sets refer to pixels as stored, a photo of one's
own is looked at as a viewer shows it: its EXIF orientation is applied.
"""

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from common.errors import InputError
from common.images.decoding import read_image
from common.images.headers import SUFFIXES
from common.images.hidden import files_below, is_hidden
from common.images.loading import default_workers, stream
from common.images.sampling import MicroBatch
from common.text import counted, in_line

Prepared = TypeVar("Prepared")
_FEW = 16
"""So many photos are read sooner than processes that read them are started."""


@dataclass(frozen=True, slots=True)
class Photos:
    """Image files, each once."""

    paths: tuple[Path, ...]
    """The files, in the order of their names."""
    names: tuple[str, ...]
    """Their unique names: the paths below the folder that holds all, with slashes."""
    passed_over: tuple[Path, ...] = ()
    """Files beside them that have no suffix of an image and are not hidden."""


def find_photos(sources: Sequence[Path], without: Path | None = None) -> Photos:
    """Find the photos that a command is to look at.

    Args:
        sources: Files, whatever their names; folders, searched with those below them; patterns such
            as `photos/*.jpg` and `photos/**/*.png`. A file or folder of that very name comes first.
        without: A folder whose files are no photos: the command's own pictures.

    Raises:
        InputError: If a source is not there, or no photo is found.
    """
    found: dict[Path, None] = {}
    others: dict[Path, None] = {}
    for named in sources:
        source = _absolute(named)
        if source.is_dir():
            files = list(files_below(source))
        elif os.path.lexists(source):
            found[source] = None
            continue
        elif glob.has_magic(str(source)):
            matches = glob.glob(str(source), recursive=True)  # noqa: PTH207 - Path has no absolute
            files = [file for file in map(Path, sorted(matches)) if not file.is_dir()]
            fixed = next(folder for folder in source.parents if not glob.has_magic(str(folder)))
            files = [f for f in files if not any(map(is_hidden, f.relative_to(fixed).parts))]
        else:
            raise InputError(f"{in_line(str(named))} is not there: name a file, folder or pattern")
        photos = dict.fromkeys(filter(_is_photo, files))
        if not photos:
            raise InputError(
                f"{in_line(str(named))} names no photo{_beside(files)}: name photos, which end in "
                f"{' '.join(SUFFIXES)}"
            )
        found |= photos
        others |= {file: None for file in files if file not in photos}
    if without is not None:
        inside = os.path.join(_absolute(without), "")  # noqa: PTH118 - with a slash behind it
        found = {file: None for file in found if not str(file).startswith(inside)}
        if not found:
            raise InputError(f"all photos lie in {without}, which is written to: move them first")
    paths = sorted(found)
    base = _absolute(sources[0])
    if len(sources) > 1 or not base.is_dir():
        base = Path(os.path.commonpath({file.parent for file in paths}))
    names = tuple(file.relative_to(base).as_posix() for file in paths)
    return Photos(tuple(paths), names, tuple(others))


def _absolute(path: Path) -> Path:
    """Return a path from the root, without `..`; links stay as they are named."""
    return Path(os.path.normpath(Path.cwd() / path))


def _beside(files: Sequence[Path]) -> str:
    return f" among {counted(len(files), 'file')}" if files else ""


def _is_photo(file: Path) -> bool:
    return not is_hidden(file.name) and file.suffix.lower() in SUFFIXES


def read_each(
    photos: Any, *, keep_going: bool = False
) -> Iterator[tuple[Path | None, "NDArray[np.uint8] | Unreadable"]]:
    """Read what a program was given to look at: a path, a pattern, a photo, or several.

    Args:
        photos: A path of a file, a folder or a pattern; or one photo or several, as `read_photo`
            takes them.
        keep_going: Yield `Unreadable` for a photo that cannot be read instead of raising.

    Yields:
        The path of a photo (None where it is no file), and its pixels.

    Raises:
        InputError: If there is no photo at all, or one cannot be read.
    """
    if isinstance(photos, (str, Path)):
        photos = find_photos([Path(photos)]).paths
    elif (
        not isinstance(photos, Iterable)
        or isinstance(photos, bytes)
        or getattr(photos, "ndim", 4) < 4
    ):
        photos = [photos]
    for number, photo in enumerate(photos):
        path = Path(photo) if isinstance(photo, (str, Path)) else None
        try:
            if path is not None and path.is_dir():
                raise InputError(f"{in_line(str(path))} is a folder: give it alone, or its files")
            found: NDArray[np.uint8] | Unreadable = read_photo(photo, f"photo {number}")
        except InputError as error:
            if not keep_going:
                raise
            found = Unreadable(str(error))
        yield path, found


def read_photo(photo: Any, name: str = "the image") -> NDArray[np.uint8]:
    """Return the pixels of a photo, upright.

    Args:
        photo: Path of a file; array (H, W, 3), (H, W, 4) or (H, W), uint8, RGB; tensor (3, H, W) or
            (1, H, W), uint8 or floats in [0, 1], RGB; or an image of Pillow.
        name: What it is called in a message, where it is no file.

    Returns:
        (H, W, 3) uint8, RGB; alpha is left out, grey repeated.

    Raises:
        InputError: If it cannot be read, or is nothing of that kind.
    """
    if isinstance(photo, (str, Path)):
        return read_image(Path(photo), upright=True)
    if isinstance(photo, Image.Image):
        return _of_pillow(ImageOps.exif_transpose(photo), name)
    if isinstance(photo, Tensor):
        if photo.ndim != 3 or len(photo) not in (1, 3):
            raise InputError(f"{name} is a tensor of shape {tuple(photo.shape)}: give (3, H, W)")
        photo = photo.detach()
        if photo.dtype != torch.uint8 and not photo.is_floating_point():
            raise InputError(
                f"{name} is a tensor of {photo.dtype}: give uint8, or floats in [0, 1]"
            )
        if photo.is_floating_point():
            low, high = (float(value) for value in photo.aminmax()) if photo.numel() else (0, 0)
            if not 0 <= low <= high <= 1:
                raise InputError(f"{name} has floats from {low:.4g} to {high:.4g}: give [0, 1]")
            photo = (photo.float() * 255).round().byte()
        photo = photo.permute(1, 2, 0).cpu().numpy()
    if not isinstance(photo, np.ndarray):
        raise InputError(
            f"{name} is of type {type(photo).__name__}: give a path, array, tensor or image"
        )
    if photo.ndim == 3 and photo.shape[2] == 1:
        photo = photo[..., 0]
    shaped = photo.ndim == 2 or (photo.ndim == 3 and photo.shape[2] in (3, 4))
    if photo.dtype != np.uint8 or not shaped or photo.size == 0:
        raise InputError(
            f"{name} is an array of {photo.dtype} and shape {photo.shape}: give (H, W, 3) of uint8"
        )
    if photo.ndim == 2:
        photo = np.repeat(photo[..., None], 3, axis=2)
    return np.ascontiguousarray(photo[..., :3])


def _of_pillow(image: Image.Image, name: str) -> NDArray[np.uint8]:
    if image.mode == "F":
        raise InputError(f"{name} is of Pillow's mode F, floats of no known range: give mode RGB")
    if image.mode.startswith("I"):  # which Pillow would cut off at 255
        grey = np.asarray(image).astype(np.int64)
        low, high = (int(grey.min()), int(grey.max())) if grey.size else (0, 0)
        if low < 0 or high > 65535:
            raise InputError(f"{name} has values from {low} to {high}: give 8 or 16 bits")
        # Mode I is of 32 bits and says nothing of its range; I;16 and its like are of 16.
        shift = 8 if high > 255 or image.mode != "I" else 0
        return read_photo((grey >> shift).astype(np.uint8), name)
    return np.asarray(image.convert("RGB"))


@dataclass(frozen=True, slots=True)
class Unreadable:
    """In place of a photo that cannot be read: what is wrong with it, with its name."""

    reason: str


@dataclass(frozen=True, slots=True)
class _Reader(Generic[Prepared]):
    paths: Sequence[Path]
    prepare: Callable[[NDArray[np.uint8]], Prepared]

    def __call__(self, epoch: int, index: int) -> Prepared | Unreadable:
        try:
            return self.prepare(read_photo(self.paths[index]))
        except InputError as error:
            return Unreadable(str(error))


def stream_photos(
    paths: Sequence[Path],
    prepare: Callable[[NDArray[np.uint8]], Prepared],
    workers: int | None = None,
) -> Iterator[Prepared | Unreadable]:
    """Read photos ahead in processes, with a bar; memory does not grow with their number.

    Args:
        paths: The files.
        prepare: What is made of the pixels there, where they are read; a `partial` of a module's
            function, for it is sent to processes.
        workers: Processes that read; 0: none but this one; None: as many as cores.

    Yields:
        What was made of each photo, in order, or that it cannot be read.
    """
    if workers is None:
        workers = 0 if len(paths) <= _FEW else default_workers()
    one_by_one = (MicroBatch(0, np.array([index]), 1.0) for index in range(len(paths)))
    read = _Reader(paths, prepare)
    cpu = torch.device("cpu")
    items = stream(read, one_by_one, _only, workers=workers, device=cpu)
    # disable=None: no bar where nobody watches.
    yield from tqdm(items, "predicting", len(paths), unit=" photos", leave=False, disable=None)


def _only(items: list[Any]) -> Any:
    (item,) = items
    return item
