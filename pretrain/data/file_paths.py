"""File paths by the million."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray


class Paths(Sequence[Path]):
    """File paths as their folders and one array of names; a Path is made when it is asked for.

    A tuple of Path objects takes some 300 bytes a file. Each worker process soon has a copy of its
    own: looking at an object counts its references, which writes to its page. An array is shared.

    Args:
        folders: Folders.
        folder_of: (N,) folder of each file, as a position in `folders`.
        names: (N,) names in those folders, as the file system encodes them.
    """

    __slots__ = ("_folder_of", "_folders", "_names")

    def __init__(
        self, folders: Sequence[Path], folder_of: NDArray[np.int32], names: NDArray[np.bytes_]
    ) -> None:
        self._folders, self._folder_of, self._names = tuple(folders), folder_of, names

    @classmethod
    def of(cls, paths: Iterable[Path]) -> "Paths":
        """Pack any paths; those that are packed stay as they are."""
        if isinstance(paths, Paths):
            return paths
        paths = list(paths)
        numbers: dict[Path, int] = {}
        folder_of = [numbers.setdefault(path.parent, len(numbers)) for path in paths]
        return cls(
            list(numbers), np.array(folder_of, np.int32), encode(path.name for path in paths)
        )

    @classmethod
    def in_folders(cls, folders: Sequence[Path], names: Iterable[NDArray[np.bytes_]]) -> "Paths":
        """Pack the names of the files of each folder."""
        arrays = list(names)
        folder_of = np.repeat(np.arange(len(folders), dtype=np.int32), [len(a) for a in arrays])
        return cls(folders, folder_of, np.concatenate([encode(()), *arrays]))

    def take(self, chosen: NDArray[np.int64]) -> "Paths":
        """Keep the paths at some positions, in that order."""
        return Paths(self._folders, self._folder_of[chosen], self._names[chosen])

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> "Paths": ...

    def __getitem__(self, index: int | slice) -> "Path | Paths":
        if isinstance(index, slice):
            return Paths(self._folders, self._folder_of[index], self._names[index])
        folder: Path = self._folders[self._folder_of[index]]
        return folder / os.fsdecode(self._names[index])

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # equal to tuples that hold the same


def encode(names: Iterable[str]) -> NDArray[np.bytes_]:
    """Pack names, each as long as the longest, as the file system encodes them."""
    return np.array([os.fsencode(name) for name in names], np.bytes_)
