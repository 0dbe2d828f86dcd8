"""Figure 6 and the rates of the other dropouts: what is drawn, from rows made by hand."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from reproduction.experiments import EXPERIMENTS, Run, cells, plan, shortened
from reproduction.sweep_picture import draw_sweep, plot_sweep, setting

from pretrain.results import Row

ROW = Row(
    recipe="",
    changes="",
    data="cifar10 (archive)",
    train_images=50_000,
    scored_images=10_000,
    held_out=0,
    seed=0,
    epochs=3,
    started="2026-01-02T03:04:05+00:00",
    commit="0123456789ab",
    hardware="a processor",
    torch="2.15.0",
    seconds=1800,
    best_accuracy=0.0,
    best_epoch=2,
    last_accuracy=0.0,
    last_top5=0.9,
    last_loss=1.0,
    train_accuracy=0.5,
    train_loss=1.0,
    keep_ratio=0.25,
    participating_steps=None,
    test_accuracy=None,
)


def trained(
    name: str, out: Path, seeds: Sequence[int] = (0, 1)
) -> tuple[list[Run], dict[Path, Row]]:
    """Plan an experiment on ResNet-20 and CIFAR-10; the n-th run has an accuracy of 50 + n."""
    experiment = replace(EXPERIMENTS[name], dataset="cifar10", networks=("resnet20",))
    runs = plan(cells(experiment), seeds, out, lambda recipe: shortened(recipe, 0.01))
    rows = {}
    for number, run in enumerate(runs):
        accuracy = 0.5 + number / 100
        rows[run.folder] = replace(ROW, best_accuracy=accuracy, last_accuracy=accuracy - 0.1)
        run.folder.mkdir(parents=True)
        zeros = [
            {"epoch": e, "step": e, "lr": 0.1, "focus_zeros_ratio": e / 10 + run.seed / 100}
            for e in (1, 2, 3)
        ]
        text = "".join(json.dumps(record) + "\n" for record in zeros)
        (run.folder / "metrics.jsonl").write_text(text)
    return runs, rows


def points(axes: Axes, label: str) -> tuple[list[float], list[float], list[float], str]:
    """Return places, means, half bars and line style of a labelled line of points."""
    (found,) = (c for c in axes.containers if c.get_label() == label)
    line, _, (bars,) = found
    halves = [(segment[1, 1] - segment[0, 1]) / 2 for segment in bars.get_segments()]
    return [*line.get_xdata()], [*line.get_ydata()], halves, line.get_linestyle()


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("figure6a", [0, 0.05, 0.1, 0.2, 0.3, 0.4]),
        ("figure6c", [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3]),
    ],
)
def test_connected_points_from_the_unchanged_training_on(
    name: str, places: list[float], tmp_path: Path
) -> None:
    """6a begins with the baseline, rate 0; 6c with the mask alone, which has the base decay."""
    runs, rows = trained(name, tmp_path)
    figure = plot_sweep(EXPERIMENTS[name], runs, rows, tmp_path / "a.png", "title")
    (axes,) = figure.axes
    found, means, halves, style = points(axes, "best epoch")
    assert found == pytest.approx(places)
    assert style == "-"
    first = 0 if name == "figure6a" else 1  # the place of the first setting among the arms
    arms = len(runs) // 2
    expected = [50 + place + arms / 2 for place in range(first, arms)]
    assert means == pytest.approx(expected)
    assert halves == pytest.approx([arms / 2**0.5] * len(places))  # of n and n + arms
    assert points(axes, "last epoch")[1] == pytest.approx([mean - 10 for mean in expected])
    assert axes.get_xscale() == ("log" if name == "figure6c" else "linear")
    lines = {line.get_label(): line.get_ydata()[0] for line in axes.lines}
    assert ("Baseline" in lines) == (name == "figure6c")


def test_gamma_has_a_curve_by_epoch(tmp_path: Path) -> None:
    runs, rows = trained("figure6b", tmp_path)
    figure = plot_sweep(EXPERIMENTS["figure6b"], runs, rows, tmp_path / "b.png", "title")
    accuracy, zeros = figure.axes
    assert points(accuracy, "best epoch")[3] == "None"
    names = ["0.3", "0.6", "0.9", "0.3 to 0.6", "0.6 to 0.9"]
    assert [text.get_text() for text in accuracy.get_xticklabels()] == names
    curves = [line for line in zeros.lines if not line.get_label().startswith("_")]
    assert [line.get_label().split(" (")[0] for line in curves] == names
    for line in curves:
        assert [*line.get_xdata()] == [1, 2, 3]
        np.testing.assert_allclose(line.get_ydata(), [0.105, 0.205, 0.305])


def test_a_line_for_each_dropout(tmp_path: Path) -> None:
    runs, rows = trained("rates", tmp_path, [0])
    figure = plot_sweep(EXPERIMENTS["rates"], runs, rows, tmp_path / "r.png", "title")
    (axes,) = figure.axes
    found, means, _, _ = points(axes, "SpatialDropout")
    assert (found, means) == (pytest.approx([0.05, 0.1, 0.2, 0.4]), pytest.approx([56, 57, 58, 59]))
    assert points(axes, "DropBlock, same steps and MWD")[1][-1] == pytest.approx(75)
    lines = {line.get_label(): line.get_ydata()[0] for line in axes.lines}
    assert (lines["Baseline"], lines["FocusedDropout"]) == (50, 51)


@pytest.mark.parametrize("name", ["figure6a", "figure6b", "figure6c", "rates"])
def test_numbers_are_those_of_the_rows(name: str, tmp_path: Path) -> None:
    runs, rows = trained(name, tmp_path)
    rows = {run.folder: rows[run.folder] for run in runs if run.seed == 0 or run.cell.is_baseline}
    out = tmp_path / "new" / f"{name}.png"
    written = draw_sweep(EXPERIMENTS[name], runs, rows, out)
    extra = [out.with_name("figure6b-epochs.csv")] if name == "figure6b" else []
    assert written == [out, out.with_suffix(".csv"), *extra]
    with written[1].open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["best_accuracy"]) for line in lines] == [
        row.best_accuracy for row in rows.values()
    ]
    done = [run for run in runs if run.folder in rows]
    field = [*lines[0]][1]
    assert [line[field] for line in lines] == [setting(EXPERIMENTS[name], r) or "" for r in done]
    for path in extra:
        with path.open(newline="") as file:
            epochs = list(csv.DictReader(file))
        assert len(epochs) == 5 * 3
        assert epochs[0] == {"gamma": "0.3", "seed": "0", "epoch": "1", "zeros_ratio": "0.1"}


def test_the_caption_has_the_claim_the_data_used_and_the_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = []
    monkeypatch.setattr(
        "reproduction.sweep_picture.plot_sweep", lambda *given: titles.append(given[-1])
    )
    runs, rows = trained("figure6a", tmp_path)
    draw_sweep(EXPERIMENTS["figure6a"], runs, rows, tmp_path / "a.png")
    assert titles == [
        "Figure 6a: cifar-resnet20 on CIFAR-10, 3 of 300 epochs. The paper: "
        "accuracy rises from rate 0 to its highest at 0.1, then falls, little below 0.3. Here: "
        "highest at 0.4, 58.00 ± 4.24, where the baseline has 53.00 (best epoch, 2 seeds a "
        "setting)."
    ]
