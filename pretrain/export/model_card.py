"""The model card of a backbone: markdown with the YAML head that model hubs read.

Written from the card in JSON alone, and from rows of results for the error bars. The fields of
the head are those of the hub's model card specification (Hugging Face, docs/hub/model-cards.md).
"""

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.runs.over_seeds import mean_and_deviation
from common.text import counted, in_markdown
from common.weights.backbone import card_path
from pretrain.export.consumers import LANGUAGES, quoted

Card = Mapping[str, Any]
Rows = Sequence[Mapping[str, str]]
_MARK = "<!-- Written by `python -m pretrain export`. -->"
_COLUMNS = ("recipe", "changes", "train_images", "seed", "best_accuracy", "last_accuracy")
_SHOWN = 200  # classes
_WORDNET_ID = re.compile(r"n\d{8}")

PAPER = """\
@misc{xie2021focuseddropout,
  title         = {FocusedDropout for Convolutional Neural Network},
  author        = {Xie, Tianshu and Liu, Minghui and Deng, Jiali and Cheng, Xuan and Wang, Xiaomin
                   and Liu, Ming},
  year          = {2021},
  eprint        = {2103.15425},
  archivePrefix = {arXiv}
}"""


@dataclass(frozen=True, slots=True)
class _Data:
    name: str
    type: str
    """As hubs call it."""
    licence: str


_IMAGENET_TERMS = "ImageNet's terms of access: non-commercial research and education only"
_DATA = {
    "cifar10": _Data("CIFAR-10", "cifar10", "none is stated by its makers"),
    "cifar100": _Data("CIFAR-100", "cifar100", "none is stated by its makers"),
    "tiny-imagenet": _Data(
        "Tiny ImageNet", "tiny-imagenet", f"derived from ImageNet. {_IMAGENET_TERMS}"
    ),
    "imagenet": _Data("ImageNet", "imagenet-1k", _IMAGENET_TERMS),
    "folders": _Data("images in class folders", "imagefolder", "not known to this program"),
}


def markdown_path(path: Path) -> Path:
    """Name the model card of a backbone file."""
    return path.with_suffix(".md")


def check_markdown(path: Path) -> None:
    """Check that no other text would be overwritten.

    Raises:
        InputError: If there is a file that is no model card of this project.
    """
    if path.exists() and _MARK not in path.read_text(errors="replace"):
        raise InputError(
            f"{path} is no model card of this project and would be overwritten: rename --out"
        )


def same_recipe(path: Path, card: Card) -> list[dict[str, str]]:
    """Read the rows of a results file that repeat the run of a card, one for each seed.

    Raises:
        InputError: If the file cannot be read, lacks columns, such rows or numbers in them.
    """
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no table of results, leave --results out: {error}") from error
    lacking = [name for name in _COLUMNS if rows and name not in (reader.fieldnames or ())]
    if lacking:
        raise InputError(
            f"{path} is no table of results, leave --results out: it lacks {', '.join(lacking)}"
        )
    wanted = (card["recipe_name"], card["changes"] or "", str(card["train_images"]))
    same = [r for r in rows if (r["recipe"], r["changes"] or "", r["train_images"]) == wanted]
    if not same:
        changes = f" with {wanted[1]}" if wanted[1] else ""
        raise InputError(f"{path} has no run of {wanted[0]}{changes}: leave --results out")
    for row in same:
        for column in ("seed", *_accuracy_columns(card).values()):
            if not _is_number(row.get(column), int if column == "seed" else float):
                raise InputError(
                    f"{path}: a run of {wanted[0]} has no number as its {column}: correct the row, "
                    "or leave --results out"
                )
    return list({row["seed"]: row for row in same}.values())


def _is_number(text: str | None, kind: type[int] | type[float]) -> bool:
    try:
        return text is not None and math.isfinite(kind(text))
    except (ValueError, OverflowError):
        return False


def _accuracy_columns(card: Card) -> dict[str, str]:
    """Return the columns of results that have error bars, by their titles."""
    if card["recipe"]["images"]["held_out"]:
        return {"chosen epoch": "test_accuracy"}
    return {"best epoch": "best_accuracy", "last epoch": "last_accuracy"}


