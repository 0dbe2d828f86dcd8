"""The dropouts compared with: what they drop, how much, where and when."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torchvision.models.resnet import BasicBlock
from torchvision.ops import drop_block2d

from common import FocusedDropout, insert_after
from common.errors import InputError
from common.method.controls import InParticipatingSteps
from pretrain.networks.cifar_resnet import CifarResNet
from pretrain.networks.densenet import DenseNet
from pretrain.networks.dropouts import DropBlock, drop_block, place_dropouts, set_progress
from pretrain.networks.vgg import Vgg19
from pretrain.networks.wide_resnet import WideResNet
from pretrain.recipes import RECIPES, Dropout

Kind = Literal["dropout", "spatial-dropout", "dropblock"]
KINDS: tuple[Kind, ...] = ("dropout", "spatial-dropout", "dropblock")
every_kind = pytest.mark.parametrize("kind", KINDS)

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "resnet": (lambda: CifarResNet(BasicBlock, 1, 5), ("layer1", "layer2", "layer3")),
    "vgg": (lambda: Vgg19(5), ("group1", "group2", "group3", "group4", "group5")),
    "densenet": (lambda: DenseNet(2, 4, 5), ("block1", "block2", "block3")),
    "wide": (lambda: WideResNet(1, 1, 5), ("group1", "group2", "group3")),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


class OneGroup(nn.Module):
    """A network whose only group does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.group = nn.Sequential(nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.group(x)
        return out


def dropped(settings: Dropout, done: float, x: Tensor) -> Tensor:
    """Send maps through the recipe's dropout in training."""
    network = OneGroup().train()
    layers = place_dropouts(network, settings)
    set_progress(layers, settings, done)
    out: Tensor = network(x)
    return out


def expected_share(rate: float, size: int, side: int) -> float:
    """Mean share that DropBlock drops, from the number of blocks that can cover each unit."""
    gamma = rate * side**2 / (size**2 * (side - size + 1) ** 2)
    covering = [
        sum(1 for corner in range(side - size + 1) if corner <= i < corner + size)
        for i in range(side)
    ]
    shares = [1 - (1 - gamma) ** (rows * columns) for rows in covering for columns in covering]
    return sum(shares) / side**2


def literal_drop_block(x: Tensor, rate: float, block_size: int, draws: Tensor) -> Tensor:
    """Algorithm 1 of arXiv 1810.12890, block by block; `draws` are uniform, one per block."""
    images, channels, height, width = x.shape
    size = min(block_size, height, width)
    gamma = rate * height * width / (size * size * (height - size + 1) * (width - size + 1))
    mask = torch.ones_like(x)
    for n in range(images):
        for c in range(channels):
            for i in range(height - size + 1):
                for j in range(width - size + 1):
                    if draws[n, c, i, j] < gamma:
                        mask[n, c, i : i + size, j : j + size] = 0
    ones = int(mask.sum())
    return x * mask * (mask.numel() / ones) if ones else torch.zeros_like(x)


@given(
    rate=st.floats(0.05, 1.0),
    block_size=st.integers(1, 6),
    sides=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    seed=st.integers(0, 1000),
)
def test_drop_block_is_its_algorithm(
    rate: float, block_size: int, sides: tuple[int, int], seed: int
) -> None:
    torch.manual_seed(seed)
    x = torch.randn(2, 3, *sides)
    state = torch.get_rng_state()
    found = drop_block(x, rate, block_size)
    size = min(block_size, *sides)
    torch.set_rng_state(state)
    draws = torch.rand(2, 3, sides[0] - size + 1, sides[1] - size + 1)
    torch.testing.assert_close(found, literal_drop_block(x, rate, block_size, draws))


@pytest.mark.parametrize(("rate", "block_size"), [(0.1, 7), (0.4, 3), (0.2, 1), (0.3, 15)])
def test_drop_block_is_torchvisions(
    rate: float, block_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Tensor, "bernoulli_", lambda self, p: self.copy_(torch.rand(self.shape) < p)
    )
    x = torch.randn(4, 8, 16, 12)
    torch.manual_seed(1)
    expected = drop_block2d(x, rate, min(block_size, 11))
    torch.manual_seed(1)
    torch.testing.assert_close(drop_block(x, rate, min(block_size, 11)), expected)
    assert (expected == 0).any()


@pytest.mark.parametrize(("rate", "block_size"), [(0.1, 7), (0.05, 7), (0.3, 3), (0.3, 16)])
def test_drop_block_drops_its_share(rate: float, block_size: int) -> None:
    settings = Dropout(kind="dropblock", after=("group",), rate=rate, block_size=block_size)
    share = (dropped(settings, 1.0, torch.ones(64, 64, 16, 16)) == 0).float().mean(dim=(2, 3))
    expected = expected_share(rate, block_size, 16)
    # Of all variables in [0, 1] with this mean, a coin deviates most; maps are drawn independently.
    deviation = math.sqrt(expected * (1 - expected) / share.numel())
    assert abs(share.mean().item() - expected) < 4 * deviation
    assert 0.8 * rate < expected <= rate * 1.0001


def test_dropout_drops_single_units() -> None:
    settings = Dropout(kind="dropout", after=("group",), rate=0.2)
    out = dropped(settings, 0.0, torch.ones(16, 32, 16, 16))
    zero = out == 0
    assert_share(zero, 0.2)
    assert_share(zero[..., ::2] & zero[..., 1::2], 0.2**2)  # neighbours do not fall together
    torch.testing.assert_close(out[~zero], torch.full_like(out[~zero], 1 / 0.8))


def test_spatial_dropout_drops_whole_channels() -> None:
    settings = Dropout(kind="spatial-dropout", after=("group",), rate=0.2)
    out = dropped(settings, 0.0, torch.ones(64, 64, 4, 4))
    channels = (out == 0).flatten(2)
    assert torch.equal(channels.any(dim=2), channels.all(dim=2))
    assert_share(channels[..., 0], 0.2)
    assert_share(channels[:, ::2, 0] & channels[:, 1::2, 0], 0.2**2)
    torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 1 / 0.8))


