"""The drawings of the report: charts, colours, boxes on photos."""

import re
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detect.report import figures
from detect.report.drawing import boxes, charts, panels, photos, style
from detect.report.writers import plots
from detect.report.writers.blocks import Bars, Dot, DotRow, Dots
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
    svg = panels.curve_panel([curve] * 7)
    drawn = re.findall(r'<path (fill="none"[^>]*?) d="', svg)
    samples = [re.search(r'd="M0 6H36" ([^>]*)/>', panels.line_sample(i))[1] for i in range(7)]
    assert drawn == samples
    assert len(set(drawn[:6])) == 6


def test_a_step_falls_where_the_recall_ends():
    """Two of two objects: precision 1 up to recall 1/2, 2/3 up to 1."""
    score = ClassScore(
        None, None, 2, 0, 3, np.array([0.5, 0.5, 1]), np.array([1, 0.5, 2 / 3]), np.ones(3)
    )
    path = re.search(r'<path fill="none"[^>]*d="M([^"]+)"', panels.curve_panel([score]))[1]
    points = [tuple(map(float, point.split())) for point in path.split("L")]
    left, right, top, bottom = 54, 272, 8, 171
    shares = [((x - left) / (right - left), (bottom - y) / (bottom - top)) for x, y in points]
    corners = [(0, 1), (0.5, 1), (0.5, 2 / 3), (1, 2 / 3), (1, 0)]
    assert [shares[0], *(q for p, q in pairwise(shares) if p != q)] == [
        pytest.approx(corner, abs=0.01) for corner in corners
    ]


def test_a_single_epoch_is_a_visible_point():
    line = charts.Line(0, np.array([4.0]), np.array([0.5]))
    assert re.search(r'<circle [^>]*style="fill:var\(--run-1\)"', panels.line_panel([line]))


@given(st.floats(-1e4, 1e4), st.floats(1e-6, 1e4), st.integers(3, 7))
def test_ticks_are_few_round_and_enclose_the_range(low, width, most):
    found = panels.ticks(low, low + width, most)
    assert 2 <= len(found) <= most
    slack = 1e-6 * width + 1e-9 * abs(low)
    assert found[0] <= low + slack
    assert found[-1] >= low + width - slack
    step = found[1] - found[0]
    assert np.diff(found) == pytest.approx(step, rel=1e-3, abs=1e-9)
    assert float(f"{step:.3g}") == pytest.approx(step, rel=1e-2)


def test_ticks_around_nothing_can_be_read():
    assert panels.ticks(0.0, 0.0) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])


def axes_of(draw: Callable[[Axes], object]) -> Axes:
    axes = Figure().add_subplot()
    draw(axes)
    axes.figure.draw_without_rendering()
    return axes


def test_where_all_is_zero_no_axis_goes_below_nor_into_thousandths():
    colours = charts.Colours("#000000", "#cccccc", ("#0000ff", "#ff0000"))
    nothing = (DotRow("a", (Dot(0, 0.0, 0.0, 0.0),), ""), DotRow("b", (Dot(1, 0.0, 0.0, 0.0),), ""))
    share, difference = Dots("mAP", "percent", nothing), Dots("by", "points", nothing, zero=True)
    line = charts.Line(0, np.array([1.0, 2.0]), np.zeros(2))
    low, high = axes_of(lambda axes: figures._draw_dots(axes, share)).get_xlim()
    assert -0.1 < low <= 0 and high >= 1
    low, high = axes_of(lambda axes: figures._draw_dots(axes, difference)).get_xlim()
    assert low <= -1 and high >= 1
    low, high = axes_of(lambda axes: charts.draw_lines(axes, [line], colours)).get_ylim()
    assert -0.1 < low <= 0 and high >= 1
    bars = axes_of(lambda axes: charts.draw_bars(axes, ["a"], [[0.0], [0.0]], colours))
    assert bars.get_xlim()[0] == 0 and bars.get_xlim()[1] >= 0.1
    assert "&minus;" not in plots.dots(share) and "&minus;1<" in plots.dots(difference)
    assert ">-" not in panels.line_panel([line])


