"""The classifiers: sizes, groups, keys, stems, initial weights."""

import copy
import math
from collections.abc import Callable, Iterable
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as models
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torchvision.models.resnet import Bottleneck

from common import FocusedDropout, focused_dropout, insert_after
from common.errors import InputError
from pretrain.networks import GROUPS, build_network, penultimate
from pretrain.networks.cifar_resnet import CifarResNet
from pretrain.networks.densenet import DenseNet
from pretrain.networks.vgg import Vgg19
from pretrain.networks.wide_resnet import WideResNet

TINY: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: CifarResNet(Bottleneck, 1, 5),
    "vgg": lambda: Vgg19(5),
    "densenet": lambda: DenseNet(2, 4, 5),
    "wide": lambda: WideResNet(2, 1, 5),
}
every_tiny = pytest.mark.parametrize("tiny", TINY.values(), ids=TINY)


@cache
def _built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_network(name, 10)


def built(name: str) -> nn.Module:
    """A network with fresh weights, for 10 classes."""
    return copy.deepcopy(_built(name))


def maps_behind(network: nn.Module, names: Iterable[str], images: Tensor) -> list[Tensor]:
    """Run the network and return what comes out of its submodules."""
    seen: list[Tensor] = []
    hooks = [
        network.get_submodule(name).register_forward_hook(lambda m, i, output: seen.append(output))
        for name in names
    ]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    return seen


# Sizes, by hand: a convolution of side k has k*k*in*out weights, BatchNorm 2*channels, the linear
# layer (in + 1) * classes.


def basic_resnet(n: int) -> int:
    total = 27 * 16 + 2 * 16
    for below, channels in ((16, 16), (16, 32), (32, 64)):
        total += 9 * below * channels + 9 * channels * channels + 4 * channels
        total += (n - 1) * (2 * 9 * channels * channels + 4 * channels)
        if below != channels:
            total += below * channels + 2 * channels
    return total + 65 * 10


def bottleneck_resnet(n: int) -> int:
    def block(below: int, width: int) -> int:
        inner = below * width + 9 * width * width + width * 4 * width
        return inner + 2 * (width + width + 4 * width)

    total = 27 * 16 + 2 * 16
    for below, width in ((16, 16), (64, 32), (128, 64)):
        total += block(below, width) + (n - 1) * block(4 * width, width)
        total += below * 4 * width + 2 * 4 * width
    return total + 257 * 10


def vgg19() -> int:
    channels = [3, 64, 64, 128, 128, *[256] * 4, *[512] * 8]
    convolutions = (9 * below * above + 3 * above for below, above in pairwise(channels))
    return sum(convolutions) + 513 * 10


def densenet100() -> int:
    total = 27 * 24
    channels = 24
    for block in range(3):
        for _ in range(16):
            total += 2 * channels + channels * 48 + 2 * 48 + 9 * 48 * 12
            channels += 12
        if block < 2:
            total += 2 * channels + channels * (channels // 2)
            channels //= 2
    assert channels == 342
    return total + 2 * channels + (channels + 1) * 10


def wide_resnet28() -> int:
    total = 27 * 16
    for below, channels in ((16, 160), (160, 320), (320, 640)):
        total += 2 * below + 9 * below * channels + 2 * channels + 9 * channels * channels
        total += below * channels
        total += 3 * (2 * 9 * channels * channels + 4 * channels)
    return total + 2 * 640 + 641 * 10


@pytest.mark.parametrize(
    ("name", "block", "by_hand", "expected"),
    [
        ("cifar-resnet20", None, basic_resnet(3), 272_474),
        ("cifar-resnet20", "basic", basic_resnet(3), 272_474),
        ("cifar-resnet20", "bottleneck", bottleneck_resnet(2), 220_378),
        ("cifar-resnet20", "bottleneck-6n", bottleneck_resnet(3), 313_114),
        ("cifar-resnet56", None, bottleneck_resnet(6), 591_322),
        ("cifar-resnet56", "basic", basic_resnet(9), 855_770),
        ("cifar-resnet56", "bottleneck", bottleneck_resnet(6), 591_322),
        ("cifar-resnet56", "bottleneck-6n", bottleneck_resnet(9), 869_530),
        ("cifar-resnet110", None, bottleneck_resnet(12), 1_147_738),
        ("cifar-resnet110", "basic", basic_resnet(18), 1_730_714),
        ("cifar-resnet110", "bottleneck", bottleneck_resnet(12), 1_147_738),
        ("cifar-resnet110", "bottleneck-6n", bottleneck_resnet(18), 1_704_154),
        ("vgg19-bn", None, vgg19(), 20_040_522),
        ("densenet100-bc", None, densenet100(), 769_162),
        ("wrn-28-10", None, wide_resnet28(), 36_479_194),
    ],
)
def test_sizes(name: str, block: Any, by_hand: int, expected: int) -> None:
    with torch.device("meta"):
        network = build_network(name, 10, block=block)
    counted = sum(parameter.numel() for parameter in network.parameters())
    assert counted == by_hand == expected


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("cifar-resnet20", 20),
        ("cifar-resnet56", 56),
        ("cifar-resnet110", 110),
        ("vgg19-bn", 19 - 2),  # one linear layer, not three
        ("densenet100-bc", 100),
        ("wrn-28-10", 28 - 3 + 1),  # it counts three shortcuts, and not the linear layer
    ],
)
def test_depth_is_the_number_of_layers_with_weights(name: str, depth: int) -> None:
    with torch.device("meta"):
        network = build_network(name, 3)
    layers = [
        label
        for label, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
        if "downsample" not in label and "shortcut" not in label
    ]
    assert len(layers) == depth
    assert network.get_parameter("fc.bias").shape == (3,)