def assert_share(chosen: Tensor, expected: float) -> None:
    """Independent draws: within four binomial deviations."""
    deviation = math.sqrt(expected * (1 - expected) / chosen.numel())
    assert abs(chosen.float().mean().item() - expected) < 4 * deviation


def test_drop_blocks_schedule_rises_linearly() -> None:
    settings = Dropout(kind="dropblock", after=("group",), rate=0.2, block_size=5)
    network = OneGroup().train()
    layers = place_dropouts(network, settings)
    x = torch.ones(64, 64, 16, 16)
    shares = []
    for done in (None, 0.0, 0.25, 0.5, 1.0):
        if done is not None:
            set_progress(layers, settings, done)
        shares.append((network(x) == 0).float().mean().item())
    assert shares[:2] == [0, 0]  # as placed, and at the start
    for share, rate in zip(shares[2:], (0.05, 0.1, 0.2), strict=True):
        expected = expected_share(rate, 5, 16)
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / 64**2)


def test_drop_block_without_a_schedule() -> None:
    settings = Dropout(kind="dropblock", after=("group",), rate=0.3, block_size=3, linear=False)
    layers = place_dropouts(OneGroup(), settings)
    rates = []
    for done in (0.0, 0.5):
        rates += [layer.p for layer in layers if isinstance(layer, DropBlock)]
        set_progress(layers, settings, done)
    assert rates == [0.3, 0.3]


@pytest.mark.parametrize("kind", ["dropout", "spatial-dropout"])
def test_only_drop_block_has_a_schedule(kind: Kind) -> None:
    settings = Dropout(kind=kind, after=("group",), rate=0.5)
    assert (dropped(settings, 0.0, torch.ones(8, 8, 8, 8)) == 0).float().mean() > 0.25


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_drop_block_keeps_mean_dtype_and_memory_format(dtype: torch.dtype) -> None:
    x = torch.ones(8, 64, 16, 16, dtype=dtype).to(memory_format=torch.channels_last)
    out = drop_block(x, 0.1, 7)  # more units than float16 can count
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert out.float().mean().item() == pytest.approx(1, abs=torch.finfo(dtype).eps)


def test_drop_block_may_drop_everything() -> None:
    assert torch.equal(drop_block(torch.ones(1, 2, 3, 3), 1.0, 3), torch.zeros(1, 2, 3, 3))


def test_a_changing_rate_does_not_compile_anew() -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    layer = DropBlock(0.0, 3).train()
    compiled = torch.compile(layer, backend=counter, fullgraph=True)
    x = torch.ones(16, 16, 8, 8)
    shares = []
    for step in range(20):
        layer.p = 0.3 * step / 20
        shares.append((compiled(x) == 0).float().mean().item())
    assert counter.frame_count <= 3  # off, and one or two for all rates
    assert shares[0] == 0
    assert sum(shares[15:]) > 1.5 * sum(shares[5:10]) > 0


@every_kind
@every_network
def test_placed_dropout_acts_in_training_and_at_its_place_only(name: str, kind: Kind) -> None:
    build, groups = NETWORKS[name]
    plain = build()
    network = copy.deepcopy(plain)
    after = groups[:2] if kind == "dropblock" else (groups[-2],)
    settings = Dropout(kind=kind, after=after, rate=0.3, block_size=3)
    layers = place_dropouts(network, settings)
    set_progress(layers, settings, 1.0)
    assert len(layers) == len(after)
    assert network.state_dict().keys() == plain.state_dict().keys()

    images = torch.randn(2, 3, 32, 32)
    maps = behind(network.eval(), groups, images)
    for group, expected in behind(plain.eval(), groups, images).items():
        assert torch.equal(maps[group], expected)

    maps = behind(network.train(), groups, images)
    expected_maps = behind(plain.train(), groups, images)
    first = groups.index(after[0])
    for group in groups[:first]:
        assert torch.equal(maps[group], expected_maps[group])
    out, expected = maps[after[0]], expected_maps[after[0]]
    gone = (out == 0) & (expected != 0)
    assert 0.05 < gone.sum() / (expected != 0).sum() < 0.6
    factors = out[out != 0] / expected[out != 0]
    torch.testing.assert_close(factors, factors[:1].expand_as(factors))
    assert factors[0] > 1
    for group in groups[first + 1 :]:
        assert not torch.equal(maps[group], expected_maps[group])
    network(images).sum().backward()  # nothing that the gradient needs was overwritten


