"""`python scripts/reproduce.py table5`: from images to backbones to detectors; see `--help`."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from common.command import cli
from common.errors import InputError
from common.recipe import AT_LEAST_ONE, NOT_NEGATIVE, check
from common.runs.over_seeds import paired_difference, spread
from common.runs.results import record_runs
from common.storage import write_text
from detect import results as detected
from pretrain import paper
from pretrain import results as pretrained
from reproduction.side_by_side import Job, find_slots, run_side_by_side

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "python scripts/reproduce.py table5"
DESCRIPTION = f"""Table 5 of the paper: does a backbone trained with FocusedDropout detect better?

Pretrain a backbone with and without the method for each seed, fine-tune the same detector from
each, once without and once with FocusedDropout in the fine-tuning, and one from random weights;
evaluate, compare, and write table5.md and, of the first seed, the report of the detectors
(table5-report.html) and class activation maps of the backbones (table5-cam.png). What is done is
not repeated, what was interrupted is resumed. Rows go to pretrain/results.csv and
detect/results.csv.

  full   ImageNet, ResNet-50, 300 epochs; voc-retinanet-paper on VOC07+12, VOC07 test
  small  Tiny ImageNet, ResNet-50, 60 epochs; voc-retinanet-small, 24 epochs, VOC2012 train to val
  mini   50 classes of Tiny ImageNet, ResNet-18, 20 epochs, bfloat16; the same at 192 pixels, 64
         channels, 6 epochs: a few hours on 2 CPU cores

example: {PROGRAM} --scale mini --data tiny-imagenet-200 --voc VOCdevkit"""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What is run, and how."""

    data: Path
    """Images to pretrain on: ImageNet, or Tiny ImageNet for small and mini."""
    voc: Path
    """VOC devkit."""
    scale: Literal["full", "small", "mini"] = "full"
    """How much of it."""
    out: Path = Path("runs/table5")
    """Folder of the runs and of what is rendered."""
    seeds: Annotated[tuple[int, ...], NOT_NEGATIVE] = (0, 1, 2)
    """A backbone and its detectors for each."""
    arms: tuple[Literal["baseline", "fd", "fd-fine-tuning", "fd-both", "scratch"], ...] = ()
    """Train these detectors and their backbones alone; the table shows all."""
    jobs: Annotated[int | None, AT_LEAST_ONE] = None
    """Backbones side by side; None: one per GPU (up to four on a single GPU), else one per core."""
    device: str = "auto"
    """auto (GPUs where there are any), cpu or cuda."""
    plan: bool = False
    """Show the plan and the results so far; train nothing."""
    pretrain_results: Path = ROOT / "pretrain" / "results.csv"
    """Finished classifiers are appended to this table, their metrics kept in logs/ beside it."""
    detect_results: Path = ROOT / "detect" / "results.csv"
    """Evaluated detectors are appended to this table, their metrics kept in logs/ beside it."""

    def __post_init__(self) -> None:
        check(self)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must be at least one, each once")


@dataclass(frozen=True)
class Scale:
    """The two recipes of a scale, and their changes."""

    classifier: str
    classifier_flags: str
    detector: str
    detector_flags: str
    split: str


_SMALL_SPLIT = "2012:val"
SCALES = {
    "full": Scale("imagenet-resnet50", "", "voc-retinanet-paper", "", "2007:test"),
    "small": Scale(
        "tiny-imagenet-resnet50", "--stem imagenet", "voc-retinanet-small", "", _SMALL_SPLIT
    ),  # with the stem that the detector has
    "mini": Scale(
        "tiny-imagenet-resnet18",
        "--stem imagenet --images.num-classes 50 --optimization.epochs 20 "
        "--optimization.milestones 10 15 --optimization.precision bf16",
        "voc-retinanet-small",
        "--body resnet18 --detector.fpn-channels 64 --detector.anchor-scale 3 "
        "--detector.train-sizes 192 --detector.test-size 192 --detector.max-size 192 "
        "--optimization.epochs 6 --optimization.schedule cosine --optimization.optimizer adamw "
        "--optimization.lr 1e-3 --optimization.batch-size 8 --optimization.precision bf16 "
        "--evaluate-every 100",
        _SMALL_SPLIT,
    ),
}


@dataclass(frozen=True)
class Arm:
    """A detector of the table."""

    label: str
    backbone: str | None
    """What the name of its recipe ends in; None: random weights."""
    flags: str = ""
    paper: str | None = None
    """What it is in the paper's Table 5; None: not there."""