def model_card(card: Card, rows: Rows = ()) -> str:
    """Write the model card.

    Args:
        card: As it lies beside the backbone.
        rows: Of the same recipe with several seeds; none: no error bars.
    """
    data = _data(card)
    name = Path(card["file"]).stem
    sections = [
        f"---\n{_head(card, data, name)}\n---\n\n{_MARK}",
        f"# {in_markdown(name)}",
        _summary(card, data),
        f"## How to use it\n\nFor {card['layout']}, beside the file:\n\n"
        + _fenced(card["use"], LANGUAGES.get(card["layout"], "python")),
        f"{_preprocessing(card)}",
        f"## Data\n\n{_data_table(card, data)}",
        f"## Results\n\n{_results(card, rows)}",
        f"## Recipe\n\n{_recipe(card)}",
        f"## Limits\n\n{_limits(card, rows)}",
        f"## Environment\n\n{_environment(card)}",
        f"## How to cite\n\nThe method:\n\n{_fenced(PAPER.splitlines(), 'bibtex')}",
    ]
    return "\n\n".join(sections) + "\n"


def _data(card: Card) -> _Data:
    data = _DATA[card["dataset"]]
    classes = card["classes"]
    if data.type == "imagenet-1k":  # any class folders are read under this name
        if not all(_WORDNET_ID.fullmatch(name) for name in classes):
            return _DATA["folders"]
        if len(classes) < 1000:
            return _Data(f"ImageNet, {counted(len(classes), 'class')}", "imagefolder", data.licence)
    return data


def _accuracy(card: Card) -> tuple[dict[str, Any], str]:
    """Return the metrics that speak for the file, and the split that they were measured on."""
    split = "test" if card["dataset"].startswith("cifar") else "validation"
    if card["test_metrics"]:
        return dict(card["test_metrics"]), split
    held_out = card["recipe"]["images"]["held_out"]
    return dict(card["metrics"]), "train, images kept back" if held_out else split


def _head(card: Card, data: _Data, name: str) -> str:
    metrics, split = _accuracy(card)
    lines = [
        "license: other",
        "license_name: terms-of-the-training-data",
        "tags: [image-classification, focused-dropout, "
        f"{json.dumps(card['architecture'])}, {json.dumps(card['layout'])}]",
        "pipeline_tag: image-classification",
        f"datasets: [{json.dumps(data.type)}]",
        "metrics: [accuracy]",
        "model-index:",
        f"- name: {quoted(name)}",
        "  results:",
        "  - task:",
        "      type: image-classification",
        "    dataset:",
        f"      name: {json.dumps(data.name)}",
        f"      type: {json.dumps(data.type)}",
        f"      split: {json.dumps(split)}",
        "    metrics:",
    ]
    for key, title in (("val_accuracy", "top-1 accuracy"), ("val_top5", "top-5 accuracy")):
        if key in metrics:
            lines += [
                "    - type: accuracy",
                f"      name: {title}",
                f"      value: {json.dumps(metrics[key])}",
            ]
    return "\n".join(lines)


def _summary(card: Card, data: _Data) -> str:
    focus = card["recipe"]["focus"]
    method = "without FocusedDropout"
    if focus["after"]:
        kind = "the opposite of FocusedDropout" if focus["opposite"] else "FocusedDropout"
        if (focus["reference"], focus["places"]) != ("strongest", "focused"):
            kind = "a control of FocusedDropout, its mask partly at random,"
        method = f"with {kind} (arXiv 2103.15425) after {focus['after']}"
    decay = focus["weight_decay"]
    magnified = "" if decay is None else f", weight decay {decay:g} in the participating steps"
    return (
        f"A {card['architecture']} that tells {counted(len(card['classes']), 'class')} of "
        f"{data.name}, trained {method}{magnified}. The layer has no weights, and nothing of it "
        "is in the file."
    )


def _preprocessing(card: Card) -> str:
    p = card["preprocessing"]
    size = p["image_size"]
    if card["recipe"]["images"]["crop"] == "resized":
        short_side = f"short side resized to {round(size * 256 / 224)} (bilinear, antialiased)"
        square = f"{short_side}, central {size} x {size} cut out"
    else:
        square = f"{size} x {size} pixels"
    return (
        f"Images: {p['channel_order']}, {square}, values from 0 to 1, minus mean "
        f"{list(p['mean'])}, divided by deviation {list(p['std'])}."
    )


