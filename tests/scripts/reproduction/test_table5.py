"""The plan of Table 5 and its rendering; that its commands train is seen by running them."""

import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reproduction import table5

from common.command import cli
from common.command.flags import RunFlags
from common.errors import InputError
from detect.flags import TrainFlags as DetectFlags
from detect.recipes import RECIPES as DETECT
from detect.results import Row
from pretrain.recipes import RECIPES as PRETRAIN
from pretrain.recipes import Recipe as PretrainRecipe

ROW = Row(
    recipe="voc-retinanet-small",
    changes="",
    backbone="tiny-imagenet-resnet18",
    backbone_seed=0,
    backbone_accuracy=0.4,
    backbone_sha256="ab",
    data="2012:train -> 2012:val, last",
    train_images=80,
    scored_images=20,
    seed=0,
    epochs=6,
    started="2026-01-02T03:04:05+00:00",
    commit="0123456789ab",
    hardware="a processor",
    torch="2.15.0",
    seconds=1800.0,
    map_11point=0.5,
    map_area=0.4,
    coco_ap=0.1,
    coco_ap50=0.2,
    coco_ap75=0.1,
    detections=42,
    participating_steps=None,
)


@pytest.mark.parametrize("scale", ["full", "small", "mini"])
def test_the_commands_are_those_of_the_stages(tmp_path: Path, scale: str) -> None:
    """Four detectors on two backbones and one on none; every flag is one that a stage takes."""
    flags = table5.Flags(data=tmp_path, voc=tmp_path, out=tmp_path / "out", scale=scale)
    counts = []
    for ending in ("", "-fd", None):
        commands = table5._commands(flags, ending, 7, "cpu")
        counts.append([tuple(command[2:4]) for command in commands])
        for command in commands:
            stage, what, name, *rest = command[2:]
            if what != "train":
                continue
            recipe = (PRETRAIN if stage == "pretrain" else DETECT)[name]()
            kind, default = _command(stage, name, recipe)
            parsed = cli.parse(kind, rest, "", "", default=default)
            assert parsed.seed == 7
    train, evaluate = ("detect", "train"), ("detect", "evaluate")
    backbone = [("pretrain", "train"), ("pretrain", "export")]
    assert counts == [
        [*backbone, train, evaluate, train, evaluate],
        [*backbone, train, evaluate, train, evaluate],
        [train, evaluate],
    ]


def _command(stage: str, name: str, recipe: Any) -> tuple[Any, Any]:
    """Return the flags of a `train` command and their defaults, all needed ones filled in."""
    needed = {"name": name, "data": Path(), "out": Path(), "recipe": recipe}
    if stage == "pretrain":
        return RunFlags[PretrainRecipe], RunFlags(**needed)
    return DetectFlags, DetectFlags(**needed, backbone=Path())


@pytest.mark.parametrize(
    ("arms", "endings", "detectors"),
    [
        (("fd",), ["-fd"], ["fd"]),
        (("scratch", "fd-fine-tuning"), ["", None], ["fd-fine-tuning", "scratch"]),
        ((), ["", "-fd", None], ["baseline", "fd-fine-tuning", "fd", "fd-both", "scratch"]),
    ],
)
def test_arms_bring_their_backbones_alone(
    tmp_path: Path,
    arms: tuple[str, ...],
    endings: list[str | None],
    detectors: list[str],
) -> None:
    flags = table5.Flags(data=tmp_path, voc=tmp_path, out=tmp_path / "out", arms=arms)
    chosen = [table5.ARMS[arm].backbone for arm in table5._chosen(flags)]
    assert list(dict.fromkeys(chosen)) == endings
    commands = [c for ending in endings for c in table5._commands(flags, ending, 0, "cpu")]
    trained = [c[c.index("--out") + 1] for c in commands if c[2:4] == ["detect", "train"]]
    assert [Path(folder).parent.name for folder in trained] == detectors
    assert len([c for c in commands if c[2:4] == ["pretrain", "train"]]) == len(
        [ending for ending in endings if ending is not None]
    )


