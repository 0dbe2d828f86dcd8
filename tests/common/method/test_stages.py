"""Where "penultimate" is in networks that others write: lists, decoders, branches, wrappers."""

import copy
import itertools
from typing import Any

import lightning
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import detection, resnet18, segmentation
from torchvision.models.feature_extraction import create_feature_extractor

from common import FocusedDropout, insert_after, penultimate_stage
from common.method import stages


def stage(into: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(into, out, 3, 2, 1), nn.ReLU(), nn.Conv2d(out, out, 3, 1, 1))


class Encoder(nn.Module):
    """Stages in a list, as transformers, timm and many papers' code have them."""

    def __init__(self, every: bool = False) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stage(8 * 2**i, 16 * 2**i) for i in range(4))
        self.every = every

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        seen = []
        for part in self.stages:
            x = part(x)
            seen.append(x)
        return seen if self.every else x


class Backbone(nn.Module):
    def __init__(self, every: bool = False) -> None:
        super().__init__()
        # Registered in another order than they are called in.
        self.pooler = nn.AdaptiveAvgPool2d(1)
        self.encoder = Encoder(every)
        self.embedder = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        maps = self.encoder(self.embedder(x))
        return maps if isinstance(maps, list) else self.pooler(maps).flatten(1)


class InDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({f"s{i}": stage(3 * 2**i, 6 * 2**i) for i in range(4)})

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        for part in self.body.values():
            pixel_values = part(pixel_values)
        return {"last_hidden_state": pixel_values}


class WithDecoder(nn.Module):
    """Decoder registered first, with transposed convolutions and skips."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.ModuleList(
            nn.ConvTranspose2d(16 * 2**i, 8 * 2**i, 2, 2) for i in reversed(range(1, 4))
        )
        self.backbone = Backbone(every=True)
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        *skips, x = self.backbone(x)
        for up, skip in zip(self.decoder, reversed(skips), strict=True):
            x = up(x) + skip
        out: Tensor = self.head(x)
        return out


class UNet(nn.Module):
    """One pooling for all levels, registered last."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 4, 8, 16, 32]
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, 1, 1) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(nn.Conv2d(a, b, 3, 1, 1) for b, a in itertools.pairwise(widths[1:]))
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        for i, part in enumerate(self.down):
            x = part(self.pool(x) if i else x).relu()
        for part in reversed(self.up):
            x = part(F.interpolate(x, scale_factor=2.0)).relu()
        return x


class Functional(nn.Module):
    """As tutorials write them: pooling is no module, and the classifier fits one size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc = nn.Linear(16 * 5 * 5, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x).relu(), 2)
        x = F.max_pool2d(self.conv2(x).relu(), 2)
        out: Tensor = self.fc(x.flatten(1))
        return out


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = resnet18()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out


FOUND = {
    "list in an encoder": (lambda: Backbone(), "encoder.stages.2"),
    "the encoder alone": (lambda: nn.Sequential(nn.Conv2d(3, 8, 1), Encoder()), "1.stages.2"),
    "stages in a dict": (InDict, "body.s2"),
    "a decoder beside": (WithDecoder, "backbone.encoder.stages.2"),
    "a decoder behind": (
        lambda: nn.Sequential(stage(3, 8), stage(8, 16), nn.ConvTranspose2d(16, 3, 4, 4)),
        "0",
    ),
    "two halvings in one": (
        lambda: nn.Sequential(stage(3, 8), nn.Sequential(stage(8, 16), stage(16, 32))),
        "1.0",
    ),
    "a dilation of single places, which dilates nothing": (
        lambda: nn.Sequential(stage(3, 8), stage(8, 16), nn.Conv2d(16, 16, 1, dilation=2)),
        "0",
    ),
    "one pooling": (UNet, "down.2"),
    "functional pooling": (Functional, "conv1"),
    "in Lightning": (Module, "model.layer3"),
    "compiled": (lambda: torch.compile(resnet18()), "_orig_mod.layer3"),
    "all features": (
        lambda: timm.create_model("resnet18", features_only=True),
        "layer3",
    ),
    "RetinaNet": (
        lambda: detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None),
        "backbone.body.layer3",
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_found(name: str) -> None:
    build, place = FOUND[name]
    assert penultimate_stage(build()) == place


class Streams(nn.Module):
    """Two encoders side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.rgb, self.flow = Encoder(), Encoder()
        self.stem = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out: Tensor = self.rgb(x) + self.flow(x)
        return out