ARMS = {
    "baseline": Arm("baseline", "", paper="baseline"),
    "fd": Arm("FocusedDropout in pretraining", "-fd", paper="fd"),
    "fd-fine-tuning": Arm("FocusedDropout in fine-tuning alone", "", "--focused-dropout layer3"),
    "fd-both": Arm("FocusedDropout in both", "-fd", "--focused-dropout layer3"),
    "scratch": Arm("from random weights", None),
}


def run(argv: list[str]) -> None:
    """Plan, run and render."""
    flags = cli.parse(Flags, argv, PROGRAM, DESCRIPTION)
    wanted = [(arm, seed) for seed in flags.seeds for arm in _chosen(flags)]
    # One job for each backbone: its detectors wait for it, nothing else does.
    backbones = dict.fromkeys((seed, ARMS[arm].backbone) for arm, seed in wanted)
    slots = find_slots(flags.device, flags.jobs, len(backbones))
    jobs = [
        Job(name=name, commands=commands, log=flags.out / f"{name}.log")
        for seed, backbone in backbones
        if (commands := _commands(flags, backbone, seed, slots[0].device))
        for name in [f"{_backbone_name(flags, backbone)}-seed{seed}"]
    ]
    done = len(_detectors(flags).keys() & wanted)
    print(f"{len(wanted)} detectors, {done} of them done; to do: {len(jobs)} backbones")
    for job in jobs:
        print(f"  {job.name}: {len(job.commands)} commands")
    if jobs and not flags.plan:
        run_side_by_side(jobs, slots, _done, _status)
    classifiers = _classifiers(flags)
    record_runs(flags.pretrain_results, pretrained.Row, classifiers)
    rows = _detectors(flags)
    trained = {_detector(flags, arm, seed): row for (arm, seed), row in rows.items()}
    record_runs(flags.detect_results, detected.Row, trained, detected.KEY)
    flags.out.mkdir(parents=True, exist_ok=True)
    table = render(flags, rows)
    write_text(flags.out / "table5.md", table)
    print(f"\n{table}\nwrote {flags.out / 'table5.md'}")
    for file in _compare(flags, classifiers):
        print(f"wrote {file}")


def _compare(flags: Flags, classifiers: Mapping[Path, pretrained.Row]) -> list[Path]:
    """Write the report of the first seed's detectors and the maps of its backbones."""
    written = []
    evaluated = [_detector(flags, arm, flags.seeds[0]) / "evaluated" for arm in ARMS]
    evaluated = [folder for folder in evaluated if (folder / "evaluation.json").exists()]
    if len(evaluated) > 1:
        from detect.report import write_report

        written += write_report(evaluated, flags.out / "table5-report.html", flags.voc)[:4]
    pair = [_classifier(flags, ending, flags.seeds[0]) for ending in ("", "-fd")]
    if all(folder in classifiers for folder in pair):
        from pretrain.figures.commands import draw_figure

        written += draw_figure("cam", pair, flags.data, flags.out / "table5-cam.png", flags.device)
    return written


def _chosen(flags: Flags) -> list[str]:
    return [arm for arm in ARMS if arm in (flags.arms or ARMS)]


def _backbone_name(flags: Flags, ending: str | None) -> str:
    return "scratch" if ending is None else SCALES[flags.scale].classifier + ending


def _detector(flags: Flags, arm: str, seed: int) -> Path:
    return flags.out / flags.scale / "detectors" / arm / f"seed-{seed}"


def _classifier(flags: Flags, ending: str, seed: int) -> Path:
    name = _backbone_name(flags, ending)
    return flags.out / flags.scale / "classifiers" / name / f"seed-{seed}"


def _commands(flags: Flags, ending: str | None, seed: int, device: str) -> list[list[str]]:
    """List what is left to do for a backbone and the detectors on it."""
    scale = SCALES[flags.scale]
    how = f"--seed {seed} --device {device}".split()
    commands, backbone = [], "scratch"
    if ending is not None:
        classifier = _classifier(flags, ending, seed)
        backbone = str(classifier / "backbone.safetensors")
        if not Path(backbone).exists():
            given = ["--data", str(flags.data), "--out", str(classifier)]
            name = _backbone_name(flags, ending)
            commands += [
                ["pretrain", "train", name, *given, *how, *scale.classifier_flags.split()],
                ["pretrain", "export", "--run", str(classifier), "--out", backbone],
            ]
    for name in _chosen(flags):
        folder, arm = _detector(flags, name, seed), ARMS[name]
        if arm.backbone != ending or (folder / "evaluated" / "evaluation.json").exists():
            continue
        data = ["--data", str(flags.voc)]
        given = ["--backbone", backbone, *data, "--out", str(folder), *how]
        own = [*scale.detector_flags.split(), *arm.flags.split()]
        out = ["--split", scale.split, "--out", str(folder / "evaluated"), "--device", device]
        commands += [
            ["detect", "train", scale.detector, *given, *own],
            ["detect", "evaluate", "--run", str(folder), *data, *out],
        ]
    return [[sys.executable, "-m", *command] for command in commands]


