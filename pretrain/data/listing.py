"""Listing folders of images: what is taken, what is skipped, what is at fault."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from common.errors import InputError, os_reason
from common.images.headers import SUFFIXES, UNREAD
from common.images.hidden import is_hidden
from common.text import counted, in_line

READ = ".jpg, .jpeg, .png, .bmp, .gif or .webp"


class Passed(NamedTuple):
    """What a listing left out: what it is, how many, and one of them."""

    noun: str
    rest: str
    number: int
    example: str

    def __str__(self) -> str:
        return f"{counted(self.number, self.noun)}{self.rest} (such as {in_line(self.example)})"


class Findings:
    """What a listing finds beside images.

    Args:
        root: What is skipped is named from here.
        keep_faults: Collect them; otherwise the first is raised.
    """

    def __init__(self, root: Path, *, keep_faults: bool = False) -> None:
        self.root, self.keep_faults = root, keep_faults
        self.faults: list[tuple[Path, str]] = []
        self._passed: dict[tuple[str, str], tuple[int, str]] = {}

    def fault(self, path: Path, reason: str) -> None:
        """Take note of a fault.

        Raises:
            InputError: The fault, unless faults are kept.
        """
        if not self.keep_faults:
            raise InputError(f"{in_line(str(path))}: {reason}")
        self.faults.append((path, reason))

    def pass_over(self, noun: str, path: Path | str, rest: str = "") -> None:
        """Count something that is left out.

        Args:
            noun: What it is, in the singular.
            path: Which one.
            rest: What follows the noun where it is shown.
        """
        count, example = self._passed.get((noun, rest), (0, ""))
        self._passed[noun, rest] = count + 1, example or os.path.relpath(path, self.root)

    @property
    def passed_over(self) -> tuple[Passed, ...]:
        """What was left out, by kind."""
        return tuple(Passed(*kind, *found) for kind, found in self._passed.items())


def scan(folder: Path) -> list[os.DirEntry[str]]:
    """List a folder. ImageNet has 1.3 million entries, so none is looked at.

    Raises:
        InputError: If it cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise InputError(f"cannot list the folder {folder}: {os_reason(error)}") from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def folder_names(folder: Path) -> list[str]:
    """Return the names of the folders in a folder that are not hidden, in order."""
    if not folder.is_dir():
        return []
    return sorted(e.name for e in scan(folder) if not is_hidden(e.name) and is_folder(e))


def holds_images(folder: Path, below: int = 2) -> bool:
    """Tell whether there are images in a folder, or so many folders below it."""
    entries = scan(folder)
    if any(is_image(entry.name) for entry in entries):
        return True
    inner = (entry for entry in entries if is_folder(entry) and not is_hidden(entry.name))
    return below > 0 and any(holds_images(Path(entry.path), below - 1) for entry in inner)


def is_image(name: str) -> bool:
    """Tell by its name whether a file is of a format that is read."""
    return PurePath(name).suffix.lower() in SUFFIXES


def class_names(folder: Path, findings: Findings) -> tuple[str, ...]:
    """Return the names of the class folders in a folder, in order."""
    names = []
    for entry in sorted(scan(folder), key=lambda entry: entry.name):
        path = folder / entry.name
        if is_hidden(entry.name):
            findings.pass_over("hidden file", path)
        elif is_folder(entry) and entry.is_symlink() and _leads_above(folder, path):
            findings.fault(path, "a link to a folder above it: remove it, or link a class folder")
        elif is_folder(entry):
            names.append(entry.name)
        elif entry.is_symlink() and not path.exists():
            target = in_line(str(path.readlink()))
            reason = f"a class folder that is a dangling link, to {target}: repair or remove it"
            findings.fault(path, reason)
        elif is_image(entry.name):
            findings.pass_over("image", path, " beside the class folders")
        else:
            _pass_over(path, findings)
    return tuple(names)


def images_below(folder: Path, findings: Findings) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder and those below it, each with the names of its images, in order."""
    names, inner = [], []
    for entry in scan(folder):
        if is_hidden(entry.name):
            findings.pass_over("hidden file", entry.path)
        elif is_folder(entry):
            if entry.is_symlink() and _leads_above(folder, Path(entry.path)):
                findings.pass_over("link", entry.path, " to a folder above")
            else:
                inner.append(entry.name)
        elif is_image(entry.name):
            if entry.is_symlink() and not Path(entry.path).exists():
                target = in_line(str(Path(entry.path).readlink()))
                reason = f"a dangling link, to {target}: fetch what it leads to, or remove it"
                findings.fault(Path(entry.path), reason)
            else:
                names.append(entry.name)
        elif entry.name != f"{folder.name}_boxes.txt":  # Tiny ImageNet's, which are known
            _pass_over(Path(entry.path), findings)
    yield folder, sorted(names)
    for name in sorted(inner):
        yield from images_below(folder / name, findings)


def _pass_over(path: Path, findings: Findings) -> None:
    suffix = path.suffix.lower()
    if suffix in UNREAD:
        findings.pass_over(f"{suffix} image", path, ", a format that is not read: convert to .png")
    elif path.is_symlink() and not path.exists():
        findings.pass_over("dangling link", path)
    else:
        findings.pass_over("other file", path)


def _leads_above(folder: Path, link: Path) -> bool:
    """Tell whether a link in a folder leads to that folder or one that it is in."""
    return folder.resolve().is_relative_to(link.resolve())
