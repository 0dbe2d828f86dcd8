"""Evaluated runs of this stage as rows of a table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.runs import results
from common.runs.folder import read_description
from common.runs.metrics_log import read_metrics
from common.storage import read_json
from detect.recipes import RECIPES, Recipe

KEY = (*results.KEY, "backbone_sha256")
"""Columns that identify a run: detectors differ by their backbone as well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """An evaluated run. APs are fractions."""

    recipe: str
    changes: str
    """What differs from the recipe of that name."""
    backbone: str
    """Recipe that the backbone was trained by, the name of its file, or "scratch"."""
    backbone_seed: int | None
    backbone_accuracy: float | None
    """Of its validation images."""
    backbone_sha256: str | None
    data: str
    """Splits of training and evaluation, and whose weights were evaluated."""
    train_images: int
    scored_images: int
    seed: int
    epochs: int
    started: str
    commit: str | None
    hardware: str
    torch: str
    seconds: float
    """Of training, without evaluations."""
    map_11point: float | None
    map_area: float | None
    coco_ap: float | None
    coco_ap50: float | None
    coco_ap75: float | None
    detections: int
    participating_steps: int | None
    """Of FocusedDropout in fine-tuning."""


def row_of(evaluated: Path) -> Row | None:
    """Read what `evaluate` wrote of a run; None if it is not there.

    Raises:
        InputError: If the folder, or the run that it names, holds something else.
    """
    if not (evaluated / "evaluation.json").exists():
        return None
    evaluation = read_json(evaluated / "evaluation.json")
    metrics = read_json(evaluated / "metrics.json")
    folder = Path(evaluation["training"])
    name, seed, recipe = read_description(folder, "detect", Recipe)
    epochs = read_metrics(folder)
    backbone, voc, coco = evaluation["backbone"], metrics["voc"], metrics["coco"]
    return Row(
        recipe=name,
        changes=results.describe_changes(RECIPES[name](), recipe),
        backbone=backbone.get("recipe_name") or backbone["file"],
        backbone_seed=backbone.get("seed"),
        backbone_accuracy=_accuracy(backbone),
        backbone_sha256=backbone.get("sha256"),
        data=f"{recipe.train_split} -> {evaluation['split']}, {evaluation['checkpoint']}",
        scored_images=evaluation["images"],
        seed=seed,
        epochs=recipe.optimization.epochs,
        map_11point=voc["map_11point"],
        map_area=voc["map_area"],
        coco_ap=coco["ap"],
        coco_ap50=coco["ap50"],
        coco_ap75=coco["ap75"],
        detections=sum(c["detections"] for c in voc["per_class"].values()),
        **results.facts(evaluation["environment"], epochs),
    )


def _accuracy(card: dict[str, Any]) -> float | None:
    metrics = card.get("metrics")  # a card from elsewhere may hold anything
    accuracy = metrics.get("val_accuracy") if isinstance(metrics, dict) else None
    return accuracy if isinstance(accuracy, float) else None
