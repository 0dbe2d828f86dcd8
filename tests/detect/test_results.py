"""Rows of evaluated detectors."""

import json
from dataclasses import asdict, replace
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError
from common.storage import to_json
from detect.recipes import RECIPES
from detect.results import Row, row_of

NAME = "voc-retinanet-small"
CARD = {
    "recipe_name": "tiny-imagenet-resnet18-fd",
    "seed": 3,
    "metrics": {"val_accuracy": 0.4},
    "sha256": "ab12",
}


def write_run(folder: Path, backbone: dict[str, Any], focus_steps: list[int]) -> Path:
    """Write what `train` and `evaluate` leave, as far as a row reads it; return the evaluation."""
    recipe = RECIPES[NAME]()
    recipe = replace(recipe, optimization=replace(recipe.optimization, epochs=2))
    evaluated = folder / "evaluated"
    evaluated.mkdir(parents=True)
    description = {"stage": "detect", "name": NAME, "seed": 5, "recipe": asdict(recipe)}
    (folder / "recipe.json").write_text(to_json(description))
    with (folder / "metrics.jsonl").open("w") as log:
        for epoch, seconds in ((1, 1.25), (2, 1.5)):
            record: dict[str, Any] = {"epoch": epoch, "step": 10 * epoch, "seconds": seconds}
            if focus_steps:
                record["focus_participating_steps"] = focus_steps[epoch - 1]
            log.write(json.dumps(record) + "\n")
    environment = {
        "train_images": 80,
        "started": "2026-01-02T03:04:05+00:00",
        "commit": "0123456789ab",
        "hardware": "a processor, 2 cores",
        "torch": "2.15.0",
    }
    evaluation = {
        "training": str(folder),
        "split": "2012:val",
        "checkpoint": "last",
        "images": 20,
        "environment": environment,
        "backbone": backbone,
    }
    (evaluated / "evaluation.json").write_text(json.dumps(evaluation))
    classes = {"cat": {"detections": 30}, "dog": {"detections": 12}}
    metrics = {
        "voc": {"map_11point": 0.5, "map_area": 0.25, "per_class": classes},
        "coco": {"ap": 0.1, "ap50": 0.2, "ap75": None},
    }
    (evaluated / "metrics.json").write_text(json.dumps(metrics))
    return evaluated


def test_a_row_by_hand(tmp_path: Path) -> None:
    assert row_of(write_run(tmp_path / "run", CARD, [1, 2])) == Row(
        recipe=NAME,
        changes="optimization.epochs=2",
        backbone="tiny-imagenet-resnet18-fd",
        backbone_seed=3,
        backbone_accuracy=0.4,
        backbone_sha256="ab12",
        data="2012:train -> 2012:val, last",
        train_images=80,
        scored_images=20,
        seed=5,
        epochs=2,
        started="2026-01-02T03:04:05+00:00",
        commit="0123456789ab",
        hardware="a processor, 2 cores",
        torch="2.15.0",
        seconds=2.8,
        map_11point=0.5,
        map_area=0.25,
        coco_ap=0.1,
        coco_ap50=0.2,
        coco_ap75=None,
        detections=42,
        participating_steps=3,
    )


@pytest.mark.parametrize(
    ("backbone", "name"),
    [({"recipe_name": "scratch"}, "scratch"), ({"file": "resnet18.pth"}, "resnet18.pth")],
)
def test_backbones_without_a_card(tmp_path: Path, backbone: dict[str, Any], name: str) -> None:
    row = row_of(write_run(tmp_path / "run", backbone, []))
    assert row is not None
    assert (row.backbone, row.backbone_seed, row.backbone_accuracy) == (name, None, None)
    assert row.participating_steps is None


@pytest.mark.parametrize(
    ("metrics", "accuracy"),
    [
        ({"val_accuracy": 0.0}, 0.0),
        ({"val_accuracy": 1}, None),
        ({"val_accuracy": "0.4"}, None),
        ({}, None),
        ([0.4], None),
        (None, None),
    ],
)
def test_a_card_from_elsewhere_may_hold_anything(
    tmp_path: Path, metrics: Any, accuracy: float | None
) -> None:
    row = row_of(write_run(tmp_path / "run", CARD | {"metrics": metrics, "file": "a.pth"}, []))
    assert row is not None and row.backbone_accuracy == accuracy
    named = row_of(write_run(tmp_path / "named", CARD | {"recipe_name": "", "file": "a.pth"}, []))
    assert named is not None and named.backbone == "a.pth"


def test_what_is_not_evaluated_has_no_row(tmp_path: Path) -> None:
    assert row_of(tmp_path) is None
    evaluated = write_run(tmp_path / "run", CARD, [])
    (tmp_path / "run" / "recipe.json").unlink()
    with pytest.raises(InputError, match=r"recipe\.json is missing"):
        row_of(evaluated)


def test_values_of_a_row_are_given_by_the_names_of_their_columns() -> None:
    """Two numbers of one kind could change places unseen."""
    assert {p.kind for p in signature(Row).parameters.values()} == {Parameter.KEYWORD_ONLY}
    assert Row.__dataclass_params__.frozen  # type: ignore[attr-defined]
