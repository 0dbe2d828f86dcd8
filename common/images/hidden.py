"""Files and folders that a system puts beside people's own, which belong to no data set.

macOS writes `.DS_Store` into each folder and, on foreign disks and in archives, a `._x` beside each
x, whatever x is: pictures, annotations, lists, shards. Each is no picture, no XML, no list.
"""

import os
from collections.abc import Iterator
from pathlib import Path

_OF_SYSTEMS = {
    "__macosx",
    "@eadir",  # Synology's, with a small copy of each picture
    "$recycle.bin",
    "system volume information",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
}
"""In lower case."""


def is_hidden(name: str) -> bool:
    """Tell by its name whether a file or folder is hidden or a system's own."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def children(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the files and folders in a folder that fit a pattern and are not hidden, in order.

    Where there is no such folder, there are none.
    """
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if not is_hidden(path.name))
    return sorted(path for path in found if path.match(pattern))


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and of those below it that are not hidden.

    Each folder once, whatever links say; a link to a folder above leads to what is not below.
    """
    seen = set[Path]()
    top = folder.resolve()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = Path(root).resolve()
        if real in seen or (seen and top.is_relative_to(real)):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(folder for folder in folders if not is_hidden(folder))
        yield from (Path(root) / file for file in sorted(files) if not is_hidden(file))


def descendants(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the same files in the order of their paths, those that fit a pattern."""
    return sorted(path for path in files_below(folder) if path.match(pattern))