def test_places_on_the_axis_are_those_of_the_values():
    row = DotRow("fd", (Dot(1, 5.0, -10.0, 10.0),), "5.0 [-10.0, +10.0]", marked=True)
    html = plots.dots(Dots("c", "points", (row,), zero=True))
    line = re.search(r'class="line" style="left:([\d.]+)%;width:([\d.]+)%', html)
    dot = re.search(r'class="dot" style="left:([\d.]+)%', html)
    zero = re.search(r'class="zero" style="left:([\d.]+)%', html)
    assert [float(x) for x in (*line.groups(), dot[1], zero[1])] == [0, 100, 75, 50]
    assert "<strong>5.0 [&minus;10.0, +10.0]</strong>" in html


def test_bars_are_as_long_as_their_values_and_carry_them():
    bars = Bars("c", "points", ("one", "two"), ((4.0, 2.0), (1.0, 3.0)), ("a", "b"))
    html = plots.bars(bars)
    widths = [float(w) for w in re.findall(r'class="bar" style="width:([\d.]+)%', html)]
    assert np.array(widths) / widths[0] == pytest.approx([1, 0.5, 0.25, 0.75], abs=1e-3)
    assert "4.0 | 2.0" in html


def test_titles_of_matrices_keep_apart():
    def run(label: str, counts: int) -> SimpleNamespace:
        analysis = SimpleNamespace(confusion=np.full((4, 4), counts))
        return SimpleNamespace(label=label, shown_from="all detections", analysis=analysis)

    truth = SimpleNamespace(classes=("helmet", "vest", "person"))
    runs = [run("toy-retinanet, run 1", 1), run("toy-retinanet-of-a-name-without-a-blank", 2)]
    figure = figures._confusion(SimpleNamespace(truth=truth, runs=runs), [0, 1, 2, 3])
    figure.draw_without_rendering()
    boxes_of = [axes.title.get_window_extent() for axes in figure.axes]
    assert len(boxes_of) == 3
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes_of))
    assert boxes_of[0].x0 >= 0 and boxes_of[-1].x1 <= figure.bbox.x1


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
    for most in (24_000, 3_000, 800):
        assert len(photos.shrink(noise, most)) <= most
    assert photos.shrink(noise, 40) is None


# ---- photos with boxes as SVG -------------------------------------------------------------------


def test_boxes_are_drawn_in_pixels_of_the_image():
    outlined = photos.Outlined((0.25, 0.5, 0.75, 1.0), "cat", "hit")
    svg = photos.overlay(400, 200, [outlined])
    assert 'viewBox="0 0 400 200"' in svg
    assert 'class="hit" x="100.0" y="100.0" width="200.0" height="100.0"' in svg


@settings(max_examples=60)
@given(st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=30))
def test_labels_are_few_apart_and_in_the_picture(corners):
    outlined = [
        photos.Outlined((min(a, c), min(b, d), max(a, c), max(b, d)), "cat", "false")
        for a, b, c, d in corners
    ]
    svg = photos.overlay(300, 200, outlined)
    pattern = r'class="ground false" x="([\d.-]+)" y="([\d.-]+)" width="([\d.]+)" height="([\d.]+)"'
    places = [tuple(map(float, found)) for found in re.findall(pattern, svg)]
    assert len(places) <= photos.MOST_LABELS
    assert len(places) >= min(1, len(corners))
    for index, (x, y, width, height) in enumerate(places):
        assert -0.1 <= x <= 300 - width + 0.1
        assert -0.1 <= y <= 200 - height + 0.1
        for a, b, c, d in places[:index]:
            across = min(x + width, a + c) - max(x, a)
            assert across <= 0.11 or min(y + height, b + d) - max(y, b) <= 0.11
    assert len(re.findall(r'class="false"', svg)) == len(corners)


def test_every_kind_of_box_has_an_outline_and_a_readable_ground():
    sheet = style.style_sheet()
    for kind in ("object", "first", "hit", "all", "false", "second", "missed", "none", "some",
                 "ignored"):  # fmt: skip
        assert re.search(rf"rect\.{kind}\b[^{{]*{{ stroke: #", sheet)
        ground = re.search(rf"rect\.ground\.{kind}\b[^{{]*{{ fill: (#\w+)", sheet)[1]
        assert contrast(np.zeros(3), rgb(ground)) >= 4.5


def test_a_photo_that_is_missing_or_damaged_is_left_out(tmp_path):
    assert photos.read_picture(None, 9999, (64, 48)) is None
    assert photos.read_picture(tmp_path / "absent.jpg", 9999, (64, 48)) is None
    for content in (b"", b"no image"):
        (tmp_path / "x.jpg").write_bytes(content)
        assert photos.read_picture(tmp_path / "x.jpg", 9999, (64, 48)) is None
