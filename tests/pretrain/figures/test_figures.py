"""`python -m pretrain figure`: what is counted, mapped and outlined, and what is drawn of it."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.collections import LineCollection

from common.command.flags import RunFlags
from common.errors import InputError
from common.runs.metrics_log import read_metrics
from pretrain.evaluate import evaluate_run
from pretrain.figures import commands as looking
from pretrain.figures.commands import choose_images, draw_figure, run_labels
from pretrain.figures.drawings import (
    COLOURS,
    Views,
    colour_numbers,
    evenly_spaced,
    outline,
    plot_cams,
    plot_curves,
    plot_keep_ratio,
    plot_strongest_channels,
    rate_drops,
)
from pretrain.recipes import RECIPES, Recipe
from pretrain.train import train_classifier as train

CLASSES = ("ant", "bee")


@given(
    labels=hnp.arrays(np.int64, st.integers(1, 40), elements=st.integers(0, 5)),
    count=st.integers(1, 45),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40)
def test_images_are_chosen_class_by_class(labels: np.ndarray, count: int, seed: int) -> None:
    chosen = choose_images(labels, count, seed)
    assert chosen.tolist() == choose_images(labels, count, seed).tolist()
    assert len(set(chosen.tolist())) == len(chosen) == min(count, len(labels))
    available = np.bincount(labels, minlength=6)
    taken = np.zeros(6, np.int64)
    for image in chosen:
        unspent = available > taken
        assert taken[labels[image]] == taken[unspent].min()
        taken[labels[image]] += 1


def test_the_seed_chooses_images_and_classes() -> None:
    labels = np.repeat(np.arange(50), 20)
    choices = [choose_images(labels, 8, seed) for seed in range(20)]
    assert len({tuple(choice) for choice in choices}) == 20
    assert len({labels[image] for choice in choices for image in choice}) > 40


# ---- drawings -----------------------------------------------------------------------------------


def files_of(out: Path) -> list[Path]:
    return [out, out.with_suffix(".svg"), out.with_suffix(".csv")]


def read_png(path: Path, inches: tuple[float, float]) -> np.ndarray:
    pixels = cv2.imread(str(path))
    assert pixels.shape[1::-1] == pytest.approx(np.array(inches) * 150, abs=1)
    assert 0.02 < (pixels != pixels[0, 0]).any(2).mean() < 0.98  # drawn on, and not all over
    return pixels


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


# ---- the command --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of two classes that differ in colour."""
    root = tmp_path_factory.mktemp("cifar10")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 5)):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
                pixels[..., label] += 80
                cv2.imwrite(str(root / split / name / f"{number}.png"), pixels)
    return root


