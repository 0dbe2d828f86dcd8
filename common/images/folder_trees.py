"""Folder trees in error messages: what a reader expected beside what it found."""

import textwrap
from pathlib import Path

MAX_ENTRIES = 12
MAX_NESTED = 3


def _found(folder: Path, limit: int, nested: int = 0) -> list[str]:
    """Names in a folder, folders first and with a slash; ``nested`` names inside each of those."""
    lines: list[str] = []
    for path in sorted(folder.iterdir(), key=lambda path: (not path.is_dir(), path.name)):
        if len(lines) >= limit:
            return [*lines[:limit], "..."]
        lines.append(f"{path.name}/" if path.is_dir() else path.name)
        if nested and path.is_dir():
            lines += [f"  {line}" for line in _found(path, nested)]
    return lines


def compare_trees(root: Path, expected: str) -> str:
    """Render the tree that should be below a folder, and what is there.

    Args:
        root: The folder a user named.
        expected: The tree that a reader needs, one entry a line, indented by level.

    Returns:
        Two indented blocks, "expected" and "found"; of what is found, two levels, cut short.
    """
    if root.is_dir():
        found = _found(root, MAX_ENTRIES, MAX_NESTED) or ["nothing: the folder is empty"]
    else:
        found = ["nothing: it is a file" if root.exists() else "nothing: no such folder"]
    blocks = textwrap.dedent(expected).strip("\n"), "\n".join(found)
    wanted, there = (textwrap.indent(block, "    ") for block in blocks)
    return f"  expected in {root}:\n{wanted}\n  found:\n{there}"
