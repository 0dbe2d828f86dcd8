"""How data are to be read, beside where they are; free of torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Coordinates = Literal["voc", "zero-based"]
"""voc: 1-based inclusive pixels; zero-based: edges, counted from 0."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The flags that every command with --data takes, beside it."""

    images: Path | None = None
    """Folder of the images, where --data is the JSON of COCO data; None: found beside it."""
    classes: str | None = None
    """Classes to use, comma-separated, such as helmet,vest; others are ignored."""
    coordinates: Coordinates | None = None
    """How VOC's XML counts boxes: voc (1-based inclusive pixels, if nothing is said) or zero-based
    (edges from 0, as CVAT and LabelMe write them)."""
    split_by: float | None = None
    """Share of the images to keep for validation, such as 0.2, where the data have no such set;
    which ones, a hash of their file names says: other images stay where they were."""

    empty_images: bool = True
    """Train on images without an object (of --classes), too: nothing is to be found there."""

    @property
    def xml_coordinates(self) -> Coordinates:
        """How VOC's XML is read."""
        return self.coordinates or "voc"

    def __post_init__(self) -> None:
        if self.split_by is not None and not 0 < self.split_by < 1:
            raise ValueError(f"--split-by {self.split_by} is not between 0 and 1, such as 0.2")
        if self.classes is not None and not any(map(str.strip, self.classes.split(","))):
            raise ValueError("--classes names no class: write for example --classes helmet,vest")
