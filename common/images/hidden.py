"""Files and folders that a system puts beside people's own, which belong to no data set.

macOS writes `.DS_Store` into each folder and, on foreign disks and in archives, a `._x` beside each
x, whatever x is: pictures, annotations, lists, shards. Each is no picture, no XML, no list.
"""

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


def descendants(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the same of a folder and those below it; nothing within a hidden folder."""
    found = folder.rglob(pattern)
    return sorted(p for p in found if not any(map(is_hidden, p.relative_to(folder).parts)))
