"""Noticing steps that are counted within the epoch instead of over the whole training."""

_FIRST = (0, 1)
"""Where people begin to count; a training that goes back to a checkpoint starts elsewhere."""


class Restarts:
    """Watches the numbers of the steps: do they start again with each epoch?

    A smaller number is no fault by itself: a training may return to a checkpoint, or repeat a step.
    It is one if a count that began at 0 or 1 begins there again right after `end_epoch`; or, where
    nobody calls that, if three counts begin alike and the first two ended alike.
    """

    def __init__(self) -> None:
        self._first: int | None = None
        self._last = 0
        self._before: tuple[int, int] | None = None
        """Where the count before this one began and ended."""
        self._epochs = 0
        """Calls of `end_epoch` within this count."""
        self._ended = False
        self._told = False

    def end_epoch(self) -> None:
        """Note the end of an epoch."""
        self._epochs += not self._ended
        self._ended = True

    def notice(self, step: int) -> bool:
        """Note a step other than the last; return True, once, where the count starts again."""
        if self._first is None:
            self._first = step
        elif step < self._last:
            count = (self._first, self._last)
            again = step == self._first and step in _FIRST
            each_epoch = self._ended and self._epochs == 1
            alike = count == self._before and self._epochs == 0
            found = again and (each_epoch or alike) and not self._told
            self._told = self._told or found
            self._first, self._last, self._before = step, step, count
            self._epochs, self._ended = 0, False
            return found
        self._last, self._ended = step, False
        return False