def _data_table(card: Card, data: _Data) -> str:
    held_out = card["recipe"]["images"]["held_out"]
    rows = {
        "data": data.name,
        "training images": f"{card['train_images']:,}",
        "kept back to choose the epoch": f"{held_out:,}" if held_out else "none",
        "classes, in the order of the outputs": _numbered(card),
        "licence of the data": data.licence,
    }
    return (
        _table(("", ""), rows.items())
        + "\n\nThe code is under the MIT licence. Whether and how the terms of the data bind these "
        "weights is for whoever passes them on to settle."
    )


def _results(card: Card, rows: Rows) -> str:
    metrics, split = _accuracy(card)
    count = metrics.pop("images", card["scored_images"])
    of = f", {counted(count, 'image')}" if count else ""
    own = _table(
        (f"{split}{of}", "this file"),
        [(key.removeprefix("val_"), f"{value:.4f}") for key, value in metrics.items()],
    )
    text = (
        f"This file: {card['checkpoint']} checkpoint, epoch {card['epoch']}, seed {card['seed']}."
    )
    if not rows:
        return f"{text}\n\n{own}\n\nOne run, no error bar."
    seeds = ", ".join(sorted((row["seed"] for row in rows), key=int))
    bars = []
    for title, column in _accuracy_columns(card).items():
        mean, deviation = mean_and_deviation(float(row[column]) for row in rows)
        spread = "no error bar" if deviation is None else f"± {100 * deviation:.2f}"
        bars.append((f"accuracy, {title}", f"{100 * mean:.2f}% {spread}"))
    several = _table((f"n = {len(rows)}, seeds {seeds}", "mean ± sample deviation"), bars)
    return f"{text}\n\n{own}\n\nThe recipe over several seeds:\n\n{several}"


def _recipe(card: Card) -> str:
    recipe = card["recipe"]
    shown = {"name": card["recipe_name"], "changed": card["changes"] or "nothing"}
    parts = ["optimization", "images"]
    parts += ["focus"] if recipe["focus"]["after"] or recipe["focus"]["weight_decay"] else []
    parts += ["dropout"] if recipe["dropout"]["kind"] != "none" else []
    for part in parts:
        for key, value in recipe[part].items():
            if value not in (None, [], ()):
                shown[f"{part}.{key}"] = value
    others = ("stem", "block", "label_smoothing", "class_weights")
    shown |= {key: recipe[key] for key in others if recipe.get(key)}
    return _table(("setting", "value"), [(key, _plain(value)) for key, value in shown.items()])


def _limits(card: Card, rows: Rows) -> str:
    images = card["recipe"]["images"]
    limits = [
        f"Trained on images of {images['size']} pixels and on these classes only; how it does on "
        "others was not measured.",
    ]
    if card["checkpoint"] == "best" and not images["held_out"]:
        limits.append(
            "The epoch was chosen on the images that it is scored on, which inflates the accuracy."
        )
    if len(rows) < 2:
        limits.append("One run: differences to another network may be the luck of the seed.")
    if card["changes"]:
        limits.append(f"Not the recipe as it stands, but with {card['changes']}.")
    if card["stem"] != "imagenet":
        limits.append(
            f'Trained with the stem "{card["stem"]}". Keys and shapes are those of a stock ResNet, '
            "but a stock stem sees the image at another resolution: fine-tune there."
        )
    limits.append("Biases of the images and their labels are in the weights; none was examined.")
    return "\n".join(f"- {line}" for line in limits)


def _environment(card: Card) -> str:
    rows = {
        "focused-dropout": card["focused_dropout"],
        "commit": card["commit"],
        "torch": card["torch"],
        "hardware": card["hardware"],
        "file": card["file"],
        "SHA-256": card["sha256"],
        "certificate": (card.get("certificate") or {}).get("digest"),
        "card in JSON": card_path(Path(card["file"])).name,
    }
    return _table(("", ""), [(key, value or "not recorded") for key, value in rows.items()])


def _table(head: tuple[str, str], rows: Any) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    lines += [f"| {_cell(key)} | {_cell(value)} |" for key, value in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return in_markdown(str(value))


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _numbered(card: Card) -> str:
    """List the classes by the number of the output; of many, the first."""
    names = card["classes"]
    shown = ", ".join(f"{number} {name}" for number, name in enumerate(names[:_SHOWN]))
    rest = f" and so on: all in {card_path(Path(card['file'])).name}" if len(names) > _SHOWN else ""
    return f"{len(names)}: {shown}{rest}"


def _fenced(lines: Sequence[str], language: str) -> str:
    return "\n".join([f"```{language}", *lines, "```"])