def test_a_plan_of_some_arms_shows_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--data", str(tmp_path), "--voc", str(tmp_path), "--out", str(tmp_path / "out")]
    tables = ["--pretrain-results", str(tmp_path / "p.csv")]
    tables += ["--detect-results", str(tmp_path / "d.csv")]
    chosen = ["--arms", "fd", "baseline", "--seeds", "1", "0"]
    table5.run([*given, *tables, "--scale", "mini", "--device", "cpu", "--plan", *chosen])
    out = capsys.readouterr().out
    assert out.startswith("4 detectors, 0 of them done; to do: 4 backbones\n")
    assert [line.split(":")[0] for line in out.splitlines() if line.startswith("  ")] == [
        f"  tiny-imagenet-resnet18{ending}-seed{seed}" for seed in (1, 0) for ending in ("", "-fd")
    ]
    for label, reported in (
        ("baseline", "70.14 ± 0.17 | 76.32"),
        ("FocusedDropout in pretraining", "71.05 ± 0.13 / +0.91 | 76.84 / +0.52"),
        ("FocusedDropout in both", "- | -"),
    ):
        assert f"| {label} | {reported} | | not run |" in out


def test_an_unknown_arm_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        table5.run(["--data", str(tmp_path), "--voc", str(tmp_path), "--arms", "dropblock"])
    message = str(caught.value)
    assert "dropblock" in message and "'fd', 'fd-fine-tuning', 'fd-both', 'scratch'" in message
    assert "\n" not in message


def test_what_is_done_is_not_repeated(tmp_path: Path) -> None:
    flags = table5.Flags(data=tmp_path, voc=tmp_path, out=tmp_path / "out", scale="mini")
    backbone = table5._classifier(flags, "", 0) / "backbone.safetensors"
    done = table5._detector(flags, "baseline", 0) / "evaluated" / "evaluation.json"
    for file in (backbone, done):
        file.parent.mkdir(parents=True)
        file.touch()
    commands = table5._commands(flags, "", 0, "cpu")
    assert [command[2:4] for command in commands] == [["detect", "train"], ["detect", "evaluate"]]
    assert "--focused-dropout" in commands[0]


def test_the_maps_are_of_the_first_seeds_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn by what `pretrain figure cam` calls, once both backbones are done."""
    calls = []

    def draw(*given: object) -> list[Path]:
        calls.append(given)
        return [tmp_path / "drawn"]

    monkeypatch.setattr("pretrain.figures.commands.draw_figure", draw)
    flags = table5.Flags(data=tmp_path, voc=tmp_path, out=tmp_path / "out", seeds=(3, 1))
    folders = {s: [table5._classifier(flags, end, s) for end in ("", "-fd")] for s in (1, 3)}
    assert not table5._compare(flags, dict.fromkeys([*folders[1], folders[3][0]], None))
    assert not calls
    assert table5._compare(flags, dict.fromkeys(folders[3], None)) == [tmp_path / "drawn"]
    picture = tmp_path / "out" / "table5-cam.png"
    assert calls == [("cam", folders[3], tmp_path, picture, "auto")]


def test_the_report_leaves_the_table_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report has files of other endings beside its page, a Markdown file among them."""
    pages: list[Path] = []

    def write(evaluated: list[Path], page: Path, devkit: Path) -> list[Path]:
        assert [folder.parent.parent.name for folder in evaluated] == ["baseline", "scratch"]
        pages.append(page)
        return pages

    monkeypatch.setattr("detect.report.write_report", write)
    flags = table5.Flags(data=tmp_path, voc=tmp_path, out=tmp_path / "out")
    for arm in ("scratch", "baseline"):
        file = table5._detector(flags, arm, 0) / "evaluated" / "evaluation.json"
        file.parent.mkdir(parents=True)
        file.touch()
    assert table5._compare(flags, {}) == pages == [tmp_path / "out" / "table5-report.html"]
    assert pages[0].with_suffix(".md") != tmp_path / "out" / "table5.md"


def test_the_table_by_hand(tmp_path: Path) -> None:
    flags = table5.Flags(data=tmp_path, voc=tmp_path, scale="mini", seeds=(0, 1))
    rows = {
        ("baseline", 0): ROW,
        ("baseline", 1): replace(ROW, map_11point=0.52),
        ("fd", 0): replace(ROW, map_11point=0.51),
        ("fd", 1): replace(ROW, map_11point=0.55),
    }
    lines = table5.render(flags, rows).splitlines()
    # Differences 1 and 3: mean 2, deviation 1.414, t(0.975, 1) = 12.706, so +- 12.71.
    assert (
        "| FocusedDropout in pretraining | 71.05 ± 0.13 / +0.91 | 76.84 / +0.52 | 40.00 ± 0.00 | "
        "53.00 ± 2.83 | +2.00 [-10.71, +14.71] | 40.00 ± 0.00 | 2 |"
    ) in lines
    assert (
        "| baseline | 70.14 ± 0.17 | 76.32 | 40.00 ± 0.00 | 51.00 ± 1.41 |  | 40.00 ± 0.00 | 2 |"
    ) in lines
    assert "| from random weights | - | - | | not run | | | 0 |" in lines
    assert "**Not the paper's training: smaller.**" in lines
    assert lines[-1].endswith("commit 0123456789ab; 2.0 h.")


