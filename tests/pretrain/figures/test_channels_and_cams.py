"""Drawings of strongest channels and class activation maps: bars, outlines, titles."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.collections import LineCollection
from pictures import read_png

from pretrain.figures.channels_and_cams import (
    Views,
    evenly_spaced,
    outline,
    plot_cams,
    plot_strongest_channels,
)


@pytest.mark.parametrize("channels", [64, 640])
def test_bars_are_the_counts(tmp_path: Path, channels: int) -> None:
    rng = np.random.default_rng(0)
    counts = np.zeros((9, channels), np.int64)
    counts[:8, rng.choice(channels, 9, replace=False)] = rng.integers(1, 50, (8, 9))
    counts[3] = 0
    counts[3, [5, channels - 1]] = 30, 10
    classes = [f"class{k} of $x^$" for k in range(9)]
    figure = plot_strongest_channels(counts, classes, [3, 0, 8], "title", tmp_path / "a.png")
    for axes, label in zip(figure.axes, [3, 0, 8], strict=True):
        drawn = np.zeros(channels, np.int64)
        for bar in axes.patches:
            channel = bar.get_x() + bar.get_width() / 2
            assert channel == pytest.approx(round(channel))
            drawn[round(channel)] = bar.get_height()
            # at least two pixels wide
            assert np.ptp(bar.get_window_extent().intervalx) * 150 / figure.dpi >= 2
        np.testing.assert_array_equal(drawn, counts[label])
        assert classes[label] in axes.get_title()
        assert f"{counts[label].sum()} correct" in axes.get_title()
    assert f"channels 5 (75%), {channels - 1} (25%)" in figure.axes[0].get_title()
    assert "none" in figure.axes[2].get_title()
    read_png(tmp_path / "a.png", (10, 2.8))


def test_four_classes_are_shown_by_default_and_more_in_rows(tmp_path: Path) -> None:
    counts = np.eye(9, 64, dtype=np.int64)
    figure = plot_strongest_channels(counts, "abcdefghi", None, "title", tmp_path / "a.png")
    assert [axes.get_title()[0] for axes in figure.axes] == [*"adfi"]
    figure = plot_strongest_channels(counts, "abcdefghi", range(6), "title", tmp_path / "a.png")
    assert [axes.get_title()[:1] for axes in figure.axes] == [*"abcdef", "", ""]
    read_png(tmp_path / "a.png", (10, 5.2))


@pytest.mark.parametrize(
    ("total", "expected"), [(1, [0]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (10, [0, 3, 6, 9])]
)
def test_classes_are_spaced_evenly(total: int, expected: list[int]) -> None:
    assert evenly_spaced(total, 4) == expected


def filled(segments: np.ndarray, height: int, width: int) -> np.ndarray:
    """Rebuild a mask: a cell is in it if an odd number of upright sides lie left of it."""
    crossings = np.zeros((height, width + 1), np.int64)
    for (x1, y1), (x2, y2) in segments.round(6).tolist():
        if x1 == x2:
            crossings[int(min(y1, y2)), int(x1)] += 1
    return np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1


@given(
    mask=hnp.arrays(
        np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.booleans()
    )
)
@settings(max_examples=60)
def test_an_outline_encloses_its_mask(mask: np.ndarray) -> None:
    segments = outline(mask)
    np.testing.assert_array_equal(filled(segments, *mask.shape), mask)
    np.testing.assert_array_equal(filled(segments[:, :, ::-1], *mask.T.shape), mask.T)
    lengths = np.abs(segments[:, 1] - segments[:, 0]).sum(1)
    assert (lengths == 1).all()


def test_maps_and_outlines_are_drawn_over_their_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    labels = np.array([0, 1, 2])
    classes = ("ant", "$bee^$", "a class with a name that is far too long")
    columns = [
        (
            title,
            Views(
                cams=rng.random((3, 32, 32), np.float32),
                focused=rng.random((3, 8, 8)) > 0.5,
                predicted=np.array(predicted),
                probability=np.array([0.25, 0.5, 0.999], np.float32),
            ),
        )
        for title, predicted in (("one", [0, 1, 0]), ("two of which the name is long", [2, 1, 2]))
    ]
    columns[1][1].focused[0] = True  # an area without a boundary but the image's own
    figure = plot_cams(images, labels, classes, columns, "title", tmp_path / "cam.png")
    cells = np.array(figure.axes[:9]).reshape(3, 3)
    for row in range(3):
        np.testing.assert_array_equal(cells[row, 0].images[0].get_array(), images[row])
        assert cells[row, 0].get_title()[:4] == classes[row][:4]
        for axes, (_, seen) in zip(cells[row, 1:], columns, strict=True):
            grey, overlay = axes.images
            np.testing.assert_allclose(grey.get_array(), images[row].mean(2))
            np.testing.assert_array_equal(overlay.get_array(), seen.cams[row])
            assert overlay.get_clim() == (0, 1)
            assert list(overlay.get_extent()) == [0, 32, 32, 0]
            (lines,) = (c for c in axes.collections if isinstance(c, LineCollection))
            segments = np.array(lines.get_segments()) / 4
            np.testing.assert_array_equal(filled(segments, 8, 8), seen.focused[row])
            assert axes.get_xlim() == (0, 32) and axes.get_ylim() == (32, 0)
            right = seen.predicted[row] == labels[row]
            assert axes.get_title().startswith("ok: " if right else "wrong: ")
            assert classes[seen.predicted[row]][:4] in axes.get_title()
    assert cells[0, 1].get_title() == "ok: ant 25%"
    assert [text.get_text().split("\n")[0] for text in figure.texts][:3] == [
        *("image", "one", "two of which the name is")
    ]
    read_png(tmp_path / "cam.png", (0.1 + 1.8 * 3, 1.5 + 0.13 + 1.9 * 3))


def test_a_long_title_lowers_what_stands_below(tmp_path: Path) -> None:
    cams = np.ones((1, 4, 4), np.float32)
    seen = Views(cams, np.ones((1, 2, 2), bool), np.zeros(1, int), np.ones(1, np.float32))
    images, labels = np.zeros((1, 4, 4, 3), np.uint8), np.zeros(1, int)
    for lines, height in ((3, 3.4), (5, 3.4 + 2 * 0.16)):
        title = " ".join(["x" * 50] * lines)  # one a line of a figure of 3.7 inches
        figure = plot_cams(images, labels, ["a"], [("one", seen)], title, tmp_path / "a.png")
        assert figure.get_figheight() == pytest.approx(height)
        (shown,) = (text for text in figure.texts if text.get_text() == title.replace(" ", "\n"))
        heading = next(text for text in figure.texts if text.get_text() == "one")
        figure.canvas.draw()
        below, above = heading.get_window_extent(), shown.get_window_extent()
        assert below.y1 <= above.y0
