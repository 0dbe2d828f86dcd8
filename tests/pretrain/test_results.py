"""Rows of finished runs."""

import json
from dataclasses import asdict, replace
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from common.storage import to_json
from pretrain.recipes import RECIPES, Recipe
from pretrain.results import Row, changes, describe_changes, row_of

NAME = "cifar10-resnet20-fd"


def short(recipe: Recipe, **images: Any) -> Recipe:
    small = replace(recipe.optimization, epochs=3, milestones=(1.5, 2.25))
    return replace(recipe, optimization=small, images=replace(recipe.images, **images))


def write_run(folder: Path, recipe: Recipe, epochs: int = 3) -> Path:
    """Write what `train` leaves of a run, apart from the weights."""
    folder.mkdir(parents=True)
    description = {"stage": "pretrain", "name": NAME, "seed": 4, "recipe": asdict(recipe)}
    (folder / "recipe.json").write_text(to_json(description))
    facts = {
        "started": "2026-01-02T03:04:05+00:00",
        "commit": "0123456789ab",
        "hardware": "a processor, 2 cores",
        "torch": "2.15.0",
        "source": ".jpg files",
        "train_images": 80,
        "val_images": 20,
    }
    (folder / "environment.json").write_text(json.dumps(facts))
    with (folder / "metrics.jsonl").open("w") as log:
        for epoch, accuracy in enumerate((0.5, 0.7, 0.6)[:epochs], start=1):
            record = {
                "epoch": epoch,
                "step": 10 * epoch,
                "seconds": 1.25,
                "train_loss": 1 / epoch,
                "train_accuracy": epoch / 10,
                "focus_participating_steps": epoch - 1,
                "focus_keep_ratio": None if epoch == 1 else 0.1 * epoch,
                "val_loss": 2 / epoch,
                "val_accuracy": accuracy,
                "val_top5": 0.9,
            }
            log.write(json.dumps(record) + "\n")
    return folder


def test_a_row_by_hand(tmp_path: Path) -> None:
    row = row_of(write_run(tmp_path / "run", short(RECIPES[NAME]())))
    assert row == Row(
        recipe=NAME,
        changes="optimization.epochs=3 optimization.milestones=1.5,2.25",
        data="cifar10 (.jpg files)",
        train_images=80,
        scored_images=20,
        held_out=0,
        seed=4,
        epochs=3,
        started="2026-01-02T03:04:05+00:00",
        commit="0123456789ab",
        hardware="a processor, 2 cores",
        torch="2.15.0",
        seconds=3.8,
        best_accuracy=0.7,
        best_epoch=2,
        last_accuracy=0.6,
        last_top5=0.9,
        last_loss=2 / 3,
        train_accuracy=0.3,
        train_loss=1 / 3,
        keep_ratio=0.25,
        participating_steps=3,
        test_accuracy=None,
    )


def edited(run: Path, *edits: dict[str, Any]) -> Path:
    """Change the records of the epochs; a value of None leaves its field out."""
    log = run / "metrics.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    for record, edit in zip(records, edits, strict=False):
        record |= edit
        for name in [name for name, value in edit.items() if value is None]:
            del record[name]
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    return run


def test_of_epochs_that_were_evaluated_the_first_of_the_best_counts(tmp_path: Path) -> None:
    recipe = short(RECIPES[NAME]())
    equal = edited(write_run(tmp_path / "equal", recipe), {"val_accuracy": 0.7})
    row = row_of(equal)
    assert row is not None and (row.best_epoch, row.best_accuracy, row.last_accuracy) == (
        1,
        0.7,
        0.6,
    )
    rare = edited(write_run(tmp_path / "rare", recipe), {}, {"val_accuracy": None})
    row = row_of(rare)
    assert row is not None and (row.best_epoch, row.best_accuracy) == (3, 0.6)


def test_without_participating_steps_nothing_is_kept(tmp_path: Path) -> None:
    off: dict[str, Any] = {"focus_keep_ratio": None, "focus_participating_steps": None}
    row = row_of(edited(write_run(tmp_path / "run", short(RECIPES[NAME]())), off, off, off))
    assert row is not None and row.keep_ratio is row.participating_steps is None


def test_a_run_that_was_lengthened_is_finished_by_its_recipe(tmp_path: Path) -> None:
    """The log of three epochs, the recipe of three, two and four."""
    for epochs, finished in ((2, True), (3, True), (4, False)):
        recipe = RECIPES[NAME]()
        few = replace(recipe.optimization, epochs=epochs, milestones=())
        run = write_run(tmp_path / str(epochs), replace(recipe, optimization=few))
        assert (row_of(run) is not None) is finished


def test_an_unfinished_run_has_no_row(tmp_path: Path) -> None:
    recipe = short(RECIPES[NAME]())
    assert row_of(tmp_path / "nothing") is None
    assert row_of(write_run(tmp_path / "begun", recipe, epochs=0)) is None
    assert row_of(write_run(tmp_path / "two", recipe, epochs=2)) is None


def test_with_held_out_images_the_test_images_count(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", short(RECIPES[NAME](), held_out=20))
    assert row_of(run) is None
    (run / "evaluation.json").write_text(json.dumps({"val_accuracy": 0.65}))
    row = row_of(run)
    assert row is not None
    assert (row.held_out, row.best_accuracy, row.test_accuracy) == (20, 0.7, 0.65)


def test_changes_name_every_field_that_differs() -> None:
    recipe = RECIPES[NAME]()
    assert changes(NAME, recipe) == {}
    recipe = replace(
        recipe,
        block="bottleneck",
        optimization=replace(recipe.optimization, nesterov=True),
        focus=replace(recipe.focus, gamma=(0.9, 0.9)),
    )
    assert describe_changes(NAME, recipe) == (
        "block=bottleneck optimization.nesterov=True focus.gamma=0.9,0.9"
    )


def test_values_of_a_row_are_given_by_the_names_of_their_columns() -> None:
    """Two numbers of one kind could change places unseen."""
    assert {p.kind for p in signature(Row).parameters.values()} == {Parameter.KEYWORD_ONLY}
    assert Row.__dataclass_params__.frozen  # type: ignore[attr-defined]
