"""The report on a devkit of four images whose AP is worked out by hand."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from detect import report_pictures as pictures
from detect.detections import GroundTruth, ground_truth, read_detections
from detect.report import choose_examples, write_report
from detect.report_page import Cell, Column, Details, Heading, Table, Text, to_html, to_markdown
from detect.score import score, write_metrics
from detect.voc import read_split
from detect.voc_score import ClassScore

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
    (root / "classes.txt").write_text("\n".join(classes))
    (folders[2] / f"{split}.txt").write_text("\n".join(OBJECTS))
    for shade, (image_id, objects) in enumerate(OBJECTS.items()):
        items = "".join(
            f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin>"
            f"<ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for name, difficult, (x1, y1, x2, y2) in objects
        )
        size = "<size><width>64</width><height>48</height></size>"
        (folders[0] / f"{image_id}.xml").write_text(f"<annotation>{size}{items}</annotation>")
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


@pytest.fixture
def devkit(tmp_path):
    return write_devkit(tmp_path / "VOCdevkit")


@pytest.fixture
def runs(tmp_path, devkit):
    changed = {**RECIPE, "optimization": {**RECIPE["optimization"], "lr": 0.02}}
    return [
        write_run(tmp_path / "a", devkit, FIRST, "plain", recipe=RECIPE, epoch=3),
        write_run(tmp_path / "b", devkit, SECOND, "focused", recipe=changed, epoch=3),
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


def report(folders, tmp_path, **arguments) -> tuple[Page, str]:
    out = write_report(folders, tmp_path / "out" / "report.html", **arguments)
    return Page(out.read_text("utf-8")), out.with_suffix(".md").read_text("utf-8")


def markdown_tables(text: str) -> dict[str, list[list[str]]]:
    tables = re.findall(r"^(.+):\n\n((?:\|.*\n)+)", text, re.MULTILINE)
    return {
        caption: [[cell.strip() for cell in row[1:-1].split(" | ")] for row in body.splitlines()]
        for caption, body in tables
    }


# ---- numbers ------------------------------------------------------------------------------------


def test_the_page_shows_the_scores_worked_out_by_hand(runs, tmp_path):
    page, _ = report(runs, tmp_path)
    head, first, second = page.tables["Scores of the runs, percent"]
    column = dict(zip(head, zip(first, second, strict=True), strict=True))
    assert column["Run"] == ("plain", "focused")
    assert column["mAP (11-point)"] == ("77.3", "50.0")  # (6/11 + 1) / 2, (1 + 0) / 2
    assert column["mAP (area)"] == ("75.0", "50.0")
    assert column["mAP (11-point) difference to baseline"] == ("baseline", "\u221227.3")
    assert column["Images"] == ("4", "4")
    assert column["Detections"] == ("4", "4")
    assert page.tables["AP by class, 11-point, percent"][1:] == [
        ["cat", "2", "0", "54.5", "100.0", "+45.5"],
        ["dog", "1", "0", "100.0", "0.0", "\u2212100.0"],
        ["emu", "0", "1", "n/a", "n/a", "n/a"],
        ["All classes (mAP)", "3", "1", "77.3", "50.0", "\u221227.3"],
    ]
    areas = [row[3] for row in page.tables["AP by class, area, percent"][1:]]
    assert areas == ["50.0", "100.0", "n/a", "75.0"]


def test_both_files_show_what_metrics_json_holds(runs, tmp_path):
    page, markdown = report(runs, tmp_path)
    metrics = [json.loads((run / "metrics.json").read_text()) for run in runs]
    headline = "Scores of the runs, percent"
    for digits, tables in ((1, page.tables), (2, markdown_tables(markdown))):
        rows = tables[headline][-2:]
        for row, of_run in zip(rows, metrics, strict=True):
            voc, coco = of_run["voc"], of_run["coco"]
            values = [voc["map_11point"], voc["map_area"], coco["ap"], coco["ap50"], coco["ap75"]]
            assert [cell.strip("*") for cell in row[1:6]] == [
                f"{100 * v:.{digits}f}" for v in values
            ]
        for key, caption in (("ap_11point", "11-point"), ("ap_area", "area")):
            rows = {row[0]: row for row in tables[f"AP by class, {caption}, percent"]}
            for name in CLASSES:
                values = [m["voc"]["per_class"][name][key] for m in metrics]
                texts = ["n/a" if v is None else f"{100 * v:.{digits}f}" for v in values]
                assert [cell.strip("*") for cell in rows[name][3:5]] == texts


def test_the_best_value_is_bold_and_a_tie_or_a_single_run_has_none(runs, tmp_path):
    page, markdown = report(runs, tmp_path)
    by_class = markdown_tables(markdown)["AP by class, 11-point, percent"]
    assert by_class[2:5] == [
        ["cat", "2", "0", "54.55", "**100.00**", "+45.45"],
        ["dog", "1", "0", "**100.00**", "0.00", "-100.00"],
        ["emu", "0", "1", "n/a", "n/a", "n/a"],
    ]
    assert {"77.3", "100.0", "75.0"} <= set(page.bold)
    single, markdown = report(runs[:1], tmp_path)
    assert not single.bold
    assert "**" not in markdown
    assert "baseline" not in single.visible
    assert single.tables["AP by class, 11-point, percent"][1] == ["cat", "2", "0", "54.5"]


def test_differences_of_rounding_errors_have_no_sign():
    table = Table("t", (Column("a"), Column("b", "points")), ((Cell("x"), Cell(-1e-9)),))
    assert "<td" in to_html("t", [table])
    assert ">0.0</td>" in to_html("t", [table])
    assert "| x | 0.00 |" in to_markdown([table])


def test_recipes_are_tables_of_dotted_keys_and_differences_are_marked(runs, tmp_path):
    page, markdown = report(runs, tmp_path)
    assert page.tables["What differs between the recipes"] == [
        ["Setting", "plain", "focused"],
        ["optimization.lr", "0.01", "0.02"],
    ]
    recipe = page.tables["Recipe; bold: differs between the runs"]
    assert recipe[1:] == [
        ["body", "resnet18"],
        ["optimization.lr", "0.02"],
        ["optimization.steps", "[1, 2]"],
    ]
    assert {"0.01", "0.02"} <= set(page.bold)
    assert "resnet18" not in page.bold
    assert "| optimization.lr | **0.02** |" in markdown
    assert markdown.count("(Drawn on the HTML page.)") == 2  # curves, example images
    assert page.visible.count("Environment: not recorded.") == 2
    assert page.visible.count("python -m detect score") == 2


# ---- the file -----------------------------------------------------------------------------------


def test_the_page_is_self_contained_and_accessible(runs, tmp_path):
    page, _ = report(runs, tmp_path)
    tags = [tag for tag, _ in page.elements]
    assert not {"link", "iframe", "object", "base", "form"} & set(tags)
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "poster", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/jpeg;base64,"))
        assert not [name for name in attributes if name.startswith("on")]
    assert tags.count("script") == 1
    assert ("html", {"lang": "en"}) in page.elements
    assert all("scope" in attributes for tag, attributes in page.elements if tag == "th")
    assert tags.count("caption") == tags.count("table")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert tags.count("h1") == 1
    text = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert not re.search(r"@import|url\((?!#)|https?:", text)


def test_pictures_decode_and_say_what_they_show(runs, tmp_path):
    page, _ = report(runs, tmp_path)
    images = page.images()
    assert len(images) == 3 * 3  # three images have objects; ground truth and two runs
    for image in images:
        data = base64.b64decode(image["src"].removeprefix("data:image/jpeg;base64,"), validate=True)
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert pixels.shape == (4 * 48, 4 * 64, 3)
        assert (image["width"], image["height"]) == ("256", "192")
    assert [image["alt"] for image in images[3:6]] == [
        "Image 000002, ground truth: 1 cat, 1 dog; 2 objects",
        "Image 000002, plain: 1 dog; 1 of 2 objects found, 0 false",
        "Image 000002, focused: 1 cat; 1 of 2 objects found, 0 false",  # dog 0.2 is not drawn
    ]
    assert images[6]["alt"].endswith("1 emu; 0 objects, 1 more marked difficult")
    assert images[7]["alt"].endswith("1 emu; 0 of 0 objects found, 0 false, 1 not counted")
    assert images[8]["alt"].endswith("focused: no boxes; 0 of 0 objects found, 0 false")


def test_two_calls_write_the_same_bytes(runs, tmp_path):
    files = []
    for name in ("x", "y"):
        out = write_report(runs, tmp_path / name / "report.html")
        files.append((out.read_bytes(), out.with_suffix(".md").read_bytes()))
    assert files[0] == files[1]


def test_hostile_text_stays_text(tmp_path, devkit):
    evil = "<script>alert(1)</script>\"'&amp; | `x` [y](z)"
    recipe = {evil: evil, "x": {"</table>": "<img src=x onerror=alert(1)>"}}
    known = {"recipe": recipe, "command": evil, "backbone": {"<b>": [evil]}}
    runs = [write_run(tmp_path / "a", devkit, FIRST, evil, **known)]
    runs.append(write_run(tmp_path / "b", devkit, SECOND, "</style>", **known))
    page, markdown = report(runs, tmp_path)
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert all(image["src"].startswith("data:") for image in page.images())
    assert page.visible.count(evil) > 5
    assert evil in page.images()[1]["alt"]
    assert "<script" not in markdown.replace("    " + evil, "")  # the command is a code block
    assert "<img" not in markdown
    for table in markdown_tables(markdown).values():
        assert len({len(row) for row in table}) == 1


def test_hostile_class_names_and_captions_stay_text():
    evil = "<script>alert(1)</script>"
    table = Table(evil, (Column(evil), Column("n", "count")), ((Cell(evil), Cell(1)),))
    blocks = [Heading(1, evil), Text(evil), Details(evil, (table,))]
    assert to_html(evil, blocks).count("<script>") == 1
    assert "<script" not in to_markdown(blocks)


def test_repeated_titles_are_told_apart_by_their_folders(tmp_path, devkit):
    folders = [tmp_path / name / "eval" for name in ("one", "two")]
    runs = [write_run(folder, devkit, FIRST, "same") for folder in folders]
    page, _ = report(runs, tmp_path)
    names = [row[0] for row in page.tables["Scores of the runs, percent"][1:]]
    assert names == ["same (one/eval)", "same (two/eval)"]


# ---- what can be wrong --------------------------------------------------------------------------


def fails(folders, tmp_path, *parts: str, **arguments) -> None:
    with pytest.raises(InputError) as caught:
        report(folders, tmp_path, **arguments)
    assert all(part in str(caught.value) for part in parts), caught.value
    assert not (tmp_path / "out").exists()


def test_runs_on_different_splits_are_refused(runs, tmp_path, devkit):
    write_devkit(devkit, "val")
    other = write_run(tmp_path / "c", devkit, SECOND, "other", split="2007:val")
    fails([runs[0], other], tmp_path, str(runs[0]), str(other), "2007:test", "2007:val")


def test_runs_with_different_classes_or_overlaps_are_refused(runs, tmp_path):
    file = runs[1] / "metrics.json"
    metrics = json.loads(file.read_text())
    swapped = dict(reversed(metrics["voc"]["per_class"].items()))
    file.write_text(json.dumps({**metrics, "voc": {**metrics["voc"], "per_class": swapped}}))
    fails(runs, tmp_path, "a and", "cat, dog, emu", "emu, dog, cat")
    file.write_text(json.dumps({**metrics, "voc": {**metrics["voc"], "iou": 0.6}}))
    fails(runs, tmp_path, "overlap", "0.5", "0.6")


def test_data_that_is_gone_can_be_given(runs, tmp_path, devkit):
    moved = devkit.rename(tmp_path / "elsewhere")
    fails(runs, tmp_path, str(devkit), "--data")
    page, _ = report(runs, tmp_path, data=moved)
    assert page.tables["Scores of the runs, percent"][1][1] == "77.3"


def test_other_data_than_was_scored_is_refused(runs, tmp_path, devkit):
    annotation = devkit / "VOC2007" / "Annotations" / "000002.xml"
    annotation.write_text(annotation.read_text().replace("<xmax>24", "<xmax>60"))
    fails(runs, tmp_path, "metrics.json", "--data")
    (devkit / "classes.txt").write_text("cat\ndog\nemu\nfox")
    fails(runs, tmp_path, "other classes", "--data")


@pytest.mark.parametrize("name", ["metrics.json", "evaluation.json"])
@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"voc": [], "coco": []}'])
def test_broken_folders_are_named(runs, tmp_path, name, content):
    file = runs[1] / name
    file.unlink()
    if content is not None:
        file.write_text(content)
    fails(runs, tmp_path, str(file))


@pytest.mark.parametrize(
    ("part", "value"), [("coco", {"ap": "much"}), ("coco", {"ap": float("nan")}), ("coco", None)]
)
def test_broken_metrics_are_named(runs, tmp_path, part, value):
    file = runs[0] / "metrics.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), part: value}))
    fails(runs, tmp_path, str(file))


def test_wrong_arguments_are_refused(runs, tmp_path):
    fails([], tmp_path, "nothing to report")
    fails([runs[0], runs[0] / ".." / "a"], tmp_path, "twice")
    with pytest.raises(InputError, match=r"\.html"):
        write_report(runs, tmp_path / "report.md")
    fails([tmp_path / "absent"], tmp_path, "absent", "detect evaluate")


# ---- drawings -----------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.lists(st.booleans(), max_size=40), st.integers(0, 5))
def test_the_area_under_a_line_is_the_ap(hits, missed):
    """The area of the devkit: over the recalls, the highest precision at that one or above."""
    objects = sum(hits) + missed
    true = np.cumsum(hits)
    precision = true / np.arange(1, len(hits) + 1)
    recall = true / objects if objects else np.full(len(hits), np.nan)
    curve = ClassScore(None, None, objects, 0, len(hits), recall, precision, precision)
    expected = sum(precision[i:].max() / objects for i in range(len(hits)) if hits[i])
    x, y = pictures.interpolated(curve)
    assert np.sum(np.diff(x) * y[1:]) == pytest.approx(expected)
    assert np.all(np.diff(y) <= 0)


def test_a_long_line_is_thinned_and_keeps_its_ends():
    true = np.arange(1, 5001)
    precision = true / (true + np.linspace(0, 4000, 5000))
    curve = ClassScore(None, None, 5000, 0, 5000, true / 5000, precision, precision)
    x, y = pictures.interpolated(curve)
    assert len(x) < 500
    assert (x[0], x[-1], y[-1]) == (0, 1, 0)
    assert y[0] == precision.max()


def test_a_line_has_the_same_look_in_panel_and_legend():
    curve = ClassScore(1.0, 1.0, 1, 0, 1, np.ones(1), np.ones(1), np.ones(1))
    svg = pictures.curve_panel([curve] * 7, "x")
    for index in range(7):
        assert f"var(--run-{index % 6 + 1})" in svg
        assert f"var(--run-{index % 6 + 1})" in pictures.line_sample(index)
    drawn = re.findall(r'style="[^"]*stroke: var\(--run-\d\)[^"]*"', svg)
    dashes = [re.search(r"stroke-dasharray: ([\d., ]+)", line) for line in drawn]
    shown = [re.search(r'stroke-dasharray="([^"]+)"', pictures.line_sample(i)) for i in range(7)]
    for in_panel, in_legend in zip(dashes, shown, strict=True):
        panel = [float(n) for n in in_panel[1].split(",")] if in_panel else "none"
        assert panel == (in_legend[1] if in_panel is None else [*map(float, in_legend[1].split())])
    assert "#01" not in svg
    assert "metadata" not in svg


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1000, 500), (480, 240)), ((480, 300), (480, 300)), ((300, 200), (300, 200)),
     ((128, 96), (384, 288)), ((32, 32), (128, 128))],
)  # fmt: skip
def test_boxes_are_drawn_where_they_are(size, expected):
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    box = (0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height)
    content, *shown = pictures.draw_boxes(pixels, [pictures.LabelledBox(box, "x", pictures.OBJECT)])
    assert tuple(shown) == expected
    drawn = cv2.cvtColor(cv2.imdecode(np.frombuffer(content, np.uint8), 1), cv2.COLOR_BGR2RGB)
    assert drawn.shape == (expected[1], expected[0], 3)
    middle, right = expected[1] // 2, round(0.75 * expected[0])
    edge = drawn[middle, right - 2 : right + 2].astype(int) - pictures.OBJECT.colour
    assert np.abs(edge).max(axis=1).min() < 60
    assert drawn[middle, expected[0] // 2].max() < 30  # not filled
    assert drawn[:5].max() < 30


def test_labels_stay_in_the_picture_and_apart():
    pixels = np.zeros((480, 480, 3), np.uint8)
    boxes = [
        pictures.LabelledBox((-9, -9, 500, 500), "outside", pictures.FALSE),
        pictures.LabelledBox((100, 100, 200, 200), "one", pictures.HIT),
        pictures.LabelledBox((100, 100, 200, 200), "two", pictures.IGNORED),
        pictures.LabelledBox(
            (470, 470, 480, 480), "a name longer than the place " * 4, pictures.HIT
        ),
    ]
    taken = []
    for labelled in boxes[:3]:
        corner = np.clip(np.array(labelled.box), 0, 479).astype(int)
        taken.append(pictures._draw_label(pixels, corner, labelled, taken))
        x, y, width, height = taken[-1]
        assert 0 <= x < x + width <= 480
        assert 0 <= y < y + height <= 480
    one, two = taken[1:]
    side_by_side = one[0] + one[2] <= two[0] or two[0] + two[2] <= one[0]
    assert side_by_side or one[1] + one[3] <= two[1] or two[1] + two[3] <= one[1]
    assert pictures.draw_boxes(pixels, boxes)[1:] == (480, 480)


@given(st.integers(1, 60), st.data())
def test_examples_are_spread_over_the_images_with_objects(images, data):
    image = data.draw(st.lists(st.integers(0, images - 1), max_size=80))
    truth = GroundTruth(
        ("x",), tuple(map(str, range(images))), np.zeros((images, 2), np.int64),
        np.array(image, np.int64), np.zeros(len(image), np.int64), np.zeros((len(image), 4)),
        np.zeros(len(image), np.bool_),
    )  # fmt: skip
    candidates = sorted(set(image)) or list(range(images))
    chosen = choose_examples(truth)
    assert len(chosen) == min(8, len(candidates))
    assert set(chosen) <= set(candidates)
    places = [candidates.index(index) for index in chosen]
    gaps = np.diff([-1, *places, len(candidates)])
    assert gaps.min() >= 1
    assert gaps.max() <= len(candidates) / len(chosen) + 1
    assert abs(gaps[0] - gaps[-1]) <= 1


# ---- in a browser -------------------------------------------------------------------------------

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def browse(page: Path, profile: Path) -> tuple[str, str]:
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
         "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--enable-logging=stderr", f"--user-data-dir={profile}", "--dump-dom",
         page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, done.stderr


@pytest.mark.skipif(BROWSER is None, reason="needs chromium to run the page's script")
def test_a_click_on_a_head_sorts_in_a_browser(runs, tmp_path):
    report(runs, tmp_path)
    page = tmp_path / "out" / "report.html"
    shown, log = browse(page, tmp_path / "profile")
    assert "CONSOLE" not in log
    assert "<button" in shown  # the page's policy lets its own script run
    click = "document.querySelectorAll('table')[1].querySelectorAll('button')[4].click();"
    keep = "document.body.append(document.querySelectorAll('table')[1].textContent);"
    text = re.sub(r"<meta http-equiv.*", "", page.read_text("utf-8"))  # to let the test click
    page.write_text(text.replace("</body>", f"<script>{click}{keep}{click}</script></body>"))
    shown, log = browse(page, tmp_path / "profile2")
    assert "CONSOLE" not in log
    falling = Page(shown).visible.rpartition("Class")[2]
    assert re.findall("cat|dog|emu|All", falling) == ["cat", "dog", "emu", "All"]
    rising = [row[0] for row in Page(shown).tables["AP by class, 11-point, percent"][1:]]
    assert rising == ["dog", "cat", "emu", "All classes (mAP)"]