@pytest.mark.parametrize("seeds", [(), (0, 0), (1, 2, 1)])
def test_seeds_that_are_none_or_given_twice(tmp_path: Path, seeds: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="seeds must be at least one, each once"):
        table5.Flags(data=tmp_path, voc=tmp_path, seeds=seeds)


def test_hours_are_those_of_all_detectors(tmp_path: Path) -> None:
    flags = table5.Flags(data=tmp_path, voc=tmp_path, seeds=(0, 1))
    rows = {("fd", seed): replace(ROW, seconds=1800.0 * 900) for seed in (0, 1)}
    assert table5.render(flags, rows).splitlines()[-1].endswith("; 900.0 h.")


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (b"one\nValueError: no\n\n", "ValueError: no"),
        (b" \n", "it printed nothing"),
        (b"", "it pr"),
        (b"\xff cut in a letter", "\N{REPLACEMENT CHARACTER} cut in a letter"),
    ],
)
def test_the_last_line_of_a_job_that_failed_is_told(
    tmp_path: Path, output: bytes, told: str
) -> None:
    job = table5.Job(name="a-seed0", commands=[], log=tmp_path / "a.log")
    job.log.write_bytes(output)
    with pytest.raises(InputError, match=f"^a-seed0 failed, see {job.log}: {told}"):
        table5._done(job, 1)


def test_a_job_that_ends_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a log, too, where lines otherwise wait for a full buffer."""

    class Log(io.StringIO):
        shown = ""

        def flush(self) -> None:
            self.shown = self.getvalue()

    log = Log()
    monkeypatch.setattr("sys.stdout", log)
    job = table5.Job(name="a-seed0", commands=[], log=tmp_path / "a.log")
    table5._done(job, 0)
    assert log.shown == "a-seed0: done\n"
    table5._status([job])
    assert log.shown.endswith("  running: a-seed0\n")


def test_what_is_finished_is_recorded_and_the_table_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Into folders that are made, with the rows of both stages."""
    folder, out = tmp_path / "a" / "run", tmp_path / "deep" / "out"
    recorded: list[tuple[Path, type, list[Path]]] = []
    classifier = object()
    monkeypatch.setattr(table5, "_classifiers", lambda flags: {folder: classifier})
    monkeypatch.setattr(table5, "_detectors", lambda flags: {("fd", 2): ROW})
    monkeypatch.setattr(table5, "_compare", lambda flags, classifiers: [tmp_path / "picture"])
    monkeypatch.setattr(
        table5, "record_runs", lambda *told: recorded.append((told[0], told[1], list(told[2])))
    )
    given = ["--data", str(tmp_path), "--voc", str(tmp_path), "--out", str(out)]
    tables = ["--pretrain-results", str(tmp_path / "p.csv")]
    tables += ["--detect-results", str(tmp_path / "d.csv"), "--seeds", "2", "--plan"]
    table5.run([*given, *tables, "--device", "cpu"])
    detector = out / "full" / "detectors" / "fd" / "seed-2"
    assert recorded == [
        (tmp_path / "p.csv", table5.pretrained.Row, [folder]),
        (tmp_path / "d.csv", Row, [detector]),
    ]
    table = (out / "table5.md").read_text()
    assert "| FocusedDropout in pretraining | " in table and "50.00" in table
    printed = capsys.readouterr().out
    assert printed.startswith("5 detectors, 1 of them done; to do: 3 backbones\n")
    assert printed.endswith(f"{table}\nwrote {out / 'table5.md'}\nwrote {tmp_path / 'picture'}\n")


