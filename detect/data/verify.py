"""`python -m detect verify`: every image, annotation and id of VOC sets."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from common.errors import InputError
from common.images.checking import Report, Result, check_path
from detect.data.pictures import check_image_id
from detect.data.voc import read_classes, read_lines, split_lists
from detect.data.voc_xml import read_annotation


def verify(devkit: Path, split: str, workers: int | None) -> None:
    """Check sets of a devkit; print each fault and a summary.

    Args:
        devkit: The VOCdevkit folder, or the folder that holds it.
        split: YEAR:SET, comma-separated for more.
        workers: Processes; 0 checks in this one; None: as many as cores.

    Raises:
        InputError: There are faults, or no such sets.
    """
    report = Report()
    classes, lists = read_classes(devkit), split_lists(devkit, split)
    jpegs = _listed(lists, report)
    label_of = {name: label for label, name in enumerate(classes)}
    report.check(partial(check_voc_image, label_of, jpegs), jpegs, workers, split)
    years = sorted({path.parents[2] for path in lists})
    report.end(*(remark for year in years for remark in _unnamed(year)))


def check_voc_image(label_of: Mapping[str, int], jpegs: Sequence[Path], index: int) -> Result:
    """Check an image, its annotation, and that they have one size.

    Args:
        label_of: Class name to label.
        jpegs: VOC<year>/JPEGImages/<id>.jpg of each image.
        index: Which.
    """
    jpeg = jpegs[index]
    result = check_path(jpegs, index)
    xml = jpeg.parents[1] / "Annotations" / f"{jpeg.stem}.xml"
    try:
        annotation = read_annotation(xml, jpeg.stem, label_of)
    except InputError as error:
        result.faults.append((xml, str(error).removeprefix(str(xml)).lstrip(" ,:")))
        return result
    stated = (annotation.width, annotation.height)
    if result.size and result.size != stated:
        width, height = result.size
        reason = f"has {width} x {height} pixels, its annotation says {stated[0]} x {stated[1]}"
        result.faults.append((jpeg, f"{reason}: fetch both again"))
    return result


def _listed(lists: Sequence[Path], report: Report) -> list[Path]:
    """Return the JPEG of every good id; report the other lines."""
    jpegs = []
    seen: dict[str, str] = {}
    for path in lists:
        try:
            lines = read_lines(path)
            if not lines:
                raise InputError("lists no images")
        except InputError as error:
            report.fault(path, str(error).removeprefix(str(path)).lstrip())
            continue
        for number, line in enumerate(lines, start=1):
            try:
                check_image_id(line, f"line {number}")
            except InputError as error:
                report.fault(path, str(error))
                continue
            if line in seen:
                report.fault(path, f"line {number}: the image id {line} came before, {seen[line]}")
                continue
            seen[line] = f"in line {number} of {path.parents[2].name} {path.stem}"
            jpegs.append(path.parents[2] / "JPEGImages" / f"{line}.jpg")
    return jpegs


def _unnamed(year: Path) -> list[str]:
    """Count the files that no list of a year names; those of one class hold an id and a label."""
    named = set()
    for path in (year / "ImageSets" / "Main").glob("*.txt"):
        try:
            named |= {line.partition(" ")[0] for line in read_lines(path)}
        except InputError:
            continue  # told where it was asked for
    counts = {
        kind: sum(p.suffix == suffix and p.stem not in named for p in (year / kind).iterdir())
        for kind, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".xml"))
    }
    if not any(counts.values()):
        return []
    return [
        f"{year.name} holds {counts['JPEGImages']} images and {counts['Annotations']} annotations "
        "that none of its lists names"
    ]
