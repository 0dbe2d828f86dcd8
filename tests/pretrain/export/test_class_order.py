"""The order of the classes, here and in timm: with the class map both have the same."""

from collections.abc import Callable
from pathlib import Path

import pytest
from timm.data import create_dataset

from pretrain.data.datasets import load
from pretrain.export.backbone_file import export_run
from pretrain.export.consumers import class_map


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """Class folders 0 to 11, as numbers are counted and as text is sorted two orders."""
    for number in range(12):
        path = tmp_path / "data" / "train" / str(number) / "a.jpg"
        path.parent.mkdir(parents=True)
        path.touch()
    return tmp_path / "data"


def test_timm_with_the_class_map_has_our_order(
    drawn_run: Callable[..., Path], numbered: Path, tmp_path: Path
) -> None:
    data = load("folders", numbered, "train")
    ours = {path.parent.name: label for path, label in zip(data.paths, data.labels, strict=True)}  # type: ignore[union-attr]
    assert list(data.classes) == sorted(map(str, range(12)))
    run = drawn_run(tmp_path / "run", "toy-resnet18", data.classes)
    card = export_run(run, "timm", tmp_path / "b.pth", "best")
    (flag,) = [line for line in card["use"] if "--class-map" in line]
    assert flag.endswith('--num-classes 12 --class-map "b.classes.txt"')
    root = numbered / "train"
    theirs = create_dataset("", root=root).reader.class_to_idx
    assert theirs != ours  # 2 before 10
    mapped = create_dataset("", root=root, class_map=str(tmp_path / "b.classes.txt"))
    assert mapped.reader.class_to_idx == ours
    for path, target in mapped.reader.samples:
        assert target == ours[Path(path).parent.name]


def test_the_card_has_the_classes_in_order(drawn_run: Callable[..., Path], tmp_path: Path) -> None:
    names = tuple(sorted(map(str, range(12))))
    card = export_run(
        drawn_run(tmp_path / "run", "toy-resnet18", names),
        "torchvision",
        tmp_path / "b.pth",
        "best",
    )
    assert card["classes"] == list(names)
    assert "| 12: 0 0, 1 1, 2 10, 3 11, 4 2, " in (tmp_path / "b.md").read_text()
    assert not (tmp_path / "b.classes.txt").exists()


@pytest.mark.parametrize("name", [" a", "a ", "a\nb", "a\u2028b", ""])
def test_names_that_timm_would_read_otherwise(name: str) -> None:
    assert class_map({"classes": ["x", name]}) is None
    assert class_map({"classes": ["x y", "\u00e9"]}) == "x y\n\u00e9\n"