def test_the_commands_of_a_backbone_to_the_letter(tmp_path: Path) -> None:
    data, voc, out = tmp_path / "images", tmp_path / "voc", tmp_path / "out"
    flags = table5.Flags(data=data, voc=voc, out=out, scale="small")
    backbone = out / "small/classifiers/tiny-imagenet-resnet50-fd/seed-2"
    exported = f"{backbone}/backbone.safetensors"
    python, how = f"{sys.executable} -m", "--seed 2 --device cuda:1"
    expected = [
        f"{python} pretrain train tiny-imagenet-resnet50-fd --data {data} --out {backbone} {how} "
        "--stem imagenet",
        f"{python} pretrain export --run {backbone} --out {exported}",
    ]
    for arm, own in (("fd", ""), ("fd-both", " --focused-dropout layer3")):
        detector = out / "small/detectors" / arm / "seed-2"
        expected += [
            f"{python} detect train voc-retinanet-small --backbone {exported} --data {voc} "
            f"--out {detector} {how}{own}",
            f"{python} detect evaluate --run {detector} --data {voc} --split 2012:val "
            f"--out {detector}/evaluated --device cuda:1",
        ]
    assert [" ".join(c) for c in table5._commands(flags, "-fd", 2, "cuda:1")] == expected
    scratch = table5._commands(flags, None, 2, "cuda:1")
    assert [c[c.index("--backbone") + 1] for c in scratch if "--backbone" in c] == ["scratch"]


def test_the_scales_as_the_help_describes_them(tmp_path: Path) -> None:
    """Every number of the help against the recipes that the commands lead to."""

    def recipes(scale: str) -> tuple[Any, Any, str]:
        flags = table5.Flags(data=tmp_path, voc=tmp_path, out=tmp_path, scale=scale)  # type: ignore[arg-type]
        found: dict[str, Any] = {}
        split = ""
        for _, _, stage, what, name, *rest in table5._commands(flags, "", 0, "cpu"):
            if what == "evaluate":
                split = rest[rest.index("--split") + 1]
            if what == "train":
                recipe = (PRETRAIN if stage == "pretrain" else DETECT)[name]()
                kind, default = _command(stage, name, recipe)
                found.setdefault(stage, cli.parse(kind, rest, "", "", default=default))
        return found["pretrain"].recipe, found["detect"], split

    classifier, detector, split = recipes("full")
    assert (classifier.images.dataset, classifier.network) == ("imagenet", "resnet50")
    assert (classifier.optimization.epochs, detector.name, split) == (
        300,
        "voc-retinanet-paper",
        "2007:test",
    )
    classifier, detector, split = recipes("small")
    assert (classifier.images.dataset, classifier.network) == ("tiny-imagenet", "resnet50")
    assert (classifier.optimization.epochs, classifier.stem) == (60, "imagenet")
    assert (detector.name, detector.recipe.optimization.epochs) == ("voc-retinanet-small", 24)
    assert split == "2012:val"
    classifier, detector, split = recipes("mini")
    assert (classifier.network, classifier.images.num_classes) == ("resnet18", 50)
    assert classifier.stem == "imagenet"
    taught = classifier.optimization
    assert (taught.epochs, taught.milestones, taught.precision) == (20, (10, 15), "bf16")
    tuned, recipe = detector.recipe.optimization, detector.recipe
    assert (tuned.epochs, tuned.schedule, tuned.optimizer) == (6, "cosine", "adamw")
    assert (tuned.lr, tuned.batch_size, tuned.precision) == (1e-3, 8, "bf16")
    assert (recipe.detector.fpn_channels, recipe.detector.anchor_scale) == (64, 3)
    sizes = recipe.detector.train_sizes, recipe.detector.test_size, recipe.detector.max_size
    assert sizes == ((192,), 192, 192)
    assert (recipe.body, detector.evaluate_every, split) == ("resnet18", 100, "2012:val")


