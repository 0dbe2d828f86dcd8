"""Finding the picture of an annotation."""

import os
import unicodedata
from pathlib import Path

from common.errors import InputError
from common.images.headers import SUFFIXES
from common.images.hidden import is_hidden
from common.text import no_name
from detect.data.dataset import MissingFileError, quoted

_MOST_NAME, _MOST_PATH = 240, 1000
"""Bytes and characters of a file name and of a path, below what file systems take: there is an
ending, and a folder."""


def is_picture(name: str) -> bool:
    """Tell a picture by its suffix; a hidden file is none."""
    return name.lower().endswith(tuple(SUFFIXES)) and not is_hidden(name)


def check_image_id(line: str, where: str) -> None:
    """Refuse an image id that leads out of the folder, or cannot be shown: ids become file names.

    Raises:
        InputError: It is blank, absolute, goes upwards, or holds what is not printable.
    """
    if not line:
        raise InputError(f"{where} is blank: write one image id per line")
    parts = line.replace("\\", "/").split("/")
    if no_name(line) or {"", ".", ".."} & set(parts) or ":" in parts[0][1:2]:
        raise InputError(
            f"{where}: {quoted(line)} is no image id: name a file in the folder of images"
        )
    if (
        len(line) > _MOST_PATH
        or max(len(os.fsencode(part)) for part in line.split("/")) > _MOST_NAME
    ):
        raise InputError(f"{where}: {quoted(line)} is too long for a file name: shorten it")


def spellings(name: str) -> list[str]:
    """Return a name as it is, and as other systems write its accents: macOS in pieces."""
    if name.isascii():
        return [name]
    return list(dict.fromkeys([name, *(unicodedata.normalize(f, name) for f in ("NFC", "NFD"))]))


class Pictures:
    """The image files of a folder and of those below it, by id."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folders: dict[Path, dict[str, list[str]]] = {}

    def _below(self, folder: Path) -> dict[str, list[str]]:
        """Return file names by stem; dangling links are left out."""
        if folder not in self._folders:
            names: dict[str, list[str]] = {}
            if folder.is_dir():
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if is_picture(entry.name) and entry.is_file():
                            names.setdefault(entry.name.rpartition(".")[0], []).append(entry.name)
            self._folders[folder] = names
        return self._folders[folder]

    def names(self) -> list[str]:
        """Return the stems of all images of the folder itself."""
        return sorted(self._below(self.root))

    def find(self, image_id: str, stated: str = "") -> Path:
        """Find the picture of an annotation.

        Args:
            image_id: Its id: a name without suffix, perhaps with folders before it.
            stated: The file name that the annotation states; only its last part is looked at, so it
                never leads elsewhere.

        Raises:
            MissingFileError: There is none.
            InputError: There are several, and the annotation does not say which.
        """
        folder = (self.root / image_id).parent
        stem, known = image_id.replace("\\", "/").rpartition("/")[2], self._below(folder)
        name = stated.replace("\\", "/").rpartition("/")[2]
        of_id = next((known[other] for other in spellings(stem) if other in known), [])
        if name in known.get(name.rpartition(".")[0], ()):
            if of_id and name not in of_id:
                raise InputError(
                    f"{folder} holds {of_id[0]}, but the annotation {quoted(stem)} says that it is "
                    f"of {quoted(name)}, which is there too: correct its <filename>"
                )
            return folder / name
        if len(of_id) > 1:
            raise InputError(
                f"{folder} holds {' and '.join(sorted(of_id))}: keep one, or name it in <filename>"
            )
        if not of_id:
            raise MissingFileError(folder, name if is_picture(name) else f"{stem}.jpg")
        return folder / of_id[0]
