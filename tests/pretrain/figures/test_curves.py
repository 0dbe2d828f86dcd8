"""Curves over epochs: what their lines, axes and colours show."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import read_png

from common.errors import InputError
from pretrain.figures.curves import colour_numbers, plot_curves, plot_keep_ratio, rate_drops
from pretrain.figures.style import COLOURS


def records(
    accuracy: list[float | None], lr: list[float], shift: float = 0
) -> list[dict[str, Any]]:
    """Of a run; where the accuracy is None it was not evaluated."""
    return [
        {"epoch": epoch, "step": 10 * epoch, "lr": rate, "train_loss": 1 / epoch + shift}
        | ({} if value is None else {"val_accuracy": value})
        for epoch, (value, rate) in enumerate(zip(accuracy, lr, strict=True), start=1)
    ]


@pytest.mark.parametrize(
    ("rates", "drops"),
    [
        ([1, 1, 0.1, 0.1, 0.01], [2, 4]),
        ([1, 0.1, 0.1], [1]),
        ([0.2, 1, 1, 1, 0.1], [4]),
        ([1, 1], []),
        ([np.cos(np.pi * i / 40) + 1 for i in range(40)], []),
        ([], []),
    ],
)
def test_drops_of_the_learning_rate(rates: list[float], drops: list[int]) -> None:
    assert rate_drops(records([0.5] * len(rates), rates)) == drops


def test_curves_are_the_records(tmp_path: Path) -> None:
    lr = [0.1, 0.1, 0.01, 0.01]
    runs = [
        ("baseline", records([0.1, 0.3, 0.5, 0.6], lr)),
        ("fd", records([None, 0.2, None, 0.8], [0.1, 0.1, 0.1, 0.01])),
        ("baseline", records([0.3, 0.1, 0.9, 0.6, 0.7], [*lr, 0.01], shift=0.5)),
    ]
    figure = plot_curves(runs, tmp_path / "curves.png", "title")
    accuracy, loss = figure.axes
    lines = {line.get_label(): line for line in accuracy.get_lines()}
    baseline = lines["baseline (mean and range of 2 runs)"]
    np.testing.assert_allclose(baseline.get_xydata().T, [[1, 2, 3, 4], [0.2, 0.2, 0.7, 0.6]])
    np.testing.assert_allclose(lines["fd"].get_xydata().T, [[2, 4], [0.2, 0.8]])
    (band,) = accuracy.collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices.round(6).tolist()}
    edges = {(1, 0.1), (1, 0.3), (2, 0.1), (2, 0.3), (3, 0.5), (3, 0.9), (4, 0.6)}
    assert corners == edges
    first, second = (line for line in loss.get_lines() if line.get_linestyle() != ":")
    np.testing.assert_allclose(first.get_ydata(), [1.25, 0.75, 1 / 3 + 0.25, 0.5])
    np.testing.assert_allclose(second.get_ydata(), [1, 1 / 2, 1 / 3, 1 / 4])
    for axes in (accuracy, loss):
        dotted = [line.get_xdata()[0] for line in axes.get_lines() if line.get_linestyle() == ":"]
        assert dotted == [2, 3]
    assert accuracy.yaxis.get_major_formatter()(0.55, 0) == "55%"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *("baseline (mean and range of 2 runs)", "fd", "a learning rate drops")
    ]
    read_png(tmp_path / "curves.png", (9, 3.8))


def test_runs_of_one_label_need_a_common_epoch(tmp_path: Path) -> None:
    runs = [("a", records([None, 0.5], [1, 1])), ("a", records([0.5, None], [1, 1]))]
    with pytest.raises(InputError, match="called a have no epoch with a val_accuracy"):
        plot_curves(runs, tmp_path / "curves.png", "title")
    assert not list(tmp_path.iterdir())


def test_the_keep_ratio_has_the_papers_axis_beside_it(tmp_path: Path) -> None:
    epochs = [
        {"epoch": epoch, "lr": 0.1, "focus_keep_ratio": kept}
        for epoch, kept in ((1, 0.4), (2, None), (3, 0.3))
    ]
    figure = plot_keep_ratio([("fd", epochs)], tmp_path / "keep.png", "title")
    (axes,) = figure.axes
    (line,) = axes.get_lines()
    np.testing.assert_allclose(line.get_xydata(), [[1, 0.4], [3, 0.3]])
    (zeros,) = axes.child_axes
    assert "keeping_ratio" in zeros.get_ylabel() and "zeros" in zeros.get_ylabel()
    assert axes.get_ylim() == (0, 1)
    for kept in (0, 0.25, 1):
        levels = axes.transData.transform((0, kept)), zeros.transData.transform((0, 1 - kept))
        assert levels[0][1] == pytest.approx(levels[1][1])
    read_png(tmp_path / "keep.png", (6, 3.6))


def test_a_run_has_one_colour_in_all_figures(tmp_path: Path) -> None:
    """Curves show the baseline too, the keep ratio cannot; FocusedDropout's blue is neither's."""
    epochs = [
        {"epoch": 1, "lr": 0.1, "val_accuracy": 0.5, "train_loss": 1, "focus_keep_ratio": 0.6}
    ]
    fd, base = "cifar10-resnet20-fd focus.after=layer1", "cifar10-resnet20"
    both = plot_curves([(base, epochs), (fd, epochs)], tmp_path / "a.png", "title")
    turned = plot_curves([(fd, epochs), (base, epochs)], tmp_path / "b.png", "title")
    alone = plot_keep_ratio([(fd, epochs)], tmp_path / "c.png", "title")
    colours = [
        {line.get_label(): line.get_color() for line in figure.axes[0].lines}
        for figure in (both, turned, alone)
    ]
    assert colours[0][fd] == colours[1][fd] == colours[2][fd] == COLOURS[1]
    assert colours[0][base] == colours[1][base] == COLOURS[0]
    same = [f"x-fd gamma={number}" for number in range(4)]
    assert colour_numbers(same) == [1, 2, 3, 4]
    assert "<svg" in (tmp_path / "a.svg").read_text()
    first = (tmp_path / "a.svg").read_bytes()
    plot_curves([(base, epochs), (fd, epochs)], tmp_path / "a.png", "title")
    assert (tmp_path / "a.svg").read_bytes() == first
