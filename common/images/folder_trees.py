"""What a reader of a folder expected beside what it found, in one line of an error message."""

import re
import textwrap
from pathlib import Path

from common.images.hidden import children
from common.text import in_line

MAX_ENTRIES = 6
MAX_NESTED = 3


def compare_trees(root: Path, expected: str) -> str:
    """Tell what should be below a folder, and what is there.

    Args:
        root: The folder a user named.
        expected: The tree that a reader needs, one entry per line, indented by level; what stands
            behind two blanks is a remark.

    Returns:
        A line of paths below the folder, as expected and as found; of what is found, two levels,
        cut short.
    """
    return f"  expected: {'; '.join(_leaves(expected))}. Found in {root}: {_found(root)}"


def _leaves(tree: str) -> list[str]:
    """Return the paths of a tree's leaves."""
    lines = textwrap.dedent(tree).strip("\n").splitlines()
    leaves, above = [], list[tuple[int, str]]()
    for number, line in enumerate(lines):
        level = len(line) - len(line.lstrip())
        name, *remark = re.split(r"\s{2,}", line.strip())
        above = [(depth, folder) for depth, folder in above if depth < level]
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if len(following) - len(following.lstrip()) > level and following:
            above.append((level, f"{name} {remark[0]} " if remark else name))
        else:
            path = "".join(folder for _, folder in above) + name
            leaves.append(" ".join([path, *remark]))
    return leaves


def _found(root: Path) -> str:
    if not root.is_dir():
        return "nothing: it is a file" if root.exists() else "nothing: no such folder"
    return ", ".join(_entries(root, MAX_ENTRIES, MAX_NESTED)) or "nothing: the folder is empty"


def _entries(folder: Path, limit: int, nested: int = 0) -> list[str]:
    """List a folder, folders first and with a slash; `nested` names inside each of those."""
    shown: list[str] = []
    try:
        paths = sorted(children(folder), key=lambda path: (not path.is_dir(), path.name))
    except OSError:
        return ["not to be listed"]
    for path in paths[:limit]:
        name = in_line(path.name)
        if path.is_dir():
            inner = _entries(path, nested) if nested else []
            name += f"/ ({', '.join(inner)})" if inner else "/"
        shown.append(name)
    return [*shown, "..."] if len(paths) > limit else shown