def _done(job: Job, code: int) -> None:
    if code:
        lines = job.log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
        raise InputError(f"{job.name} failed, see {job.log}: {lines[-1]}")
    print(f"{job.name}: done", flush=True)


def _status(running: list[Job]) -> None:
    print(f"  running: {', '.join(job.name for job in running)}", flush=True)


def _classifiers(flags: Flags) -> dict[Path, pretrained.Row]:
    """Read the finished classifiers, by folder."""
    endings = dict.fromkeys(arm.backbone for arm in ARMS.values() if arm.backbone is not None)
    folders = [_classifier(flags, ending, seed) for seed in flags.seeds for ending in endings]
    return {folder: row for folder in folders if (row := pretrained.row_of(folder))}


def _detectors(flags: Flags) -> dict[tuple[str, int], detected.Row]:
    """Read the evaluated detectors, by arm and seed."""
    return {
        (arm, seed): row
        for seed in flags.seeds
        for arm in ARMS
        if (row := detected.row_of(_detector(flags, arm, seed) / "evaluated"))
    }


def render(flags: Flags, rows: Mapping[tuple[str, int], detected.Row]) -> str:
    """Write the table: mAP of every arm beside the paper's, differences paired by seed."""
    scale = SCALES[flags.scale]
    lines = [
        f"# Table 5, {flags.scale}: {scale.detector} on {scale.split}",
        "",
        *([] if flags.scale == "full" else ["**Not the paper's training: smaller.**", ""]),
        "| detector | paper, mAP | paper, backbone | backbone, top-1 | ours, mAP (11-point) "
        "| - baseline [95% interval] | ours, mAP (area) | n |",
        "|---|---|---|---|---|---|---|---|",
    ]
    baseline = _values(rows, "baseline", "map_11point")
    for name, arm in ARMS.items():
        ours = _values(rows, name, "map_11point")
        reported = f"{_reported(arm.paper)} | {_reported_backbone(arm.paper)}"
        if not ours:
            lines.append(f"| {arm.label} | {reported} | | not run | | | 0 |")
            continue
        accuracy = _values(rows, name, "backbone_accuracy").values()
        area = _values(rows, name, "map_area").values()
        difference = "" if name == "baseline" else _difference(ours, baseline)
        lines.append(
            f"| {arm.label} | {reported} | {spread(accuracy)} "
            f"| {spread(ours.values())} | {difference} | {spread(area)} | {len(ours)} |"
        )
    found = list(rows.values())
    lines += [
        "",
        "Percent; mean ± sample deviation over n seeds; interval: Student's t, by seed; p, from "
        "six seeds on: sign-flip test. The paper's backbone is a ResNet-50 on ImageNet.",
    ]
    if found:
        commits = ", ".join(sorted({str(row.commit) for row in found}))
        hours = sum(row.seconds for row in found) / 3600
        lines += [f"{found[0].hardware}; torch {found[0].torch}; commit {commits}; {hours:.1f} h."]
    return "\n".join([*lines, ""])


def _reported(arm: str | None) -> str:
    """Write what Table 5 has: mean, deviation over seeds and gain."""
    if arm is None:
        return "-"
    mean, deviation = paper.TABLE_5[arm]
    gain = "" if arm == "baseline" else f" / {mean - paper.TABLE_5['baseline'][0]:+.2f}"
    return f"{mean:.2f} ± {deviation:.2f}{gain}"


def _reported_backbone(arm: str | None) -> str:
    if arm is None:
        return "-"
    gain = (
        "" if arm == "baseline" else f" / {paper.IMAGENET[arm] - paper.IMAGENET['baseline']:+.2f}"
    )
    return f"{paper.IMAGENET[arm]:.2f}{gain}"


def _values(
    rows: Mapping[tuple[str, int], detected.Row], arm: str, column: str
) -> dict[int, float]:
    found = {seed: getattr(row, column) for (name, seed), row in rows.items() if name == arm}
    return {seed: 100 * value for seed, value in found.items() if value is not None}


def _difference(ours: Mapping[int, float], baseline: Mapping[int, float]) -> str:
    return str(paired_difference(ours, baseline) or "-")
