"""YOLO labels with key points after a box, which data.yaml must state; they look like polygons."""

from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path

from common.errors import InputError
from detect.data.voc import read_lines

_FILES, _LINES = 50, 200
"""At most this many are looked at."""
_FEWEST = 10
"""Lines of which all may look like pairs by chance."""
_QUAD = 8
"""Numbers of a box that is turned: most are no box and two key points."""
_SLACK = 0.05
"""Share of the image that a key point may lie outside its box."""
_VISIBILITY = {0.0, 1.0, 2.0}
"""Not labelled, hidden, seen."""


def has_visibilities(shares: list[float]) -> bool:
    """Tell whether every third number after a box is 0, 1 or 2."""
    return len(shares) > 6 and len(shares) % 3 == 1 and set(shares[6::3]) <= _VISIBILITY


def suspected_key_points(files: Iterable[Path], where: Path) -> str | None:
    """Look at the first lines of labels without a kpt_shape for key points.

    Args:
        files: The labels; those that are not there have none.
        where: The data, for the message.

    Returns:
        What to say where they may be a box and pairs; None where nothing speaks for it.

    Raises:
        InputError: All lines are a box and key points with visibility.
    """
    some = islice((file for file in files if file.is_file()), _FILES)
    rows = list(islice(chain.from_iterable(map(_rows, some)), _LINES))
    lengths = {len(row) for row in rows}
    if len(lengths) != 1 or (length := lengths.pop()) <= 4:
        return None
    if all(map(has_visibilities, rows)):
        raise InputError(
            f"{where}: the labels are boxes with {(length - 4) // 3} key points and their "
            f"visibility: write kpt_shape: [{(length - 4) // 3}, 3] into data.yaml"
        )
    if length % 2 or length == _QUAD or len(rows) < _FEWEST or not all(map(_around, rows)):
        return None
    return (
        f"all labels have {length} numbers after the class, read as polygons; if they are boxes "
        f"with key points, write kpt_shape: [{(length - 4) // 2}, 2] into data.yaml"
    )


def _rows(file: Path) -> list[list[float]]:
    """Read the numbers after the class; none of a file that is refused where it is read."""
    try:
        return [[*map(float, line.split()[1:])] for line in read_lines(file) if line]
    except (InputError, ValueError):
        return []


def _around(shares: list[float]) -> bool:
    """Tell whether the first numbers are a box in the image, around the points after them."""
    sides = []
    for side in (0, 1):
        middle, half = shares[side], shares[side + 2] / 2 + _SLACK
        points = shares[4 + side :: 2]
        sides.append(half - _SLACK <= min(middle, 1 - middle) + _SLACK)
        sides.append(all(abs(point - middle) <= half for point in points))
    return all(sides)
