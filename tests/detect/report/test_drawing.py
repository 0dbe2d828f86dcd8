"""The drawings of the report, and which images it shows."""

import base64
import re

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detect.report.drawing import boxes, charts, style
from detect.report.sections import gallery
from detect.report.sections.gallery import ImageCounts
from detect.scoring.detections import GroundTruth
from detect.scoring.voc import ClassScore

# ---- charts -------------------------------------------------------------------------------------


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
    x, y = charts.interpolated(curve)
    assert np.sum(np.diff(x) * y[1:]) == pytest.approx(expected)
    assert np.all(np.diff(y) <= 0)


def test_a_long_line_is_thinned_and_keeps_its_ends():
    true = np.arange(1, 5001)
    precision = true / (true + np.linspace(0, 4000, 5000))
    curve = ClassScore(None, None, 5000, 0, 5000, true / 5000, precision, precision)
    x, y = charts.interpolated(curve)
    assert len(x) < 500
    assert (x[0], x[-1], y[-1]) == (0, 1, 0)
    assert y[0] == precision.max()


def test_a_line_has_the_same_look_in_panel_and_legend():
    curve = ClassScore(1.0, 1.0, 1, 0, 1, np.ones(1), np.ones(1), np.ones(1))
    svg = charts.curve_panel([curve] * 7, "x")
    for index in range(7):
        assert f"var(--run-{index % 6 + 1})" in svg
        assert f"var(--run-{index % 6 + 1})" in charts.line_sample(index)
    drawn = re.findall(r'style="[^"]*stroke: var\(--run-\d\)[^"]*"', svg)
    dashes = [re.search(r"stroke-dasharray: ([\d., ]+)", line) for line in drawn]
    samples = [re.search(r'stroke-dasharray="([^"]+)"', charts.line_sample(i)) for i in range(7)]
    for in_panel, in_legend in zip(dashes, samples, strict=True):
        panel = [float(n) for n in in_panel[1].split(",")] if in_panel else "none"
        assert panel == (in_legend[1] if in_panel is None else [*map(float, in_legend[1].split())])
    assert "#01" not in svg
    assert "metadata" not in svg


def bar_widths(svg: str, run: int) -> list[float]:
    shapes = re.findall(
        rf'<path d="M ([\d.]+) [\d.]+ *\s*L ([\d.]+) [^"]*"[^>]*fill: var\(--run-{run}\)', svg
    )
    return [abs(float(right) - float(left)) for left, right in shapes]


def test_bars_are_as_long_as_their_values_and_carry_them():
    values = [[4.0, 1.0, 0.0], [2.0, 3.0, 0.5]]
    svg = charts.bar_chart(["one", "two", "three"], values, "x")
    widths = np.array([bar_widths(svg, run) for run in (1, 2)])
    assert widths.shape == (2, 3)
    assert widths / widths[0, 0] == pytest.approx(np.array(values) / 4, abs=1e-3)
    assert {"one", "two", "three", "4.0", "3.0", "0.5"} <= set(
        re.findall(r">([^<>\n]+)</text>", svg)
    )
    assert "#0" not in svg


def test_a_single_epoch_is_a_visible_point():
    svg = charts.line_panel([charts.Line(0, np.array([4.0]), np.array([0.5]))], "x")
    assert re.search(r"<use[^>]*var\(--run-1\)", svg)


# ---- colours ------------------------------------------------------------------------------------


def rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], float)


def luminance(colour: np.ndarray) -> float:
    """Relative luminance by WCAG 2.1."""
    share = np.asarray(colour) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def contrast(a: np.ndarray, b: np.ndarray) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_wcag():
    assert contrast(rgb("#ffffff"), rgb("#000000")) == pytest.approx(21)
    assert contrast(rgb("#777777"), rgb("#ffffff")) == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("scheme", [style.LIGHT, style.DARK], ids=["light", "dark"])
def test_text_and_lines_have_enough_contrast(scheme):
    grounds = [rgb(scheme[name]) for name in ("page", "card")]
    for ground in grounds:
        for name in ("ink", "soft", "accent"):
            assert contrast(rgb(scheme[name]), ground) >= 4.5
        for run in range(1, style.RUN_COLOURS + 1):
            assert contrast(rgb(scheme[f"run-{run}"]), ground) >= 3
    assert contrast(rgb(scheme["ink"]), rgb(scheme["mark"])) >= 4.5
    for share in np.linspace(0, 1, 11):
        *shade, alpha = map(float, re.findall(r"[\d.]+", style.shade(share)))
        cell = alpha * np.array(shade) + (1 - alpha) * rgb(scheme["page"])
        assert contrast(rgb(scheme["ink"]), cell) >= 4.5


def test_labels_are_readable_on_their_outlines():
    for outline in (boxes.OBJECT, boxes.MISSED, boxes.HIT, boxes.FALSE, boxes.IGNORED):
        assert contrast(np.zeros(3), np.array(outline.colour)) >= 4.5


