"""All that is wrong with a file, named at once, so that it is corrected once."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from common.errors import InputError

Faults = list[tuple[Path, str]]
"""Where something is wrong, and what."""
MOST_TOLD = 20
"""At most this many faults of an annotation or list are named; the rest are counted."""


class Together:
    """Takes what `with` blocks raise, to raise the first once all were tried, the others with it.

    `MissingFileError` and its like are taken, too: leave them out of the blocks.
    """

    def __init__(self) -> None:
        self.errors: list[InputError] = []

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool:
        if isinstance(error, InputError):
            self.errors.append(error)
            return True
        return False

    def end(self, sound: object = None) -> None:
        """Raise the first error, if there was one; the rest are its `others`.

        Args:
            sound: What could be read all the same: the error carries it.
        """
        if self.errors:
            first, *first.others = self.errors
            first.sound = sound
            raise first


def reason_of(error: InputError, path: Path) -> str:
    """Return what an error says after the name of the file."""
    return str(error).removeprefix(str(path)).lstrip(" ,:")


def reasons_of(error: InputError, path: Path) -> Faults:
    """Return what an error says, and its `others`."""
    return [(path, reason_of(one, path)) for one in (error, *error.others)]


def bounded(faults: Sequence[tuple[Path, str]]) -> Faults:
    """Return the first faults of each file, and how many more there are."""
    times, lines = Counter[Path](), Faults()
    for path, reason in faults:
        times[path] += 1
        if times[path] <= MOST_TOLD:
            lines.append((path, reason))
    more = {path: number - MOST_TOLD for path, number in times.items() if number > MOST_TOLD}
    return lines + [(path, f"and {number} more faults") for path, number in more.items()]
