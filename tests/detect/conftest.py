"""What tests of this stage share.

A devkit that was drawn, and small bodies, for trainings; for the report a devkit of four images,
runs on it, a reader of pages.
"""

import importlib.util
import json
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from detect.detections import ground_truth, read_detections
from detect.score import score, write_metrics
from detect.voc import read_split

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
    images = read_split(devkit, split, tuple(lines))
    truth = ground_truth([image.annotation for image in images], tuple(lines))
    write_metrics(score(truth, read_detections(folder / "voc", truth)), folder / "metrics.json")
    known = {"title": title, "data": str(devkit), "split": split, "detections": "voc"}
    rest = dict.fromkeys(("recipe", "environment", "backbone", "checkpoint", "epoch", "seconds"))
    everything = {**known, "images": len(images), **rest, "command": "python -m detect score"}
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


class NarrowResNet(ResNet):  # type: ignore[misc]
    """A ResNet of torchvision with an eighth of its channels: saved and trained in no time."""

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        layers: list[int],
        num_classes: int = 1000,
        **options: Any,
    ) -> None:
        super().__init__(block, layers, num_classes, **options)
        self.fc = nn.Linear(self.inplanes, num_classes)

    def _make_layer(self, block: type[nn.Module], planes: int, *rest: Any, **options: Any) -> Any:
        return super()._make_layer(block, planes // 8, *rest, **options)


@pytest.fixture(scope="module")
def narrow_bodies() -> Iterator[None]:
    """Let torchvision build narrow ResNets under the names of the usual ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchvision.models.resnet.ResNet", NarrowResNet)
        yield


def load_script(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def toy_devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw a devkit of six training images and three test images; copy what you change."""
    toy_data, root = load_script("toy_data"), tmp_path_factory.mktemp("toy")
    sizes = toy_data.Sizes(train_per_class=1, val_per_class=1, trainval=6, test=3, scene_side=64)
    toy_data.make_toy_data(root, seed=0, sizes=sizes)
    return root / "VOCdevkit"


@pytest.fixture(scope="session")
def report_fixtures():
    """The functions above, for the test files, which cannot import each other."""
    return write_devkit, write_run, Page


@pytest.fixture
def two_runs(tmp_path):
    """Folders that a test may change."""
    return write_two_runs(tmp_path)


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """The report of the two runs, written once: its page, the Markdown, and the files."""
    from detect.report import write_report

    root = tmp_path_factory.mktemp("report")
    files = write_report(write_two_runs(root), root / "out" / "report.html")
    return Page(files[0].read_text("utf-8")), files[1].read_text("utf-8"), files
