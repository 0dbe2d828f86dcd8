"""`python -m pretrain verify`: every image and shard of a data set, and faults of its layout."""

from functools import partial
from pathlib import Path

from common.errors import InputError
from common.images.checking import Check, Report, Result, check_image, check_path
from common.text import counted, say
from pretrain.data.contents import Contents, Members, table, warnings
from pretrain.data.datasets import has_validation, load
from pretrain.data.image_sets import ImageSet, PixelSet
from pretrain.data.listing import Findings
from pretrain.data.report import why_one_class
from pretrain.data.shards import ShardSet
from pretrain.recipes import Dataset

SPLIT_BY = 0.2
"""Share that recipes validate on where the data have no such images."""


def verify(kind: Dataset, root: Path, workers: int | None) -> None:
    """Check the training and validation images of a data set.

    Prints each fault, a table of what there is, and a summary.

    Args:
        kind: As for `datasets.load`.
        root: Folder of the data set, or its archive.
        workers: Processes; 0 checks in this one; None: as many as cores.

    Raises:
        InputError: There are faults, or no data at all.
    """
    report, compared = _Once(), 0
    train, errors = read_split(kind, root, "train", report)
    val, more = read_split(kind, root, "val", report)
    if train is None and val is None:
        raise errors[0]
    for split, problems in (("train", errors), ("val", more)):
        for problem in problems:
            report.fault(root, " ".join(str(problem).split()), split)
    contents = []
    for split, data in (("train", train), ("val", val)):
        if data is None:
            continue
        contents.append(content := Contents(split, data))
        if isinstance(data, PixelSet):
            report.images += len(data.labels)
            continue
        check: Check
        if isinstance(data, ShardSet):
            # A bit that flipped changes pixels, and no decoder notices.
            files = [data.folder / shard.name for shard in data.shards]
            sums = partial(_check_shard, data)
            report.check(sums, files, workers, f"{split}, SHA-256", "shards")
            compared += len(files)
            check = partial(_check_member, data)
        else:
            check = partial(check_path, data.paths)
        report.check(check, content.names, workers, split, seen=content.add)
    if train is not None and len(train.classes) < 2:
        report.fault(root, why_one_class(root, train.classes[0]))
    say("\n".join([*table(contents), *warnings(contents)]))
    remarks = (
        [f"{counted(compared, 'shard')} compared with the SHA-256 of the index"] if compared else []
    )
    report.end(*remarks)


class _Once(Report):
    """Prints each fault once: both parts of images that a hash splits are listed from the same."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[tuple[Path, str]] = set()

    def fault(self, path: Path, reason: str, split: str = "") -> None:
        """Print a fault; `split` is named before the reason."""
        if (path, reason) not in self._told:
            self._told.add((path, reason))
            super().fault(path, f"{split}: {reason}" if split else reason)


def read_split(
    kind: Dataset, root: Path, split: str, report: Report
) -> tuple[ImageSet | None, list[InputError]]:
    """List the images of a split as a training does; of what is wrong, all that can be said."""
    findings = Findings(root, keep_faults=True)
    data, errors = None, []
    try:
        share: float | None = SPLIT_BY
        if split == "train":
            try:
                has_validation(kind, root)
            except InputError:  # which the other split reports
                share = None
        data = load(kind, root, split, split_by=share, findings=findings)
    except (InputError, OSError) as problem:
        errors = [problem if isinstance(problem, InputError) else InputError(str(problem))]
    for path, reason in findings.faults:
        report.fault(path, reason)
    return data, errors


def _check_shard(data: ShardSet, number: int) -> Result:
    try:
        data.check(number)
    except InputError as error:
        return Result(faults=[(data.folder / data.shards[number].name, str(error))])
    return Result()


def _check_member(data: ShardSet, index: int) -> Result:
    return check_image(Members(data)[index], partial(data.read, index))