SHAPES = {
    "cifar-resnet20": [(16, 32), (32, 16), (64, 8)],
    "cifar-resnet56": [(64, 32), (128, 16), (256, 8)],
    "cifar-resnet110": [(64, 32), (128, 16), (256, 8)],
    "vgg19-bn": [(64, 32), (128, 16), (256, 8), (512, 4), (512, 2)],
    "densenet100-bc": [(216, 32), (300, 16), (342, 8)],
    "wrn-28-10": [(160, 32), (320, 16), (640, 8)],
}
"""Channels and side behind each group, for images of 32 pixels."""


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("name", SHAPES)
def test_every_group_is_a_stage_of_one_resolution(name: str, side: int) -> None:
    with torch.device("meta"):
        network = build_network(name, 10)
        images = torch.zeros(2, 3, side, side)
    members = {}
    for group in GROUPS[name]:
        members[group] = network.get_submodule(group)
        assert type(members[group]) is nn.Sequential
    names = [f"{group}.{i}" for group in members for i, _ in members[group].named_children()]
    maps = dict(zip(names, maps_behind(network, names, images), strict=True))
    for group, (channels, at_32) in zip(GROUPS[name], SHAPES[name], strict=True):
        inside = [x.shape for label, x in maps.items() if label.startswith(f"{group}.")]
        assert inside[-1] == (2, channels, at_32 * side // 32, at_32 * side // 32)
        assert {shape[2:] for shape in inside} == {inside[-1][2:]}


def test_groups_of_a_torchvision_resnet() -> None:
    with torch.device("meta"):
        network, images = build_network("resnet18", 10), torch.zeros(1, 3, 64, 64)
    assert [x.shape[-1] for x in maps_behind(network, GROUPS["resnet18"], images)] == [16, 8, 4, 2]


def test_penultimate_groups() -> None:
    assert {name: penultimate(name) for name in GROUPS} == {
        "resnet18": "layer3",
        "resnet34": "layer3",
        "resnet50": "layer3",
        "resnet101": "layer3",
        "cifar-resnet20": "layer2",
        "cifar-resnet56": "layer2",
        "cifar-resnet110": "layer2",
        "vgg19-bn": "group4",
        "densenet100-bc": "block2",
        "wrn-28-10": "group2",
    }


@pytest.mark.parametrize("name", SHAPES)
def test_focused_dropout_acts_after_the_penultimate_group(name: str) -> None:
    network = built(name)
    keys = list(network.state_dict())
    place = (penultimate(name),)
    images = torch.randn(1, 3, 32, 32)
    plain = maps_behind(network, place, images)[0]
    layer = FocusedDropout(0.5)
    insert_after(network, place[0], layer)
    assert list(network.state_dict()) == keys
    layer.active = True
    masked = maps_behind(network, place, images)[0]
    assert torch.equal(masked, focused_dropout(plain, 0.5))
    assert 0 < (masked != 0).float().mean() < (plain != 0).float().mean()

    signed = name in ("densenet100-bc", "wrn-28-10")
    assert plain.max() > 0
    assert (plain.min() < 0) == signed


def randomized(network: nn.Module) -> nn.Module:
    """In eval mode, with BatchNorms that do not all do the same."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(std=0.1)
            for tensor in (module.running_var, module.weight.data):
                assert tensor is not None
                tensor.uniform_(0.5, 1.5)
            module.bias.data.normal_(std=0.1)
    return network.eval()


def with_weights_of(stock: nn.Module, network: nn.Module) -> nn.Module:
    """Give a stock network the weights of ours: other names, the same order."""
    pairs = zip(stock.state_dict(), network.state_dict().values(), strict=True)
    stock.load_state_dict(dict(pairs))
    return stock.eval()


@torch.no_grad()
def test_densenet_computes_what_torchvisions_does() -> None:
    network = randomized(built("densenet100-bc"))
    stock = models.DenseNet(12, (16, 16, 16), num_init_features=24, num_classes=10)
    for module in ("norm0", "relu0", "pool0"):
        stock.features.set_submodule(module, nn.Identity())
    stock.features.conv0 = nn.Conv2d(3, 24, 3, padding=1, bias=False)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network(images), with_weights_of(stock, network)(images))


@torch.no_grad()
def test_vgg_computes_what_torchvisions_does() -> None:
    network = randomized(built("vgg19-bn"))
    stock = models.vgg.make_layers(models.vgg.cfgs["E"], batch_norm=True)
    stock.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)])
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(network(images), with_weights_of(stock, network)(images))


@torch.no_grad()
def test_wide_resnet_computes_the_papers_blocks() -> None:
    network = randomized(WideResNet(2, 2, 5))
    weights = network.state_dict()

    def norm_relu(x: Tensor, name: str) -> Tensor:
        names = (f"{name}.{part}" for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *(weights[name] for name in names)).relu()

    images = torch.randn(2, 3, 32, 32)
    x = F.conv2d(images, weights["conv1.weight"], padding=1)
    for group in ("group1", "group2", "group3"):
        for block in (f"{group}.0", f"{group}.1"):
            stride = 2 if block in ("group2.0", "group3.0") else 1
            normalized = norm_relu(x, f"{block}.bn1")
            out = F.conv2d(normalized, weights[f"{block}.conv1.weight"], None, stride, padding=1)
            out = norm_relu(out, f"{block}.bn2")
            out = F.conv2d(out, weights[f"{block}.conv2.weight"], padding=1)
            if block.endswith("0"):
                x = F.conv2d(normalized, weights[f"{block}.shortcut.weight"], None, stride)
            x = x + out
    x = norm_relu(x, "bn").mean(dim=(2, 3))
    torch.testing.assert_close(network(images), x @ weights["fc.weight"].T + weights["fc.bias"])


@every_tiny
def test_pooling_sees_the_final_maps_and_one_linear_layer_follows(
    tiny: Callable[[], nn.Module],
) -> None:
    network = tiny()
    seen: list[Tensor] = []
    network.get_submodule("avgpool").register_forward_pre_hook(lambda m, x: seen.append(x[0]))
    logits = network(torch.randn(2, 3, 64, 64))
    (final,) = seen
    assert final.min() >= 0 and final.max() > 0
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert linear == [network.get_submodule("fc")]
    expected = final.mean(dim=(2, 3)) @ linear[0].weight.T + linear[0].bias
    torch.testing.assert_close(logits, expected)


@every_tiny
def test_channels_last_copies_and_gradients(tiny: Callable[[], nn.Module]) -> None:
    network = tiny().double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    twin = copy.deepcopy(network).to(memory_format=torch.channels_last)
    expected = network(images)
    groups = [name for name, m in twin.named_children() if isinstance(m, nn.Sequential)]
    last = images.to(memory_format=torch.channels_last)
    for x in maps_behind(twin.eval(), groups, last):
        assert x.is_contiguous(memory_format=torch.channels_last)
    logits = twin.train()(last)
    torch.testing.assert_close(logits, expected)
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in twin.parameters())
    assert all(parameter.grad is None for parameter in network.parameters())


@every_tiny
def test_compiles_to_one_graph(tiny: Callable[[], nn.Module]) -> None:
    torch._dynamo.reset()
    network, counter = tiny(), CompileCounter()
    compiled = torch.compile(copy.deepcopy(network), backend=counter, fullgraph=True)
    for _ in range(2):
        images = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(compiled(images), network(images))
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", SHAPES)
def test_initial_weights(name: str) -> None:
    network = _built(name)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            expected, n = math.sqrt(2 / fan_out), module.weight.numel()
            # The deviation of a sample of n has itself the deviation sigma / sqrt(2 n).
            assert abs(module.weight.std().item() / expected - 1) < 5 / math.sqrt(2 * n)
            assert abs(module.weight.mean().item()) < 5 * expected / math.sqrt(n)
            assert module.bias is None or not module.bias.any()
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
    fc = network.get_submodule("fc")
    assert isinstance(fc, nn.Linear)
    assert fc.bias.any() == name.startswith("cifar-resnet")
    bound = 1 / math.sqrt(fc.in_features)  # torch's own: uniform up to this, deviation by sqrt(3)
    expected = 0.01 if name == "vgg19-bn" else bound / math.sqrt(3)
    assert fc.weight.std().item() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(("stem", "last"), [("imagenet", 2), ("no-pool", 4), ("small", 8)])
def test_stems_change_the_resolution_but_no_key(stem: Any, last: int) -> None:
    with torch.device("meta"):
        network, images = build_network("resnet18", 10, stem), torch.zeros(1, 3, 64, 64)
        stock = models.resnet18(weights=None, num_classes=10)
    assert {k: v.shape for k, v in network.state_dict().items()} == {
        k: v.shape for k, v in stock.state_dict().items()
    }
    assert maps_behind(network, ("layer4",), images)[0].shape[-1] == last


def test_unknown_network_or_block() -> None:
    with pytest.raises(InputError, match="resnet9000.*cifar-resnet20"):
        build_network("resnet9000", 10)
    block: Any = "pyramid"
    with pytest.raises(InputError, match="pyramid.*bottleneck-6n"):
        build_network("cifar-resnet56", 10, block=block)
    for name in ("resnet18", "vgg19-bn", "densenet100-bc", "wrn-28-10"):
        with pytest.raises(InputError, match=f"{name} has no choice of blocks.*cifar-resnet110"):
            build_network(name, 10, block="basic")