# ---- boxes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1000, 500), (480, 240)), ((480, 300), (480, 300)), ((300, 200), (300, 200)),
     ((128, 96), (384, 288)), ((32, 32), (128, 128))],
)  # fmt: skip
def test_boxes_are_drawn_where_they_are(size, expected):
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    box = (0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height)
    content, *shown = boxes.draw_boxes(pixels, [boxes.LabelledBox(box, "x", boxes.OBJECT)])
    assert tuple(shown) == expected
    drawn = cv2.cvtColor(cv2.imdecode(np.frombuffer(content, np.uint8), 1), cv2.COLOR_BGR2RGB)
    assert drawn.shape == (expected[1], expected[0], 3)
    middle, right = expected[1] // 2, round(0.75 * expected[0])
    edge = drawn[middle, right - 2 : right + 2].astype(int) - boxes.OBJECT.colour
    assert np.abs(edge).max(axis=1).min() < 60
    assert drawn[middle, expected[0] // 2].max() < 30  # not filled
    assert drawn[:5].max() < 30


def test_labels_stay_in_the_picture_and_apart():
    pixels = np.zeros((480, 480, 3), np.uint8)
    labelled = [
        boxes.LabelledBox((-9, -9, 500, 500), "outside", boxes.FALSE),
        boxes.LabelledBox((100, 100, 200, 200), "one", boxes.HIT),
        boxes.LabelledBox((100, 100, 200, 200), "two", boxes.IGNORED),
        boxes.LabelledBox((470, 470, 480, 480), "a name longer than the place " * 4, boxes.OBJECT),
    ]
    content, width, height = boxes.draw_boxes(pixels, labelled)
    assert (width, height) == (480, 480)
    drawn = cv2.cvtColor(cv2.imdecode(np.frombuffer(content, np.uint8), 1), cv2.COLOR_BGR2RGB)
    corners = []
    for label in labelled[:3]:  # the filled grounds of the letters, wherever they were put
        near = np.abs(drawn.astype(int) - label.outline.colour).max(axis=2) < 25
        rows, columns = np.nonzero(cv2.erode(near.astype(np.uint8), np.ones((3, 3))))
        assert len(rows)
        corners.append((columns.min(), rows.min(), columns.max(), rows.max()))
    one, two = corners[1:]
    assert one[2] < two[0] or two[2] < one[0] or one[3] < two[1] or two[3] < one[1]


def ground_of(picture, outline):
    """Pixels that have the colour of an outline, its one line wide edges left out."""
    near = (picture == outline.colour).all(axis=2).astype(np.uint8)
    return cv2.morphologyEx(near, cv2.MORPH_OPEN, np.ones((3, 5)))


@pytest.mark.parametrize(
    "box",
    [(200, 200, 260, 260), (0, 0, 60, 60), (420, 0, 480, 60), (0, 420, 60, 480),
     (420, 420, 480, 480), (0, 200, 60, 260), (200, 0, 260, 480), (0, 200, 480, 260)],
    ids=str,
)  # fmt: skip
def test_a_label_hides_no_box_where_there_is_room(box):
    """In the middle, in each corner, and across the picture: the label stands outside."""
    pixels = np.zeros((480, 480, 3), np.uint8)
    neighbour = boxes.LabelledBox((box[0], box[1] - 22, box[2], box[1] - 2), "", boxes.IGNORED)
    labelled = [boxes.LabelledBox(box, "dog 0.9", boxes.HIT)]
    for shown in (labelled, [*labelled, neighbour]):
        ground = ground_of(boxes.paint_boxes(pixels, shown, 480), boxes.HIT)
        x1, y1, x2, y2 = box
        assert ground.sum() > 200
        assert ground[max(0, y1 + 3) : y2 - 3, max(0, x1 + 3) : x2 - 3].sum() == 0
        if shown is not labelled and box[1] > 22:
            assert ground[y1 - 20 : y1 - 4, x1 + 3 : x2 - 3].sum() == 0


def test_a_large_picture_has_larger_letters_and_keeps_its_size():
    sizes = []
    for side in (480, 1600):
        pixels = np.zeros((side, side, 3), np.uint8)
        box = tuple(side * share for share in (0.4, 0.4, 0.6, 0.6))
        shown = [boxes.LabelledBox(box, "dog", boxes.HIT)]
        picture = boxes.paint_boxes(pixels, shown, 1600 if side > 480 else 480)
        assert picture.shape == (side, side, 3)
        rows = np.nonzero((picture == boxes.HIT.colour).all(axis=2).any(axis=1))[0]
        sizes.append(np.sum(rows < 0.4 * side))
    assert 1.5 < sizes[1] / sizes[0] < 3


def test_a_picture_is_bounded_in_bytes():
    noise = np.random.default_rng(0).integers(0, 256, (480, 480, 3)).astype(np.uint8)
    assert len(boxes.draw_boxes(noise, [])[0]) <= boxes.MOST_BYTES
    assert all(
        (5 if runs > 1 else 3) * gallery.images_a_gallery(runs) * (runs + 1) <= 96
        for runs in range(1, 19)
    )


# ---- which images -------------------------------------------------------------------------------

COUNTS = st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=12)


