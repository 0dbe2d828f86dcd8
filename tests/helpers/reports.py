"""A devkit of four images, two runs on it whose AP is worked out by hand, a reader of pages."""

import json
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np

from detect.data.opening import open_data
from detect.scoring.detections import ground_truth
from detect.scoring.formats.reading import read_detections
from detect.scoring.metrics import score, write_metrics

CLASSES = ("cat", "dog", "emu")
OBJECTS = {  # 1-based inclusive pixels; emu has no counted object, image 000004 no object
    "000001": [("cat", 0, (11, 11, 30, 30))],
    "000002": [("cat", 0, (5, 5, 24, 24)), ("dog", 0, (31, 11, 60, 40))],
    "000003": [("emu", 1, (1, 1, 20, 20))],
    "000004": [],
}
# cat: recall 1/2 at precision 1, so 6 of 11 points and an area of 1/2; dog: 1.
FIRST = {
    "cat": ["000001 0.9 11 11 30 30", "000004 0.8 11 11 30 30"],
    "dog": ["000002 0.7 31 11 60 40"],
    "emu": ["000003 0.6 1 1 20 20"],
}
# cat: 1; dog: 0.
SECOND = {
    "cat": ["000001 0.9 11 11 30 30", "000002 0.8 5 5 24 24"],
    "dog": ["000001 0.5 31 11 60 40", "000002 0.2 1 1 9 9"],
    "emu": [],
}
RECIPE = {"body": "resnet18", "optimization": {"lr": 0.01, "steps": [1, 2]}}


def write_devkit(root: Path, split: str = "test", classes=CLASSES) -> Path:
    folders = [root / "VOC2007" / name for name in ("Annotations", "JPEGImages", "ImageSets/Main")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("\n".join(classes), encoding="utf-8")
    (folders[2] / f"{split}.txt").write_text("\n".join(OBJECTS))
    new_name = dict(zip(CLASSES, classes, strict=True))
    for shade, (image_id, objects) in enumerate(OBJECTS.items()):
        items = "".join(
            f"<object><name>{new_name[name]}</name><difficult>{difficult}</difficult><bndbox>"
            f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for name, difficult, (x1, y1, x2, y2) in objects
        )
        size = "<size><width>64</width><height>48</height></size>"
        xml = f"<annotation>{size}{items}</annotation>"
        (folders[0] / f"{image_id}.xml").write_text(xml, encoding="utf-8")
        pixels = np.full((48, 64, 3), 40 * shade, np.uint8)
        cv2.imwrite(str(folders[1] / f"{image_id}.jpg"), pixels)
    return root


def write_run(folder: Path, devkit: Path, lines, title, split="2007:test", **evaluation) -> Path:
    """An evaluation folder, as `detect score` leaves it."""
    (folder / "voc").mkdir(parents=True)
    for name, rows in lines.items():
        (folder / "voc" / f"comp4_det_test_{name}.txt").write_text("\n".join(rows))
    data = open_data(devkit)
    annotations = data.annotations(split)
    truth = ground_truth(annotations, data.classes)
    write_metrics(score(truth, read_detections(folder / "voc", truth)), folder / "metrics.json")
    known = {"title": title, "data": str(devkit), "split": split, "detections": "voc"}
    rest = dict.fromkeys(("recipe", "environment", "backbone", "checkpoint", "epoch", "seconds"))
    everything = {**known, "images": len(annotations), **rest, "command": "python -m detect score"}
    (folder / "evaluation.json").write_text(json.dumps({**everything, **evaluation}))
    return folder


def write_two_runs(root: Path) -> list[Path]:
    """Two trained runs; the second measured its speed and was trained with FocusedDropout."""
    devkit = write_devkit(root / "VOCdevkit")
    changed = {**RECIPE, "optimization": {**RECIPE["optimization"], "lr": 0.02}}
    for name, extra in (("plain", {}), ("focused", {"focus_participating_steps": 3})):
        (root / name).mkdir()
        records = [
            {"epoch": epoch, "step": 5 * epoch, "lr": 0.1 / epoch, "train_loss": 2 / epoch, **extra}
            for epoch in (1, 2, 3)
        ]
        records[-1]["val_map_area"] = 0.5
        lines = [json.dumps(record) + "\n" for record in records]
        (root / name / "metrics.jsonl").write_text("".join(lines))
    speed = {
        "latency": {"batch_size": 1, "p50_ms": 12.34, "p90_ms": 20.0, "images": 4},
        "throughput": {"batch_size": 16, "images_per_second": 87.65},
        "data_fingerprint": "0123abcd",
    }
    training = [str(root / "plain"), str(root / "focused")]
    return [
        write_run(root / "a", devkit, FIRST, "plain", recipe=RECIPE, epoch=3, training=training[0]),
        write_run(
            root / "b", devkit, SECOND, "focused", recipe=changed, training=training[1], **speed
        ),
    ]


class Page(HTMLParser):
    """Tables by caption, as rows of texts; attributes of every element; texts in <strong>."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.bold: list[str] = []
        self.visible = ""
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self._caption = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self._open.append(tag)
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td"):
            self._rows[-1].append("")
        elif tag == "strong":
            self.bold.append("")

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass
        if tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, data):
        if "caption" in self._open:
            self._caption += data
        elif {"th", "td"} & set(self._open):
            self._rows[-1][-1] += data
        if "strong" in self._open:
            self.bold[-1] += data
        if not {"style", "script"} & set(self._open):
            self.visible += data

    def images(self):
        return [attributes for tag, attributes in self.elements if tag == "img"]

    def rows(self, caption: str) -> dict[str, dict[str, str]]:
        """The rows of a table by their heads, their cells by the heads of the columns."""
        head, *rows = self.tables[caption]
        return {row[0]: dict(zip(head, row, strict=True)) for row in rows}