class Twice(nn.Module):
    """The stages run twice, as in a siamese network."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(stage(3, 8), stage(8, 16))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.encoder(x) - self.encoder(x.flip(0))
        return out


class TwoInputs(Backbone):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        out: Tensor = super().forward(x * mask)  # type: ignore[assignment]
        return out


class Fails(nn.Module):
    """Stops halfway where there are no values."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([stage(3, 4), stage(4, 8), stage(8, 16)])

    def forward(self, x: Tensor) -> Tensor:
        for part in self.stages:
            x = part(x)
            if x.shape[1] == 8 and float(x.sum()) > 0:
                x = -x
        return x


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(stage(3, 8), stage(8, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(self.stem(x).flatten(2).mT)
        return out


REFUSED = {
    "two streams": Streams,
    "called twice": Twice,
    "two inputs": TwoInputs,
    "fails halfway": Fails,
    "tokens": Tokens,
    "extra levels": lambda: detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None
    ),
    "dilated": lambda: segmentation.fcn_resnet50(weights=None, weights_backbone=None),
    "dilated in timm": lambda: timm.create_model("resnet18", output_stride=16),
    "a list": lambda: nn.ModuleList([stage(3, 8), stage(8, 16)]),
    # Its layers are called one by one, the shortcut beside the block.
    "traced by fx": lambda: torch.fx.symbolic_trace(resnet18()),
    "features by torchvision": lambda: create_feature_extractor(resnet18(), ["layer3", "layer4"]),
    "no image": lambda: nn.Sequential(nn.Conv3d(3, 4, 3, 2), nn.Conv3d(4, 4, 3, 2)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    network = REFUSED[name]()
    with pytest.raises(ValueError, match=r"cannot tell the penultimate stage of a \w+: give the"):
        insert_after(network, "penultimate", FocusedDropout())


@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn_v2", "keypointrcnn_resnet50_fpn"])
def test_the_stages_of_a_detector_are_listed(name: str) -> None:
    network = getattr(detection, name)(weights=None, weights_backbone=None)
    with pytest.raises(ValueError, match=r" backbone\.body\.layer3, ") as caught:
        insert_after(network, "penultimate", FocusedDropout())
    assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)


def test_the_network_is_as_before() -> None:
    """Weights, statistics, modes, hooks and attributes of their own; a list that forward fills."""

    class Remembers(Backbone):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)
            self.memory: list[object] = []
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.memory.append(x)
            out: Tensor = super().forward(self.norm(x))  # type: ignore[assignment]
            return out

    network = Remembers().train()
    network.encoder.stages[1].eval()
    nn.utils.parametrizations.weight_norm(network.encoder.stages[2][0])
    heard: list[object] = []
    for module in network.modules():
        module.register_forward_hook(lambda *call: heard.append(call))
        module.register_forward_pre_hook(lambda *call: heard.append(call))
    before = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    assert penultimate_stage(network) == "encoder.stages.2"
    assert heard == [] and network.memory == [] and network.calls == 0
    assert [module.training for module in network.modules()] == modes
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    network(torch.rand(2, 3, 64, 64))
    assert len(heard) > 10 and network.calls == 1


def test_old_weight_norm_and_half_precision() -> None:
    network = Backbone().bfloat16()
    with pytest.warns(FutureWarning, match="weight_norm"):
        nn.utils.weight_norm(network.encoder.stages[0][0])
    assert penultimate_stage(network) == "encoder.stages.2"


# --------------------------------------------------------------------------- ratios, by hand


def call(name: str, into: int, out: int, module: nn.Module | None = None) -> stages._Call:
    module = module or nn.Conv2d(1, 1, 3)
    return stages._Call(name, module, {into}, {out} if out > 1 else set(), single=out > 1)


def pool(into: int, out: int) -> stages._Call:
    return call("pool", into, out, nn.MaxPool2d(2))


LOWERINGS = [
    ([], None),
    ([call("a", 224, 224), call("b", 224, 112), call("c", 112, 112)], 1),
    ([call("a", 151, 100)], 0),
    ([call("a", 150, 100)], None),  # one and a half is a convolution without padding
    ([call("a", 76, 76), call("b", 50, 50)], 1),  # lowered between the modules
    ([call("a", 75, 75), call("b", 50, 50)], None),
    ([call("a", 224, 112), pool(112, 56)], 0),  # a pooling with no convolution behind it
    ([call("a", 224, 112), pool(112, 56), call("b", 56, 56)], 1),
    ([call("a", 224, 112), call("b", 112, 56), call("c", 56, 28)], 2),
    ([call("a", 224, 112), call("head", 112, 1), call("c", 112, 56)], 0),
    ([call("a", 224, 112), call("up", 112, 224), call("c", 224, 112)], None),
    ([call("a", 200, 100), call("b", 151, 151), call("c", 151, 50)], None),
    ([call("a", 200, 100), call("b", 150, 150), call("c", 150, 50)], 2),
    ([call("a", 100, 151), call("b", 151, 75)], None),
    ([call("a", 100, 150), call("b", 150, 75)], 1),
]


@pytest.mark.parametrize(("calls", "last"), LOWERINGS)
def test_the_last_call_that_lowers_the_resolution(
    calls: list[stages._Call], last: int | None
) -> None:
    assert stages._last_lowering(calls) == last


def trunk(*calls: stages._Call) -> stages._Call:
    return stages._Call("", nn.Identity(), {224}, {calls[-1].out}, calls=list(calls))


def within(call: stages._Call, *calls: stages._Call) -> stages._Call:
    call.calls = list(calls)
    return call


def several(call: stages._Call, field: str, *sides: int) -> stages._Call:
    setattr(call, field, set(sides))
    return call


def two_stages(into: int, out: int, between: int | None = None) -> stages._Call:
    """A whole stage whose own calls end one at 100, before a stage that lowers."""
    inner = within(call("b", into, out), call("b.a", into, into), call("b.b", into, into // 2))
    return trunk(call("a", 224, between or into), inner)


TOKENS = stages._Call("t", nn.Identity(), tokens=True)
DILATED = nn.Conv2d(1, 1, 3, dilation=2)
SEARCHES = [
    (trunk(call("a", 224, 112), call("b", 112, 56)), "a"),
    (two_stages(102, 34), "a"),  # three times: one halving, of odd sides
    (two_stages(103, 34), "b.a"),  # more: two of them, the last within
    (two_stages(103, 34, between=155), "a"),  # but for what was lowered before it
    (trunk(pool(224, 112), call("b", 112, 56)), None),  # no convolution before it
    (trunk(call("b", 224, 112)), None),
    (trunk(call("a", 224, 112), call("b", 112, 56), TOKENS), None),
    (trunk(call("a", 224, 112), several(call("b", 112, 56), "inputs", 112, 56)), None),
    (trunk(several(call("a", 224, 112), "outputs", 224, 112), call("b", 112, 56)), None),
    (
        trunk(
            within(
                several(call("a", 224, 56), "outputs", 112, 56),
                call("a.a", 224, 112),
                call("a.b", 112, 56),
            ),
            call("b", 112, 56),
        ),
        "a.a",  # the encoder's stages, not what follows it
    ),
    (trunk(call("a", 224, 112), call("b", 112, 56), call("c", 56, 56, DILATED)), None),
    (trunk(call("a", 224, 112, DILATED), call("b", 112, 56), call("c", 56, 56, DILATED)), "a"),
    (trunk(call("a", 224, 112), call("b", 112, 56), call("c", 56, 1)), "a"),
    # What takes no maps, or returns none and does not convolve, stands beside.
    (trunk(call("a", 224, 112), several(call("x", 9, 112), "inputs"), call("b", 112, 56)), "a"),
    (trunk(call("a", 224, 112), call("x", 112, 1, nn.Identity()), call("b", 112, 56)), "a"),
]


@pytest.mark.parametrize(("root", "place"), SEARCHES)
def test_the_call_that_ends_the_last_stage_but_one(root: stages._Call, place: str | None) -> None:
    found = stages._search(root)
    assert (found.name if found else None) == place


def test_a_stage_that_returns_more_than_a_tensor_is_none() -> None:
    first = call("a", 224, 112)
    first.single = False
    assert stages._search(trunk(first, call("b", 112, 56))) is None


@pytest.mark.parametrize(("stride", "place"), [(45, "0"), (56, None)])
def test_maps_of_a_forty_eighth_of_the_image_are_extra_levels(
    stride: int, place: str | None
) -> None:
    """Of 224 pixels: 5 and 4."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1, stride), nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 1)
    )
    assert stages.last_stage_but_one(network) == place


def test_sides_are_of_square_maps_wherever_they_are() -> None:
    square, flat, row = torch.zeros(1, 2, 7, 7), torch.zeros(1, 2, 9, 5), torch.zeros(1, 7, 7)
    assert stages._sides([{"a": (square, flat)}, row, None, "b"]) == {7}
    assert stages._sides({"a": square, "b": [torch.zeros(1, 1, 3, 3)]}) == {7, 3}
    assert call("a", 8, 1).out == 1 and several(call("a", 8, 4), "inputs", 3, 9).into == 9
    assert several(call("a", 8, 4), "outputs", 3, 9).out == 3


@pytest.mark.parametrize(
    ("kernel", "dilation", "dilates"),
    [(3, 1, False), (1, 2, False), (3, 2, True), ((1, 3), (1, 2), True), ((1, 1), (2, 2), False)],
)
def test_a_dilation_of_more_than_a_place(kernel: Any, dilation: Any, dilates: bool) -> None:
    assert stages._dilates(nn.Conv2d(1, 1, kernel, dilation=dilation)) is dilates


class Beside(nn.Module):
    """Two stages, and a module that gets what else it is given, beside the maps."""

    def __init__(self, *others: Tensor) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)
        self.beside, self.others = Ignores(), others

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x))
        self.beside(*self.others)
        return out


class Ignores(nn.Module):
    def forward(self, *given: Tensor) -> None: ...


@pytest.mark.parametrize(
    ("others", "place"),
    [
        ((), "first"),
        ((torch.zeros(2, 5),), "first"),
        ((torch.zeros(2, 49, 4),), None),  # a sequence: a transformer on what the stem found
        ((torch.zeros(2, 49, 4), torch.zeros(49, 4)), None),
        ((torch.zeros(2, 49, 4), torch.zeros(2, 4, 7, 7)), "first"),
    ],
)
def test_a_sequence_among_the_arguments(others: tuple[Tensor, ...], place: str | None) -> None:
    assert stages.last_stage_but_one(Beside(*others)) == place


def test_a_module_under_several_names_is_one() -> None:
    """Such as an activation that all blocks share."""
    act = nn.ReLU()
    first = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), act)
    network = nn.Sequential(first, nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1), act))
    assert stages.last_stage_but_one(network) == "0"
