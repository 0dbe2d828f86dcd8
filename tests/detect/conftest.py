"""What tests of this stage share: a drawn devkit and small bodies to train, two runs to report."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toy_data
from reports import Page, write_two_runs
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet


class NarrowResNet(ResNet):  # type: ignore[misc]
    """A ResNet of torchvision with an eighth of its channels: saved and trained in no time."""

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        layers: list[int],
        num_classes: int = 1000,
        **options: Any,
    ) -> None:
        super().__init__(block, layers, num_classes, **options)
        self.fc = nn.Linear(self.inplanes, num_classes)

    def _make_layer(self, block: type[nn.Module], planes: int, *rest: Any, **options: Any) -> Any:
        return super()._make_layer(block, planes // 8, *rest, **options)


@pytest.fixture(scope="module")
def narrow_bodies() -> Iterator[None]:
    """Let torchvision build narrow ResNets under the names of the usual ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchvision.models.resnet.ResNet", NarrowResNet)
        yield


@pytest.fixture(scope="session")
def toy_devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw a devkit of six training images and three test images; copy what you change."""
    root = tmp_path_factory.mktemp("toy")
    sizes = toy_data.Sizes(train_per_class=1, val_per_class=1, trainval=6, test=3, scene_side=64)
    toy_data.make_toy_data(root, seed=0, sizes=sizes)
    return root / "VOCdevkit"


@pytest.fixture
def two_runs(tmp_path):
    """Folders that a test may change."""
    return write_two_runs(tmp_path)


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """The report of the two runs, written once: its page, the Markdown, and the files."""
    from detect.report import write_report

    root = tmp_path_factory.mktemp("report")
    files = write_report(write_two_runs(root), root / "out" / "report.html")
    return Page(files[0].read_text("utf-8")), files[1].read_text("utf-8"), files