def counts(rows) -> ImageCounts:
    return ImageCounts(*np.array(rows).T)


@given(COUNTS, st.integers(1, 5))
def test_worst_and_best_are_those_of_the_rules(rows, number):
    errors = [false + missed for _, false, missed in rows]
    worst = sorted((i for i, e in enumerate(errors) if e), key=lambda i: (-errors[i], i))
    assert gallery.choose_worst(counts(rows), number) == worst[:number]
    best = [i for i, (found, _, _) in enumerate(rows) if found]
    best.sort(key=lambda i: (errors[i], -rows[i][0], i))
    assert gallery.choose_best(counts(rows), number) == best[:number]


@given(COUNTS, st.randoms(use_true_random=False), st.integers(1, 5))
def test_gained_are_the_images_whose_errors_fell_most(rows, random, number):
    later = random.sample(rows, len(rows))
    gain = [sum(a[1:]) - sum(b[1:]) for a, b in zip(rows, later, strict=True)]
    gained = sorted((i for i, g in enumerate(gain) if g > 0), key=lambda i: (-gain[i], i))
    assert gallery.choose_gained(counts(rows), counts(later), number) == gained[:number]


@given(st.integers(1, 60), st.data())
def test_examples_are_spread_over_the_images_with_objects(images, data):
    image = data.draw(st.lists(st.integers(0, images - 1), max_size=80))
    truth = GroundTruth(
        ("x",), tuple(map(str, range(images))), np.zeros((images, 2), np.int64),
        np.array(image, np.int64), np.zeros(len(image), np.int64), np.zeros((len(image), 4)),
        np.zeros(len(image), np.bool_),
    )  # fmt: skip
    candidates = sorted(set(image)) or list(range(images))
    chosen = gallery.choose_even(truth, 8)
    assert len(chosen) == min(8, len(candidates))
    assert set(chosen) <= set(candidates)
    places = [candidates.index(index) for index in chosen]
    gaps = np.diff([-1, *places, len(candidates)])
    assert gaps.min() >= 1
    assert gaps.max() <= len(candidates) / len(chosen) + 1
    assert abs(gaps[0] - gaps[-1]) <= 1


def test_pictures_decode_and_say_what_they_show(written):
    page, _, files = written
    images = page.images()
    # Gained: 4. Lost: none. Worst of focused: 2. Best: 1, 2. Even sample: 1, 2, 3.
    shown = [image["alt"].split(",")[0] for image in images[::3]]
    assert shown == [f"Image 00000{number}" for number in (4, 2, 1, 2, 1, 2, 3)]
    for image in images:
        data = base64.b64decode(image["src"].removeprefix("data:image/jpeg;base64,"), validate=True)
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert pixels.shape == (4 * 48, 4 * 64, 3)
        assert (image["width"], image["height"]) == ("256", "192")
    assert [image["alt"] for image in images[:6]] == [
        "Image 000004, ground truth: no boxes; 0 objects",
        "Image 000004, plain: 1 cat; 0 of 0 objects found, 1 false",
        "Image 000004, focused: no boxes; 0 of 0 objects found, 0 false",
        "Image 000002, ground truth: 1 cat, 1 dog; 2 objects",
        "Image 000002, plain: 1 dog; 1 of 2 objects found, 0 false",
        "Image 000002, focused: 1 cat; 1 of 2 objects found, 0 false",  # dog 0.2 is not drawn
    ]
    assert images[-3]["alt"].endswith("1 emu; 0 objects, 1 more marked difficult")
    assert images[-2]["alt"].endswith("no boxes; 0 of 0 objects found, 0 false")  # emu 0.6
    assert files[0].read_text("utf-8").count("There is none.") == 1


def test_missed_objects_are_outlined(written):
    page, _, _ = written
    data = page.images()[4]["src"].partition(",")[2]  # image 2 of plain, which missed the cat
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    near = np.abs(pixels[:, :, ::-1].astype(int) - boxes.MISSED.colour).max(axis=2) < 50
    rows, columns = np.nonzero(near)
    left, top, right, bottom = 16, 16, 96, 96  # its box [4, 4, 24, 24], 4 times as large
    assert (columns.min(), columns.max()) == (
        pytest.approx(left, abs=3),
        pytest.approx(right, abs=3),
    )
    assert (rows.max(), rows.min()) == (pytest.approx(bottom, abs=20), pytest.approx(top, abs=20))
