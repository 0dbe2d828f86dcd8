"""Model cards: the head as YAML and as the hub's own reader takes it; what the text must say."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from pretrain.export.backbone_file import export_run
from pretrain.networks import build_network

MakeRun = Callable[..., Path]
WNIDS = tuple(f"n{number:08}" for number in range(1000))


def card_of(drawn_run: MakeRun, tmp_path: Path, *arguments: Any, **options: Any) -> str:
    run = drawn_run(tmp_path / "run", *arguments, **options)
    export_run(run, "torchvision", tmp_path / "net.safetensors", "best")
    return (tmp_path / "net.md").read_text()


def head(text: str) -> dict[str, Any]:
    found = re.match(r"---\n(.*?)\n---\n", text, flags=re.S)
    assert found
    value = yaml.safe_load(found[1])
    assert isinstance(value, dict)
    return value


def test_the_head_is_what_hubs_read(drawn_run: MakeRun, tmp_path: Path) -> None:
    text = card_of(drawn_run, tmp_path, "cifar10-resnet20-fd")
    assert head(text) == {
        "license": "other",
        "license_name": "terms-of-the-training-data",
        "tags": ["image-classification", "focused-dropout", "cifar-resnet20", "torchvision"],
        "pipeline_tag": "image-classification",
        "datasets": ["cifar10"],
        "metrics": ["accuracy"],
        "model-index": [
            {
                "name": "net",
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {"name": "CIFAR-10", "type": "cifar10", "split": "test"},
                        "metrics": [
                            {"type": "accuracy", "name": "top-1 accuracy", "value": 0.75},
                            {"type": "accuracy", "name": "top-5 accuracy", "value": 0.9},
                        ],
                    }
                ],
            }
        ],
    }
    results = ModelCard(text).data.eval_results
    assert [(r.dataset_type, r.metric_value) for r in results] == [
        ("cifar10", 0.75),
        ("cifar10", 0.9),
    ]


def test_what_a_card_says(drawn_run: MakeRun, tmp_path: Path) -> None:
    text = card_of(drawn_run, tmp_path, "cifar10-resnet20-fd")
    for words in (
        "CIFAR-10, trained with FocusedDropout (arXiv 2103.15425) after layer2, weight decay 0.001",
        "| licence of the data | none is stated by its makers |",
        "| test, 20 images | this file |",
        "| accuracy | 0.7500 |",
        "One run, no error bar.",
        "The epoch was chosen on the images that it is scored on",
        "| optimization.epochs | 2 |",
        "| focus.gamma | 0.3, 0.6 |",
        "| hardware | a processor \\| 2 cores |",
        "Not the recipe as it stands, but with optimization.epochs=2",
        "eprint        = {2103.15425}",
        "Xie, Tianshu and Liu, Minghui and Deng, Jiali and Cheng, Xuan and Wang, Xiaomin",
    ):
        assert words in text, words
    assert "dropout.kind" not in text
    assert str(tmp_path) not in text


def test_a_baseline_is_not_said_to_have_the_method(drawn_run: MakeRun, tmp_path: Path) -> None:
    text = card_of(drawn_run, tmp_path, "cifar10-resnet20-dropout")
    assert "trained without FocusedDropout." in text
    assert "focus.gamma" not in text and "| dropout.kind | dropout |" in text


def test_a_control_is_not_said_to_be_the_method(drawn_run: MakeRun, tmp_path: Path) -> None:
    for arm in ("shuffled", "any-channel"):
        (tmp_path / arm).mkdir()
        text = card_of(drawn_run, tmp_path / arm, f"cifar10-resnet20-{arm}")
        assert "trained with a control of FocusedDropout, its mask partly at random, (" in text
        assert "trained with FocusedDropout" not in text


def test_any_file_name_in_the_head(drawn_run: MakeRun, tmp_path: Path) -> None:
    name = 'a"b\\ \U0001f41c'
    run = drawn_run(tmp_path / "run", "cifar10-resnet20")
    export_run(run, "torchvision", tmp_path / f"{name}.pth", "best")
    text = (tmp_path / f"{name}.md").read_text()
    assert head(text)["model-index"][0]["name"] == name


def test_any_class_name_in_a_table(drawn_run: MakeRun, tmp_path: Path) -> None:
    classes = ("a|b", "<img src=x>", "__proto__", "# c\nd", "[e](f)", *"ghijk")
    text = card_of(drawn_run, tmp_path, "toy-resnet18", classes, network="cifar-resnet20")
    (row,) = [line for line in text.splitlines() if line.startswith("| classes,")]
    shown = (
        r"10: 0 a\|b, 1 &lt;img src=x&gt;, 2 \_\_proto\_\_, 3 # c d, 4 \[e\](f), 5 g, 6 h, 7 i, "
        "8 j, 9 k"
    )
    assert row == f"| classes, in the order of the outputs | {shown} |"


@pytest.mark.parametrize(
    ("recipe", "classes", "name", "type", "licence"),
    [
        ("tiny-imagenet-resnet18", WNIDS[:200], "Tiny ImageNet", "tiny-imagenet", "derived from"),
        ("imagenet-resnet50", WNIDS, "ImageNet", "imagenet-1k", "non-commercial research"),
        ("imagenet-resnet50", WNIDS[:10], "ImageNet, 10 classes", "imagefolder", "non-commercial"),
        ("toy-resnet18", ("ant", "bee"), "images in class folders", "imagefolder", "not known"),
    ],
)
def test_data_and_licence(
    drawn_run: MakeRun,
    tmp_path: Path,
    recipe: str,
    classes: tuple[str, ...],
    name: str,
    type: str,
    licence: str,
) -> None:
    text = card_of(drawn_run, tmp_path, recipe, classes, network="cifar-resnet20")  # a small one
    dataset = head(text)["model-index"][0]["results"][0]["dataset"]
    assert dataset == {"name": name, "type": type, "split": "validation"}
    assert re.search(rf"\| licence of the data \| .*{licence}", text)


def test_images_kept_back_are_not_called_test_images(drawn_run: MakeRun, tmp_path: Path) -> None:
    text = card_of(drawn_run, tmp_path, "cifar10-resnet20", held_out=10)
    result = head(text)["model-index"][0]["results"][0]
    assert result["dataset"]["split"] == "train, images kept back"
    assert "inflates" not in text


def test_test_images_scored_later_are_the_result(drawn_run: MakeRun, tmp_path: Path) -> None:
    run = drawn_run(tmp_path / "run", "cifar10-resnet20", held_out=10)
    found = '{"run": "r", "checkpoint": "%s", "epoch": 1, "images": 1234, "val_accuracy": 0.25}'
    for checkpoint, split, value in (
        ("last", "train, images kept back", 0.75),
        ("best", "test", 0.25),
    ):
        (run / "evaluation.json").write_text(found % checkpoint)
        export_run(run, "torchvision", tmp_path / "net.pth", "best")
        text = (tmp_path / "net.md").read_text()
        result = head(text)["model-index"][0]["results"][0]
        assert result["dataset"]["split"] == split
        assert result["metrics"][0]["value"] == value
    assert "| test, 1,234 images | this file |" in text


@pytest.mark.parametrize(("checkpoint", "epoch"), [("best", 2), ("best", 0), ("last", 1)])
def test_a_score_of_other_weights_is_not_shown(
    drawn_run: MakeRun, tmp_path: Path, checkpoint: str, epoch: int
) -> None:
    """The best ones are those of epoch 1: an evaluation before more epochs had others."""
    run = drawn_run(tmp_path / "run", "cifar10-resnet20")
    found = {"checkpoint": checkpoint, "epoch": epoch, "images": 1234, "val_accuracy": 0.25}
    (run / "evaluation.json").write_text(json.dumps(found))
    card = export_run(run, "torchvision", tmp_path / "net.pth", "best")
    assert card["test_metrics"] is None
    text = (tmp_path / "net.md").read_text()
    assert head(text)["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.75
    assert "0.25" not in text and "1,234" not in text


def test_the_code_block_of_the_card_runs(
    drawn_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the logits that the network gives for pixels normalised as in its training."""
    text = card_of(drawn_run, tmp_path, "cifar10-resnet20-fd")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(block, "card", "exec"), names)
    assert names["logits"].shape == (2, 3)
    # The published statistics of CIFAR-10, once more.
    mean = torch.tensor([0.4914, 0.4822, 0.4465])[:, None, None]
    std = torch.tensor([0.2470, 0.2435, 0.2616])[:, None, None]
    network = build_network("cifar-resnet20", 3, block="basic")
    network.load_state_dict(torch.load(tmp_path / "run" / "best.pt")["model"])
    with torch.inference_mode():
        expected = network.eval()((names["images"] - mean) / std)
    torch.testing.assert_close(names["logits"], expected)