@pytest.mark.parametrize("plan", [False, True])
def test_jobs_run_side_by_side_unless_only_planned(
    plan: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []
    ran: list[tuple[Any, ...]] = []
    slots = [table5.find_slots("cpu", 1, 1)[0]]
    monkeypatch.setattr(table5, "find_slots", lambda *given: asked.append(given) or slots)
    monkeypatch.setattr(table5, "run_side_by_side", lambda *given: ran.append(given))
    out = tmp_path / "out"
    given = ["--data", str(tmp_path), "--voc", str(tmp_path), "--out", str(out), "--jobs", "3"]
    tables = ["--pretrain-results", str(tmp_path / "p.csv")]
    tables += ["--detect-results", str(tmp_path / "d.csv"), "--seeds", "5"]
    table5.run([*given, *tables, "--device", "cpu", *(["--plan"] if plan else [])])
    assert asked == [("cpu", 3, 3)]
    if plan:
        assert ran == []
        return
    ((jobs, used, done, status),) = ran
    assert (used, done, status) == (slots, table5._done, table5._status)
    assert [(job.name, job.log, len(job.commands)) for job in jobs] == [
        ("imagenet-resnet50-seed5", out / "imagenet-resnet50-seed5.log", 6),
        ("imagenet-resnet50-fd-seed5", out / "imagenet-resnet50-fd-seed5.log", 6),
        ("scratch-seed5", out / "scratch-seed5.log", 2),
    ]


def test_what_is_finished_is_found_by_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = table5.Flags(data=tmp_path, voc=tmp_path, out=tmp_path, scale="mini", seeds=(4, 2))
    asked: list[Path] = []

    def row_of(folder: Path) -> Path | None:
        asked.append(folder)
        return folder if "seed-4" in str(folder) else None

    monkeypatch.setattr(table5.pretrained, "row_of", row_of)
    monkeypatch.setattr(table5.detected, "row_of", row_of)
    root = tmp_path / "mini"
    pair = [root / f"classifiers/tiny-imagenet-resnet18{ending}/seed-4" for ending in ("", "-fd")]
    assert table5._classifiers(flags) == {folder: folder for folder in pair}
    assert len(asked) == 4
    arms = ("baseline", "fd", "fd-fine-tuning", "fd-both", "scratch")
    assert table5._detectors(flags) == {
        (arm, 4): root / "detectors" / arm / "seed-4" / "evaluated" for arm in arms
    }
    assert len(asked) == 14


def test_one_detector_has_no_report_and_four_files_of_it_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / str(number) for number in range(6)]
    monkeypatch.setattr("detect.report.write_report", lambda *given: files)
    flags = table5.Flags(data=tmp_path, voc=tmp_path, out=tmp_path / "out", seeds=(3, 0))
    for arm, seed, told in (("fd", 0, []), ("fd", 3, []), ("scratch", 3, files[:4])):
        file = table5._detector(flags, arm, seed) / "evaluated" / "evaluation.json"
        file.parent.mkdir(parents=True)
        file.touch()
        assert table5._compare(flags, {}) == told


def test_the_page_of_the_whole_to_the_letter(tmp_path: Path) -> None:
    flags = table5.Flags(data=tmp_path, voc=tmp_path, seeds=(0, 1))
    rows = {
        ("baseline", 0): ROW,
        ("fd", 0): replace(ROW, map_11point=0.625, map_area=None, commit=None),
        ("fd", 1): replace(ROW, map_11point=None, map_area=None, backbone_accuracy=None),
        ("scratch", 1): replace(ROW, backbone_accuracy=None),
    }
    assert (
        table5.render(flags, rows)
        == """# Table 5, full: voc-retinanet-paper on 2007:test

| detector | paper, mAP | paper, backbone | backbone, top-1 | ours, mAP (11-point) \
| - baseline [95% interval] | ours, mAP (area) | n |
|---|---|---|---|---|---|---|---|
| baseline | 70.14 ± 0.17 | 76.32 | 40.00 | 50.00 |  | 40.00 | 1 |
| FocusedDropout in pretraining | 71.05 ± 0.13 / +0.91 | 76.84 / +0.52 | 40.00 | 62.50 | +12.50 \
| - | 1 |
| FocusedDropout in fine-tuning alone | - | - | | not run | | | 0 |
| FocusedDropout in both | - | - | | not run | | | 0 |
| from random weights | - | - | - | 50.00 | - | 40.00 | 1 |

Percent; mean ± sample deviation over n seeds; interval: Student's t, by seed; p, from six seeds \
on: sign-flip test. The paper's backbone is a ResNet-50 on ImageNet.
a processor; torch 2.15.0; commit 0123456789ab, None; 2.0 h.
"""
    )


def test_what_is_run_unless_said_otherwise(tmp_path: Path) -> None:
    flags = table5.Flags(data=tmp_path, voc=tmp_path)
    assert (flags.scale, flags.out, flags.seeds) == ("full", Path("runs/table5"), (0, 1, 2))
    assert (flags.arms, flags.jobs, flags.device, flags.plan) == ((), None, "auto", False)
    root = Path(__file__).parents[3]
    tables = flags.pretrain_results, flags.detect_results
    assert tables == (root / "pretrain/results.csv", root / "detect/results.csv")
    with pytest.raises(ValueError, match="jobs must be at least 1"):
        table5.Flags(data=tmp_path, voc=tmp_path, jobs=0)
    with pytest.raises(ValueError, match="seeds must be at least 0"):
        table5.Flags(data=tmp_path, voc=tmp_path, seeds=(-1,))
