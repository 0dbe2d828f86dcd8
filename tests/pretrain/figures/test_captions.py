"""Captions say what was trained and what the numbers show, by hand."""

from dataclasses import replace

import numpy as np
import pytest
from reproduction.experiments import shortened

from pretrain.figures.captions import (
    cams_show,
    caption,
    channels_show,
    curves_show,
    describe_trainings,
    share_in_focus,
    sweep_shows,
)
from pretrain.figures.channels_and_cams import Views
from pretrain.recipes import RECIPES


def test_trainings_are_named_with_their_data_and_epochs() -> None:
    names = ["cifar10-resnet20", "cifar10-resnet20-fd", "cifar100-resnet56"]
    recipes = [shortened(RECIPES[name](), 0.0133) for name in names]
    held_out = replace(recipes[2], images=replace(recipes[2].images, held_out=5000))
    assert describe_trainings(names, [*recipes[:2], held_out]) == (
        "cifar-resnet20 on CIFAR-10, 4 of 300 epochs; "
        "cifar-resnet56 on CIFAR-100 less 5,000 held-out images, 4 of 300 epochs"
    )
    few = RECIPES["tiny-imagenet-resnet18"]()
    few = replace(few, images=replace(few.images, num_classes=50))
    assert describe_trainings(["tiny-imagenet-resnet18"], [few]) == (
        "resnet18 on 50 classes of Tiny ImageNet, 60 of 60 epochs"
    )


@pytest.mark.parametrize(
    ("dataset", "classes", "said"),
    [
        ("imagenet", [f"n{number:08}" for number in range(1000)], "ImageNet"),
        ("folders", ["n01440764", "n01443537"], "2 classes of ImageNet"),
        (
            "imagenet",
            ["disc", "ring", "star", "x"],
            "own images of 4 classes (disc, ring, star, ...)",
        ),
        ("folders", ["n01440764", "disc"], "own images of 2 classes (n01440764, disc)"),
        ("folders", ["a\n", "b"], "own images of 2 classes (a\\n, b)"),
        ("folders", None, "class folders"),
        ("imagenet", None, "ImageNet"),
    ],
)
def test_class_folders_are_called_what_they_hold(
    dataset: str, classes: list[str] | None, said: str
) -> None:
    recipe = RECIPES["toy-resnet18"]()
    recipe = replace(recipe, images=replace(recipe.images, dataset=dataset))
    environment = {"classes": classes} if classes else {}
    told = describe_trainings(["toy-resnet18"], [recipe], [environment])
    assert told == f"resnet18 on {said}, 3 of 3 epochs"


def test_a_caption_has_the_claim_beside_what_is_shown() -> None:
    assert caption("head", "a claim", "ours") == "head. The paper: a claim. Here: ours."
    assert caption("head", "", "ours") == "head. Ours."


def test_channels() -> None:
    counts = np.array([[6, 3, 1], [0, 0, 0], [5, 5, 0]])  # 90% and 100%; none of a class
    assert channels_show(counts, 30) == (
        "20 of 30 images are classified correctly; the two strongest channels of a class have 90 "
        "to 100% of its images"
    )
    assert channels_show(np.zeros((2, 3), int), 30) == "0 of 30 images are classified correctly"


def seen() -> Views:
    """Two images: half of the first one's map lies in the area; the second one's is zero."""
    cams = np.zeros((2, 4, 6), np.float32)
    cams[0, 0, 0] = cams[0, 3, 5] = 0.5
    cams[0, 1, 2] = 1.0
    focused = np.zeros((2, 2, 3), bool)
    focused[0, 0, 1] = True  # covers rows 0 and 1, columns 2 and 3
    return Views(cams, focused, np.array([1, 0]), np.array([0.5, 0.9], np.float32))


def test_maps() -> None:
    inside = share_in_focus(seen())
    assert inside[0] == 0.5 and np.isnan(inside[1])
    text = cams_show([("a", seen()), ("b", seen())], np.array([1, 1]))
    assert text.startswith("from left to right 50, 50% of a map's sum lie in the focused area")
    assert "and 1, 1 of 2 images are classified correctly" in text


def records(*accuracies: float) -> list[dict[str, object]]:
    rates = [0.1, 0.1, 0.01, 0.01]
    return [
        {"epoch": epoch + 1, "lr": rates[epoch], "val_accuracy": accuracy}
        for epoch, accuracy in enumerate(accuracies)
    ]


def test_curves() -> None:
    runs = [
        ("base", records(0.5, 0.6, 0.8, 0.8)),
        ("fd", records(0.4, 0.6, 0.82, 0.82)),
        ("fd", records(0.4, 0.5, 0.82, 0.86)),  # mean 0.4, 0.55, 0.82, 0.84
    ]
    assert curves_show(runs, "base") == (
        "against base: fd -7.50 points before the rate first falls, +3.00 points after"
    )
    assert curves_show(runs[:1], "base") == "one arm, nothing to compare"


@pytest.mark.parametrize(
    ("found", "baseline", "text"),
    [
        ({"0.1": [], "0.2": [50.0]}, [40.0], "too few settings are trained to compare"),
        (
            {"0": [50.0, 52.0], "0.1": [53.0, 55.0], "0.2": []},
            [50.0, 52.0],
            "highest at 0.1, 54.00 ± 1.41, where the baseline has 51.00 (best epoch, 2 seeds a "
            "setting)",
        ),
        ({"a": [1.0], "b": [0.5]}, [], "highest at a, 1.00 (best epoch, 1 seed a setting)"),
    ],
)
def test_sweeps(found: dict[str, list[float]], baseline: list[float], text: str) -> None:
    assert sweep_shows(found, baseline) == text
