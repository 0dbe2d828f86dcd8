"""What feature maps show: what is counted and mapped, against loops over images and gradients."""

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from common.images.sampling import MicroBatch
from common.method.dropout import focus_mask
from common.processes.ranks import World
from pretrain.data.splits import Batch, Split
from pretrain.figures import feature_maps
from pretrain.figures.feature_maps import class_activation_maps, strongest_channels, views
from pretrain.networks import build_network
from pretrain.recipes import RECIPES
from pretrain.task import pixel_statistics

CPU = World(torch.device("cpu"))


class Tiny(nn.Module):
    """Five channels, of which the last repeats the one before; three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 4, stride=4)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(5, 3)
        with torch.no_grad():
            self.conv.weight[4], self.conv.bias[4] = self.conv.weight[3], self.conv.bias[3]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.avgpool(self.conv(images).relu()).flatten(1))


def split_of(images: torch.Tensor, labels: torch.Tensor) -> Split:
    def batches(micro_batches: Iterable[MicroBatch]) -> Iterator[Batch]:
        for micro_batch in micro_batches:
            yield images[micro_batch.indices], labels[micro_batch.indices]

    return Split(num_images=len(labels), classes=("a", "b", "c"), source="", load=batches)


def resnet20(num_classes: int = 4) -> nn.Module:
    """A network in which BatchNorm does something and the classes differ."""
    network = build_network("cifar-resnet20", num_classes).train()
    for _ in range(3):
        network(torch.randn(16, 3, 32, 32) * 2 + 0.5)
    return network.eval()


def test_counts_are_those_of_a_loop_over_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_maps, "_BATCH", 7)
    network = Tiny().eval()
    images = torch.randint(256, (60, 3, 12, 12), dtype=torch.uint8)
    darker = torch.randint(1, 30, (60, 3, 3, 3), dtype=torch.uint8)
    images = images // darker.repeat_interleave(4, 2).repeat_interleave(4, 3)
    labels = torch.randint(3, (60,))
    recipe = RECIPES["cifar10-resnet20"]()
    mean, std = (np.array(x).reshape(3, 1, 1) for x in pixel_statistics(recipe))
    with torch.no_grad():  # so that predictions differ between images
        network.fc.bias -= network(
            torch.from_numpy((images.numpy() / 255 - mean) / std).float()
        ).mean(0)
    expected, by_peak = np.zeros((2, 3, 5), np.int64)
    for image, label in zip(images.numpy(), labels.tolist(), strict=True):
        inputs = torch.from_numpy((image / 255 - mean) / std).float()[None]
        with torch.no_grad():
            maps = network.conv(inputs).relu()[0].double().numpy()
        means = [sum(m.flatten()) / m.size for m in maps]
        weight, bias = network.fc.weight.detach().numpy(), network.fc.bias.detach().numpy()
        if int(np.argmax(weight @ means + bias)) == label:
            expected[label, means.index(max(means))] += 1
            by_peak[label, maps.max((1, 2)).argmax()] += 1
    assert np.count_nonzero(expected.sum(1)) >= 2 and np.count_nonzero(expected.sum(0)) >= 2
    assert expected[:, 3].sum() > 0  # where a tie was broken
    assert not np.array_equal(expected, by_peak)

    counts = strongest_channels(network, split_of(images, labels), recipe, CPU)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, expected)
    ranks = [
        strongest_channels(network, split_of(images, labels), recipe, World(CPU.device, rank, 3))
        for rank in range(3)
    ]
    np.testing.assert_array_equal(sum(ranks), expected)
    assert not network.avgpool._forward_pre_hooks


def last_maps(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        x = network.relu(network.bn1(network.conv1(images)))
        return network.layer3(network.layer2(network.layer1(x)))


def stretched(cams: np.ndarray, size: int) -> np.ndarray:
    """Upsample with OpenCV and bring each map to [0, 1]."""
    large = np.stack([cv2.resize(cam, (size, size)) for cam in cams])
    large -= large.min((1, 2), keepdims=True)
    return large / large.max((1, 2), keepdims=True)


def test_maps_are_the_weighted_sum_of_channels_and_the_gradient() -> None:
    network = resnet20()
    images = torch.randn(6, 3, 32, 32)
    labels = torch.tensor([0, 1, 2, 3, 3, 1])
    maps = last_maps(network, images)

    weight = network.fc.weight.detach().numpy()
    literal = np.zeros((6, 8, 8), np.float32)
    for n, label in enumerate(labels.tolist()):
        for c in range(64):
            literal[n] += weight[label, c] * maps[n, c].numpy()

    leaf = maps.clone().requires_grad_()
    logits = network.fc(network.avgpool(leaf).flatten(1))
    logits[torch.arange(6), labels].sum().backward()
    by_gradient = (leaf.grad * 8 * 8 * maps).sum(1).numpy()
    np.testing.assert_allclose(literal, by_gradient, atol=1e-4)

    cams = class_activation_maps(network, images, labels).numpy()
    assert cams.shape == (6, 32, 32) and cams.dtype == np.float32
    np.testing.assert_allclose(cams, stretched(literal, 32), atol=1e-4)
    assert (cams.min((1, 2)) == 0).all() and (cams.max((1, 2)) == 1).all()
    others = class_activation_maps(network, images, (labels + 1) % 4).numpy()
    assert np.abs(others - cams).max() > 0.1


def test_a_map_of_equal_values_is_zeros() -> None:
    network = Tiny().eval()
    with torch.no_grad():
        network.conv.bias.add_(1)
        network.fc.weight[2] = 0
    even = torch.full((1, 3, 28, 28), 0.3)  # 7 x 7 equal values; rounding must not be stretched
    labels = torch.tensor([0])
    assert (class_activation_maps(network, even, labels) == 0).all()
    images = torch.cat([even, torch.randn(2, 3, 28, 28)])
    cams = class_activation_maps(network, images, torch.tensor([1, 1, 2]))
    assert cams.amax((1, 2)).tolist() == [0, 1, 0]
    assert torch.isfinite(cams).all()


def test_views_have_the_focused_area_of_the_place_and_the_prediction() -> None:
    network = resnet20()
    images, labels = torch.randn(5, 3, 32, 32), torch.tensor([0, 1, 2, 3, 0])
    with torch.no_grad():
        x = network.relu(network.bn1(network.conv1(images)))
        middle = network.layer2(network.layer1(x))
        logits = network(images).double().numpy()
    seen = views(network, images, labels, "layer2")

    literal = np.zeros((5, 16, 16), bool)
    for n, maps in enumerate(middle.numpy()):
        reference = maps[np.argmax(maps.mean((1, 2)))]
        literal[n] = reference > 0.45 * reference.max()
    np.testing.assert_array_equal(seen.focused, literal)
    np.testing.assert_array_equal(seen.focused, focus_mask(middle, 0.45)[:, 0].numpy())
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_array_equal(seen.predicted, shares.argmax(1))
    np.testing.assert_allclose(seen.probability, shares.max(1), rtol=1e-5)
    np.testing.assert_array_equal(seen.cams, class_activation_maps(network, images, labels))
    assert views(network, images, labels, "layer1").focused.shape == (5, 32, 32)
    assert not network.layer2._forward_hooks and not network.avgpool._forward_pre_hooks
