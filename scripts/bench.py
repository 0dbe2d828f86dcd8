"""Benchmarks: ours and the alternatives in turn, on random data; medians, floors, ratios.

python scripts/bench.py rates       what the device can do: copies, products, launches
python scripts/bench.py layer       FocusedDropout against a copy and the dropouts of others
python scripts/bench.py method      a training step with the whole method against the plain one
python scripts/bench.py cifar       training on small images: our loop against a plain one
python scripts/bench.py imagenet    training ResNet-50 at 224 px: our loop against a plain one
python scripts/bench.py loader      from a JPEG to a tensor: ours against torchvision's; --photos
python scripts/bench.py feeding     images through worker processes to the device
python scripts/bench.py retinanet   training and detecting: ours against torchvision's RetinaNet
python scripts/bench.py export      exported detectors: the same boxes? --photos --runs RUN ...
python scripts/bench.py score       the VOC metric against a loop over detections; --coco
python scripts/bench.py checkpoint  saving and resuming, beside a plain torch.save
python scripts/bench.py epochs      what the end of an epoch costs
python scripts/bench.py scale       one and two ranks; 1, 4 and 16 times the data
python scripts/bench.py proof       what the certificate and ordered sums cost
python scripts/bench.py startup     the help of both stages, the first training step
python scripts/bench.py all         all of them, each in a process of its own
"""

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from benchmarks import measure
from benchmarks.measure import Comparison, Run, Settings

from common.errors import InputError
from common.processes import launcher

NAMES = (
    "rates",
    "layer",
    "method",
    "cifar",
    "imagenet",
    "loader",
    "feeding",
    "retinanet",
    "export",
    "score",
    "checkpoint",
    "epochs",
    "scale",
    "proof",
    "startup",
)


def measured(name: str, settings: Settings, lines: Path | None) -> dict[str, Any]:
    """Run one benchmark in this process, print its table, and return the record.

    Args:
        name: The benchmark.
        settings: How it is run.
        lines: File to which each comparison goes as soon as it is there.
    """
    module = importlib.import_module(f"benchmarks.{name}")
    start = time.perf_counter()
    load = measure.load()
    comparisons: list[Comparison] = []
    for comparison in module.run(settings):
        comparisons.append(comparison)
        if lines:
            with lines.open("a", encoding="utf-8") as file:
                print(json.dumps(asdict(comparison)), file=file)
    loads = [load, measure.load()]
    seconds = round(time.perf_counter() - start, 1)
    summary = str(module.__doc__).splitlines()[0]
    record = {
        "summary": summary,
        "seconds": seconds,
        "load": loads,
        "comparisons": measure.as_record(comparisons),
        "failed": [name for comparison in comparisons for name in comparison.failed],
    }
    print(f"\n{name}: {summary}\n")
    print(measure.table(comparisons))
    print(f"\n{seconds:.0f} s, load {loads[0]} to {loads[1]}", flush=True)
    return record


def each_alone(settings: Settings) -> dict[str, Any]:
    """Run each benchmark in a process of its own: what one sets for its process ends there."""
    records: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            lacking = lacks(name, settings)
            if lacking:
                print(f"\n{name}: skipped, it needs {lacking}", flush=True)
                records[name] = {"skipped": lacking}
                continue
            path = Path(folder) / f"{name}.json"
            command = [sys.executable, __file__, name, *settings.flags(), "--json", str(path)]
            subprocess.run(command)
            if path.exists():
                records |= json.loads(path.read_text())["benchmarks"]
            else:
                records[name] = {"not run": "it failed; its message is above"}
    return records


def lacks(name: str, settings: Settings) -> str:
    """Say what a benchmark needs that is not given; nothing: it can run."""
    if name in ("loader", "export") and not settings.photos:
        return "real photos: give --photos DIR"
    return "trained detectors: give --runs RUN" if name == "export" and not settings.runs else ""


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("name", choices=[*NAMES, "all"], help="what to measure")
    made.add_argument("--json", type=Path, help="write all times here as well")
    made.add_argument("--threads", type=int, default=launcher.usable_cores(), help="CPU threads")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    made.add_argument("--device", choices=["cpu", "cuda"], default=device)
    made.add_argument("--photos", type=Path, help="loader, feeding, export: folder of JPEGs")
    made.add_argument("--runs", type=Path, nargs="+", default=[], help="export: trained detectors")
    made.add_argument("--coco", action="store_true", help="score: pycocotools as well, 30 s")
    made.add_argument("--tiny", action="store_true", help="smallest sizes: does it run at all")
    made.add_argument("--compiled", action="store_true", help="the compiled sides, which take long")
    made.add_argument("--network", help="cifar, retinanet, proof: one network only")
    made.add_argument("--loop", help="cifar, imagenet, scale: one side only, in this process")
    made.add_argument("--lines", type=Path, help="add each comparison to this file, a JSON line")
    return made


def main() -> int:
    """Run the benchmark that the command line names."""
    given = parser().parse_args()
    settings = Settings(
        threads=given.threads,
        device=torch.device(given.device),
        photos=given.photos.resolve() if given.photos else None,
        runs=tuple(run.resolve() for run in given.runs),
        coco=given.coco,
        tiny=given.tiny,
        loop=given.loop,
        network=given.network,
        compiled=given.compiled,
    )
    try:
        check(given)
        torch.set_num_threads(settings.threads)
        torch.manual_seed(0)
        if settings.loop:
            took = one_side(given.name, settings)
            if launcher.is_main():  # lines of several ranks would mix
                print(json.dumps(asdict(took)))
            return 0
        facts = measure.describe(settings)
        print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
        if given.name == "all":
            records = each_alone(settings)
        else:
            records = {given.name: measured(given.name, settings, given.lines)}
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    loads = [record["load"] for record in records.values() if "load" in record]
    if loads:
        facts |= {"load_start": loads[0][0], "load_end": loads[-1][1]}
    if given.json:
        measure.write(facts | {"benchmarks": records}, given.json)
    return int(any("not run" in record or record.get("failed") for record in records.values()))


def check(given: argparse.Namespace) -> None:
    """Tell at once what would fail at the end, or with a traceback.

    Raises:
        InputError: If there is no such device, number of threads, or folder of the JSON file.
    """
    if given.threads < 1:
        raise InputError(f"--threads {given.threads}: choose 1 or more")
    if given.device == "cuda" and not torch.cuda.is_available():
        raise InputError("torch sees no GPU: use --device cpu")
    if given.json and not given.json.absolute().parent.is_dir():
        raise InputError(f"there is no folder {given.json.parent} for --json: make it first")


def one_side(name: str, settings: Settings) -> Run:
    """Return what one side takes.

    Raises:
        InputError: If the benchmark has no such side.
    """
    module = importlib.import_module(f"benchmarks.{name}")
    loops = getattr(module, "LOOPS", ())
    if settings.loop not in loops:
        raise InputError(
            f"{name} has no loop {settings.loop}: choose from {', '.join(loops) or 'none'}"
        )
    took: Run = module.one(settings)
    return took


if __name__ == "__main__":
    sys.exit(main())