def tiny(name: str) -> Recipe:
    recipe = RECIPES[name]()
    short = replace(
        recipe.optimization, lr=0.02, batch_size=4, epochs=3, milestones=(1,), precision="fp32"
    )
    return replace(recipe, optimization=short, focus=replace(recipe.focus, participation_rate=1.0))


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four runs: the baseline and the method, of two seeds each."""
    root = tmp_path_factory.mktemp("runs")
    for short, name in (("base", "cifar10-resnet20"), ("fd", "cifar10-resnet20-fd")):
        for seed in (0, 1):
            flags = RunFlags(
                name=name,
                recipe=tiny(name),
                data=data,
                out=root / f"{short}{seed}",
                seed=seed,
                device="cpu",
                workers=0,
            )
            train(flags)
    return root


def edited(run: Path, out: Path, part: str, **changes: Any) -> Path:
    """Copy a run and change a part of its recipe."""
    shutil.copytree(run, out)
    description = json.loads((run / "recipe.json").read_text())
    description["recipe"][part] |= changes
    (out / "recipe.json").write_text(json.dumps(description))
    return out


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_channels_of_a_run(runs: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "channels.png"
    assert draw_figure("channels", [runs / "base0"], data, out, "cpu") == files_of(out)
    read_png(out, (10, 2.8))
    rows = read_csv(out.with_suffix(".csv"))
    assert {row["class"] for row in rows} <= set(CLASSES)
    assert all(int(row["images"]) > 0 and 0 <= int(row["channel"]) < 64 for row in rows)
    shutil.copytree(runs / "base0", tmp_path / "copy")
    accuracy = evaluate_run(tmp_path / "copy", data, "best", "cpu", 0)["val_accuracy"]
    assert sum(int(row["images"]) for row in rows) == round(10 * accuracy) > 0


def test_the_maps_of_runs(
    runs: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Any] = {}

    def spy(*arguments: Any) -> None:
        drawn["images"], drawn["labels"], _, drawn["columns"] = arguments[:4]
        plot_cams(*arguments)

    monkeypatch.setattr(looking, "plot_cams", spy)
    out = tmp_path / "cam.png"
    earlier = edited(runs / "fd0", tmp_path / "earlier", "focus", after="layer1")
    chosen = [*(runs / name for name in ("base0", "fd0", "fd1")), earlier]
    assert draw_figure("cam", chosen, data, out, "cpu", num_images=2, seed=3) == [*files_of(out)]
    titles = [title for title, _ in drawn["columns"]]
    fd = "cifar10-resnet20-fd focus.after="
    assert titles == [
        "cifar10-resnet20, focused area after layer2",
        f"{fd}layer2, seed 0, focused area after layer2",
        f"{fd}layer2, seed 1, focused area after layer2",
        f"{fd}layer1, focused area after layer1",
    ]
    assert [seen.focused.shape[1] for _, seen in drawn["columns"]] == [16, 16, 16, 32]
    assert sorted(drawn["labels"].tolist()) == [0, 1]
    for image, label in zip(drawn["images"], drawn["labels"], strict=True):
        files = (data / "test" / CLASSES[label]).glob("*.png")
        assert any(np.array_equal(cv2.imread(str(file))[..., ::-1], image) for file in files)
    read_png(out, (9.1, 1.5 + 0.13 * 3 + 1.9 * 2))
    rows = read_csv(out.with_suffix(".csv"))
    assert [row["column"] for row in rows] == [title for title in titles for _ in range(2)]
    for number, (_, seen) in enumerate(drawn["columns"]):
        for row, label, guess, probability, focused in zip(
            rows[2 * number :],
            drawn["labels"],
            seen.predicted,
            seen.probability,
            seen.focused,
            strict=False,
        ):
            assert (row["class"], row["predicted"]) == (CLASSES[label], CLASSES[guess])
            assert float(row["probability"]) == probability
            assert float(row["area"]) == pytest.approx(focused.mean())
            assert 0 <= float(row["map_in_area"]) <= 1


def test_captions_have_the_data_the_epochs_and_the_claim(
    runs: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    for name in ("plot_strongest_channels", "plot_cams", "plot_curves"):
        monkeypatch.setattr(
            looking,
            name,
            lambda *given: titles.append(next(x for x in given if isinstance(x, str))),
        )
    out, base = tmp_path / "a.png", runs / "base0"
    draw_figure("channels", [base], data, out, "cpu", claim="a claim")
    draw_figure("cam", [base, runs / "fd0"], data, out, "cpu", claim="a claim")
    draw_figure("curves", [runs / "fd0", base], None, out, claim="a claim")
    for title in titles:
        assert title.startswith("cifar-resnet20 on CIFAR-10, 3 of 300 epochs")
        assert ". The paper: a claim. Here: " in title
    assert len(titles) == 3
    assert "of 10 images are classified correctly" in titles[0]
    assert "of a map's sum lie in the focused area" in titles[1]
    assert "Here: against cifar10-resnet20: cifar10-resnet20-fd " in titles[2]


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


def test_the_curves_of_runs(runs: Path, tmp_path: Path) -> None:
    folders = [runs / name for name in ("base0", "base1", "fd0")]
    out = tmp_path / "curves.png"
    assert draw_figure("curves", folders, None, out) == files_of(out)
    read_png(out, (9, 3.8))
    rows = read_csv(tmp_path / "curves.csv")
    logged = [record for folder in folders for record in read_metrics(folder)]
    assert len(rows) == len(logged) == 9
    for row, record in zip(rows, logged, strict=True):
        for name in ("epoch", "lr", "train_loss", "val_accuracy"):
            assert float(row[name]) == record[name]
    assert [(row["label"], row["seed"]) for row in rows[::3]] == [
        *(("cifar10-resnet20", "0"), ("cifar10-resnet20", "1"), ("cifar10-resnet20-fd", "0"))
    ]


def test_the_keep_ratio_of_runs(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "keep.png"
    draw_figure("keep-ratio", [runs / "fd0", runs / "fd1"], None, out)
    read_png(out, (6, 3.6))
    rows = read_csv(tmp_path / "keep.csv")
    for row, record in zip(
        rows, [*read_metrics(runs / "fd0"), *read_metrics(runs / "fd1")], strict=True
    ):
        assert float(row["focus_keep_ratio"]) == record["focus_keep_ratio"]
        assert float(row["focus_zeros_ratio"]) == 1 - record["focus_keep_ratio"]


def test_a_run_has_one_colour_in_all_figures(runs: Path, tmp_path: Path) -> None:
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


def test_runs_are_called_by_what_tells_them_apart() -> None:
    baseline, fd = tiny("cifar10-resnet20"), tiny("cifar10-resnet20-fd")
    fixed = replace(fd, focus=replace(fd.focus, gamma=(0.9, 0.9)))
    assert run_labels(["fd", "base", "fd", "fd"], [fd, baseline, fixed, fd]) == [
        "fd focus.gamma=(0.3, 0.6)",
        "base",
        "fd focus.gamma=(0.9, 0.9)",
        "fd focus.gamma=(0.3, 0.6)",
    ]
    assert run_labels(["base", "fd", "fd"], [baseline, fd, fd]) == ["base", "fd", "fd"]


@pytest.mark.parametrize(
    ("figure", "names", "options", "words"),
    [
        ("curves", ["base0"], {"out": "a.pdf"}, r"a\.pdf does not end in \.png"),
        ("curves", ["base0", "base0"], {}, "each run once"),
        ("curves", [], {}, "at least one run"),
        ("curves", ["nowhere"], {}, r"nowhere/recipe\.json is missing"),
        ("keep-ratio", ["fd0", "base0"], {}, "base0 has no keep ratio"),
        ("cam", ["base0"], {"data": None}, "--data"),
        ("cam", ["base0"], {"checkpoint": "worst"}, r"worst\.pt is missing"),
        ("channels", ["base0", "fd0"], {}, "one run, not 2"),
        ("channels", ["base0"], {"classes": ["wasp"]}, "no class 'wasp': choose from ant, bee"),
        ("channels", ["base0"], {"device": "tpu"}, "unknown device"),
    ],
)
def test_wrong_arguments(
    runs: Path,
    data: Path,
    tmp_path: Path,
    figure: Any,
    names: list[str],
    options: dict[str, Any],
    words: str,
) -> None:
    options = {"data": data, "device": "cpu", "out": "a.png"} | options
    options["out"] = tmp_path / options["out"]
    with pytest.raises(InputError, match=words):
        draw_figure(figure, [runs / name for name in names], **options)
    assert not list(tmp_path.iterdir())


def test_runs_on_other_images_are_not_mixed(runs: Path, data: Path, tmp_path: Path) -> None:
    larger = edited(runs / "fd0", tmp_path / "larger", "images", size=48)
    with pytest.raises(InputError, match=r"larger sees other images .*images\.size 48, not 32"):
        draw_figure("cam", [runs / "base0", larger], data, tmp_path / "a.png", "cpu")
    for split in ("train", "test"):
        shutil.copytree(data / split / "bee", tmp_path / "others" / split / "wasp")
        shutil.copytree(data / split / "ant", tmp_path / "others" / split / "ant")
    with pytest.raises(InputError, match="others has other classes than the run .*base0"):
        draw_figure("cam", [runs / "base0"], tmp_path / "others", tmp_path / "a.png", "cpu")


def test_a_run_without_evaluations_has_no_curve(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "base0", tmp_path / "run")
    log = tmp_path / "run" / "metrics.jsonl"
    kept = [{k: v for k, v in r.items() if "val" not in k} for r in read_metrics(runs / "base0")]
    log.write_text("".join(json.dumps(record) + "\n" for record in kept))
    with pytest.raises(InputError, match="run holds no evaluation"):
        draw_figure("curves", [runs / "fd0", tmp_path / "run"], None, tmp_path / "a.png")
    log.unlink()
    with pytest.raises(InputError, match="run holds no evaluation"):
        draw_figure("curves", [tmp_path / "run"], None, tmp_path / "a.png")


def test_maps_without_structure_are_no_figure(runs: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "fd0", tmp_path / "run")
    state = torch.load(tmp_path / "run" / "best.pt")
    state["model"]["fc.weight"].zero_()  # VGG's maps of 1 x 1 places end the same way
    torch.save(state, tmp_path / "run" / "best.pt")
    with pytest.raises(InputError, match="run has no class activation .* cifar-resnet20 at 32"):
        draw_figure("cam", [runs / "base0", tmp_path / "run"], data, tmp_path / "a.png", "cpu")
    assert not (tmp_path / "a.png").exists()
