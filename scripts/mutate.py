"""Ask the tests what they see: change one expression of the code at a time, run the tests near it.

    python scripts/mutate.py --work /tmp/mutants --seed 0 --most 16
    python scripts/mutate.py common/recipe.py --work /tmp/mutants --seed 0 --most 100

A mutant is killed when a test fails. Which are tried is fixed by the seed; messages, docstrings and
annotations are left alone. Torch and the tests are imported once. Each mutant then is a fork of
that process, in which the code of one function is exchanged and those tests run that call it,
quickest first. What is not seen so, since tests start processes of their own, and what runs on
import (constants, defaults of fields) is written to a copy of the tree, and all tests of the file
run on it.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch._dynamo  # noqa: F401 - once, for all forks
import torchvision  # noqa: F401
from mutation.changes import Mutant, mutants
from mutation.running import try_mutants

ROOT = Path(__file__).resolve().parents[1]
METHOD = "tests/common/method"
SCORING = "tests/detect/scoring"
TESTS: dict[str, str] = {
    "common/method/dropout.py": f"{METHOD}/test_dropout.py {METHOD}/test_dropout_layer.py "
    f"{METHOD}/test_placed_layers.py {METHOD}/test_foreign_hands.py",
    "common/method/draws.py": f"{METHOD}/test_draws.py {METHOD}/test_dropout_layer.py "
    "tests/common/training/test_world_sizes.py",
    "common/method/participation.py": f"{METHOD}/test_participation.py",
    "common/method/focused_training.py": f"{METHOD}/test_focused_training.py "
    f"{METHOD}/test_draws.py {METHOD}/test_participation.py {METHOD}/test_any_optimizer.py "
    f"{METHOD}/test_own_loop.py {METHOD}/test_foreign_hands.py",
    "common/method/magnified.py": f"{METHOD}/test_focused_training.py "
    f"{METHOD}/test_any_optimizer.py {METHOD}/test_foreign_hands.py",
    "common/method/restarts.py": f"{METHOD}/test_own_loop.py {METHOD}/test_focused_training.py "
    f"{METHOD}/test_foreign_hands.py",
    "common/method/placement.py": f"{METHOD}/test_insert_after.py {METHOD}/test_placed_layers.py "
    f"{METHOD}/test_foreign_hands.py",
    "common/method/stages.py": f"{METHOD}/test_stages.py {METHOD}/test_penultimate.py",
    "common/method/controls.py": f"{METHOD}/test_controls.py tests/pretrain/test_recipes.py",
    "common/method/arguments.py": f"{METHOD}/test_arguments.py",
    "common/images/sampling.py": "tests/common/images/test_sampling.py",
    "detect/data/batches.py": "tests/detect/data/test_batches.py",
    "common/runs/checkpoints.py": "tests/common/runs/test_checkpoints.py "
    "tests/common/training/test_resume.py",
    "common/training/checkpointing.py": "tests/common/training/test_checkpointing.py "
    "tests/common/training/test_resume.py tests/common/training/test_loop.py",
    "common/training/batch_size.py": "tests/common/training/test_batch_size.py",
    "common/training/epoch_means.py": "tests/common/training/test_epoch_means.py "
    "tests/common/training/test_loop.py",
    "common/training/loop.py": "tests/common/training/test_epoch_ends.py "
    "tests/common/training/test_loop.py tests/common/training/test_resume.py",
    "common/training/network.py": "tests/common/training/test_network.py "
    "tests/common/method/test_controls.py",
    "common/training/steps.py": "tests/common/training/test_steps.py "
    "tests/common/training/test_loop.py tests/common/training/test_resume.py "
    "tests/common/optimization/test_cuda_graphs.py tests/common/training/test_world_sizes.py",
    "common/training/assembly.py": "tests/common/training/test_assembly.py "
    "tests/common/training/test_epoch_ends.py tests/common/training/test_loop.py "
    "tests/common/training/test_resume.py",
    "common/training/certifying.py": "tests/common/training/test_certifying.py "
    "tests/pretrain/test_check.py",
    "common/training/check.py": "tests/common/training/test_check.py tests/pretrain/test_check.py "
    "tests/pretrain/test_world_sizes.py",
    "common/training/launch.py": "tests/common/training/test_launch.py",
    "common/training/non_finite.py": "tests/common/training/test_non_finite.py "
    "tests/common/training/test_loop.py",
    "common/training/task.py": "tests/common/training/test_assembly.py "
    "tests/common/training/test_loop.py",
    "common/recipe.py": "tests/common/test_recipe.py tests/test_recipe_tables.py",
    "pretrain/recipes/recipe.py": "tests/test_recipe_tables.py tests/pretrain/test_recipes.py",
    "pretrain/recipes/tables.py": "tests/test_recipe_tables.py tests/pretrain/test_recipes.py",
    "pretrain/recipes/backbones.py": "tests/test_recipe_tables.py",
    "pretrain/recipes/toy.py": "tests/test_recipe_tables.py",
    "pretrain/recipes/cost.py": "tests/pretrain/test_costs.py",
    "detect/recipes.py": "tests/test_recipe_tables.py tests/detect/test_commands.py",
    "detect/scoring/voc.py": f"{SCORING}/test_voc.py",
    "detect/scoring/matches.py": f"{SCORING}/test_voc.py {SCORING}/test_matches_file.py "
    f"{SCORING}/test_analysis.py",
    "detect/scoring/coco.py": f"{SCORING}/test_coco.py",
    "detect/scoring/coco_by_pycocotools.py": f"{SCORING}/test_coco.py",
    "detect/scoring/sizes.py": f"{SCORING}/test_coco.py {SCORING}/test_analysis.py",
    "detect/scoring/metrics.py": f"{SCORING}/test_metrics.py {SCORING}/test_scored_folder.py",
    "detect/scoring/bootstrap.py": f"{SCORING}/test_bootstrap.py",
    "detect/scoring/comparison.py": f"{SCORING}/test_over_seeds.py",
    "detect/scoring/over_seeds.py": f"{SCORING}/test_over_seeds.py",
    "detect/scoring/analysis.py": f"{SCORING}/test_analysis.py",
    "detect/scoring/calibration.py": f"{SCORING}/test_calibration.py",
    "detect/scoring/detections.py": f"{SCORING}/test_detections.py {SCORING}/test_reading.py",
    "detect/scoring/error_kinds.py": f"{SCORING}/test_error_kinds.py {SCORING}/test_analysis.py",
    "detect/scoring/label_errors.py": f"{SCORING}/test_label_errors.py",
    "detect/scoring/matches_file.py": f"{SCORING}/test_matches_file.py",
    "detect/scoring/scored_folder.py": f"{SCORING}/test_scored_folder.py",
    "common/runs/results.py": "tests/common/runs/test_results.py tests/pretrain/test_results.py "
    "tests/detect/test_results.py",
    "common/runs/over_seeds.py": "tests/common/runs/test_over_seeds.py",
    "common/runs/certificate.py": "tests/common/runs/test_certificate.py "
    "tests/pretrain/test_check.py",
    "common/runs/data_parts.py": "tests/common/runs/test_data_parts.py",
    "common/runs/epoch_lines.py": "tests/common/runs/test_epoch_lines.py "
    "tests/common/runs/test_progress.py",
    "common/runs/folder.py": "tests/common/runs/test_folder.py "
    "tests/common/training/test_resume.py",
    "common/runs/metrics_log.py": "tests/common/runs/test_metrics_log.py "
    "tests/common/training/test_loop.py tests/common/training/test_resume.py",
    "common/runs/progress.py": "tests/common/runs/test_progress.py",
    "common/runs/ending.py": "tests/common/runs/test_ending.py",
    "common/runs/environment.py": "tests/common/runs/test_environment.py",
    "common/runs/finished.py": "tests/common/runs/test_finished.py",
    "common/runs/terminal.py": "tests/common/runs/test_terminal.py",
    "common/runs/trackers.py": "tests/common/runs/test_trackers.py",
    "pretrain/results.py": "tests/pretrain/test_results.py",
    "detect/results.py": "tests/detect/test_results.py",
    "scripts/reproduction/tables.py": "tests/scripts/reproduction/test_tables.py",
    "scripts/reproduction/experiments.py": "tests/scripts/reproduction/test_experiments.py "
    "tests/scripts/reproduction/test_tables.py",
    "scripts/reproduction/table5.py": "tests/scripts/reproduction/test_table5.py",
}
"""The tests of each file, quickest first."""


def copied(work: Path) -> Path:
    """Copy what git tracks, or would, into a folder of the work; return it."""
    tree = work / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(command, cwd=ROOT, text=True).split("\0"):
        if name and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    return tree


def try_all(files: Sequence[str], work: Path, most: int, seed: int, again: str) -> None:
    """Try the mutants of each file; append one line of JSON for each to results.jsonl."""
    tree = copied(work)
    record = work / "results.jsonl"
    record.touch()

    def tell(mutant: Mutant, killer: str, seconds: float) -> None:
        told = {"file": mutant.file, "line": mutant.line, "column": mutant.column}
        told |= {"before": mutant.before, "after": mutant.after}
        with record.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({**told, "killer": killer, "seconds": round(seconds, 1)}) + "\n")

    failed = False
    for file in files:
        chosen = mutants((tree / file).read_text(encoding="utf-8"), file, most, seed)
        if again:
            chosen = [
                m for m in chosen if _line(m.file, m.line, m.column, m.before, m.after) in again
            ]
        try:
            try_mutants(chosen, tree, TESTS[file].split(), tell)
        except RuntimeError as error:  # the other files are tried all the same
            print(f"{file}: {error}", file=sys.stderr, flush=True)
            failed = True
    _show(record)
    if failed:
        raise SystemExit(1)


def _line(file: str, line: int, column: int, before: str, after: str) -> str:
    return f"{file}:{line}:{column} {before} -> {after}"


def _show(record: Path) -> None:
    """Print a table of what was tried last of each mutant."""
    lines = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    place = ("file", "line", "column", "before", "after")
    last = {tuple(line[name] for name in place): line["killer"] for line in lines}
    for key, killer in last.items():
        if not killer:
            print(_line(*key))
    print("\n| file | mutants | killed |\n|---|---|---|")
    for file in dict.fromkeys(key[0] for key in last):
        killers = [killer for key, killer in last.items() if key[0] == file]
        print(f"| `{file}` | {len(killers)} | {sum(map(bool, killers))} |")
    print(f"| all | {len(last)} | {sum(map(bool, last.values()))} |")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("files", nargs="*", default=list(TESTS), help="which code; all of TESTS")
    parser.add_argument("--work", type=Path, required=True, help="a folder to work in")
    parser.add_argument("--seed", type=int, default=0, help="draws the mutants of each file")
    parser.add_argument("--most", type=int, default=16, help="at most so many of a file")
    parser.add_argument("--again", type=Path, help="a printed list: try these survivors alone")
    arguments = parser.parse_args()
    if unknown := set(arguments.files) - set(TESTS):
        parser.error(f"TESTS has no tests for {', '.join(sorted(unknown))}")
    arguments.work.mkdir(parents=True, exist_ok=True)
    again = arguments.again.read_text() if arguments.again else ""
    try_all(arguments.files, arguments.work.resolve(), arguments.most, arguments.seed, again)


if __name__ == "__main__":
    main()