def behind(network: nn.Module, groups: tuple[str, ...], images: Tensor) -> dict[str, Tensor]:
    """Run the network and return what comes out of its groups."""
    seen: dict[str, Tensor] = {}
    hooks = [
        network.get_submodule(group).register_forward_hook(
            lambda module, inputs, output, group=group: seen.__setitem__(group, output)
        )
        for group in groups
    ]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    return seen


@every_kind
def test_every_named_group_gets_a_layer_of_its_own(kind: Kind) -> None:
    network = CifarResNet(BasicBlock, 1, 5)
    settings = Dropout(kind=kind, after=("layer3", "layer1"))
    layers = place_dropouts(network, settings)
    assert [list(network.layer3)[-1], list(network.layer1)[-1]] == layers
    assert len(network.layer2) == 1
    assert layers[0] is not layers[1]


def test_beside_focused_dropout() -> None:
    network = CifarResNet(BasicBlock, 1, 5)
    layers = place_dropouts(network, Dropout(kind="dropout", after=("layer2",), rate=0.5))
    focused = FocusedDropout(0.5)
    insert_after(network, "layer2", focused)
    assert list(network.layer2)[1:] == [*layers, focused]


@every_kind
@pytest.mark.parametrize(
    ("name", "place"), [("vgg", "pool4"), ("densenet", "transition2"), ("resnet", "layer2.0.conv1")]
)
def test_behind_any_submodule_as_focused_dropout(name: str, place: str, kind: Kind) -> None:
    """What comes out of the place is dropped: of the network itself and of a copy of it."""
    build, _ = NETWORKS[name]
    network = build()
    keys = network.state_dict().keys()
    settings = Dropout(kind=kind, after=(place,), rate=0.5, block_size=1)
    (layer,) = place_dropouts(network, settings)
    set_progress([layer], settings, 1.0)
    assert network.state_dict().keys() == keys
    with pytest.raises(InputError, match=f"follows '{place}' already"):
        place_dropouts(network, settings)
    images = torch.randn(4, 3, 32, 32)
    other = copy.deepcopy(network)
    del layer
    for one in (network, other):
        dropped = behind(one.train(), (place,), images)[place]
        assert 0.3 < (dropped == 0).float().mean() < 0.9
        whole = behind(one.eval(), (place,), images)[place]
        assert (whole == 0).float().mean() < (dropped == 0).float().mean() - 0.1
    parts = [m for m in other.modules() if isinstance(m, nn.Dropout | nn.Dropout2d | DropBlock)]
    assert len(parts) == 1 and parts[0] not in set(network.modules())


@every_kind
@pytest.mark.parametrize("place", ["layer2", "layer2.0.conv1"])
def test_in_participating_steps_alone(kind: Kind, place: str) -> None:
    network = CifarResNet(BasicBlock, 1, 5).train()
    settings = Dropout(kind=kind, after=(place,), rate=0.5, block_size=1, steps="participating")
    layers = place_dropouts(network, settings)
    set_progress(layers, settings, 1.0)
    (switch,) = (m for m in network.modules() if isinstance(m, InParticipatingSteps))
    assert [switch.layer] == layers
    x = torch.ones(4, 8, 6, 6)
    assert switch(x) is x
    switch.active = True
    assert 0.3 < (switch(x) == 0).float().mean() < 0.7
    assert switch.eval()(x) is not None and torch.equal(switch.eval()(x), x)


def test_participating_steps_need_a_method() -> None:
    baseline = RECIPES["cifar10-resnet20-dropout"]()
    with pytest.raises(ValueError, match="--focus.weight-decay"):
        replace(baseline, dropout=replace(baseline.dropout, steps="participating"))


def test_no_dropout() -> None:
    network = CifarResNet(BasicBlock, 1, 5)
    before = str(network)
    assert place_dropouts(network, Dropout()) == []
    assert str(network) == before


def test_unknown_or_repeated_group() -> None:
    network = DenseNet(1, 4, 5)
    with pytest.raises(InputError, match="dropout.after layer2: .*it has conv1, block1, "):
        place_dropouts(network, Dropout(kind="dropout", after=("layer2",)))
    with pytest.raises(InputError, match="follows 'block1' already: name each place once"):
        place_dropouts(network, Dropout(kind="dropout", after=("block1", "block1")))
