"""`python -m pretrain figure`: which runs and images it takes, and what it writes of them."""

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
from pictures import read_png

from common.command.flags import RunFlags
from common.errors import InputError
from common.runs.metrics_log import read_metrics
from pretrain.evaluate import evaluate_run
from pretrain.figures import commands
from pretrain.figures.channels_and_cams import plot_cams
from pretrain.figures.commands import choose_images, draw_figure, run_labels
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


def files_of(out: Path) -> list[Path]:
    return [out, out.with_suffix(".svg"), out.with_suffix(".csv")]


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

    monkeypatch.setattr(commands, "plot_cams", spy)
    out = tmp_path / "cam.png"
    earlier = edited(runs / "fd0", tmp_path / "earlier", "focus", after="layer1")
    found = edited(runs / "fd0", tmp_path / "found", "focus", after="penultimate")
    chosen = [*(runs / name for name in ("base0", "fd0", "fd1")), earlier, found]
    assert draw_figure("cam", chosen, data, out, "cpu", num_images=2, seed=3) == [*files_of(out)]
    titles = [title for title, _ in drawn["columns"]]
    fd = "cifar10-resnet20-fd focus.after="
    assert titles == [
        "cifar10-resnet20, focused area after layer2",
        f"{fd}layer2, seed 0, focused area after layer2",
        f"{fd}layer2, seed 1, focused area after layer2",
        f"{fd}layer1, focused area after layer1",
        f"{fd}penultimate, focused area after layer2",
    ]
    assert [seen.focused.shape[1] for _, seen in drawn["columns"]] == [16, 16, 16, 32, 16]
    assert sorted(drawn["labels"].tolist()) == [0, 1]
    for image, label in zip(drawn["images"], drawn["labels"], strict=True):
        files = (data / "test" / CLASSES[label]).glob("*.png")
        assert any(np.array_equal(cv2.imread(str(file))[..., ::-1], image) for file in files)
    read_png(out, (10.9, 1.5 + 0.13 * 3 + 1.9 * 2))
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
            commands,
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
