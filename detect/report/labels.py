"""Short names for runs: what distinguishes their titles."""

import re
from collections.abc import Sequence

from common.errors import InputError

BASELINE = "baseline"
_LONGEST = 24  # characters; a longer label would push the charts aside
_SEPARATORS = " _/.:-"


def short_labels(titles: Sequence[str]) -> list[str]:
    """Shorten titles to what differs between them; equal titles have equal labels.

    The words that all begin or end with are left out: "toy from r18" and "toy from r18-fd" become
    "baseline" and "fd". What has nothing of its own left is the "baseline", if it comes first.

    Args:
        titles: In the order of the runs.

    Returns:
        A label a title, of at most 24 characters.
    """
    distinct = list(dict.fromkeys(titles))
    if len(distinct) == 1:
        own = distinct[0]  # alone, it has nothing to differ from: the recipe will do
        return [_cut(own if len(own) <= _LONGEST else own.partition(" from ")[0])] * len(titles)
    words = [re.split(rf"([{_SEPARATORS}]+)", title) for title in distinct]
    shortest = min(map(len, words))
    before = _shared(words, shortest)
    after = _shared([line[::-1] for line in words], shortest - before)
    labels: list[str] = []
    for index, (title, line) in enumerate(zip(distinct, words, strict=True)):
        label = "".join(line[before : len(line) - after]).strip(_SEPARATORS)
        label = _cut(label or ("" if index else BASELINE) or title)
        labels.append(label if label not in labels else f"run {index + 1}")
    of_title = dict(zip(distinct, labels, strict=True))
    return [of_title[title] for title in titles]


def given_labels(labels: Sequence[str], runs: int) -> list[str]:
    """Check the labels of a command line.

    Raises:
        InputError: Their number is not that of the runs, or one is empty.
    """
    labels = [" ".join(label.split()) for label in labels]
    if len(labels) != runs:
        raise InputError(f"--label names {len(labels)} of {runs} runs: give one label per folder")
    if not all(labels):
        raise InputError("--label has an empty name: give one label per folder")
    return labels


def tell_apart(labels: Sequence[str], seeds: Sequence[object]) -> list[str]:
    """Add to labels that occur more than once the seeds of their runs, or else their numbers."""
    distinct = []
    for index, label in enumerate(labels):
        same = [i for i, other in enumerate(labels) if other == label]
        own = [seeds[i] for i in same]
        if len(same) == 1:
            distinct.append(label)
        elif None not in own and len(set(own)) == len(own):
            distinct.append(f"{label}, seed {seeds[index]}")
        else:
            distinct.append(f"{label}, run {same.index(index) + 1}")
    return distinct


def _shared(words: Sequence[Sequence[str]], most: int) -> int:
    """Count the words that all lines begin with."""
    shared = 0
    while shared < most and len({line[shared] for line in words}) == 1:
        shared += 1
    return shared


def _cut(label: str) -> str:
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
