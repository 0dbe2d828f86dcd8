"""Where "penultimate" is in the networks of torchvision, of timm and of this project."""

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision import models

from common import FocusedDropout, insert_after, penultimate_stage
from pretrain.networks import GROUPS, build_network, penultimate

TORCHVISION = {
    "resnet18": "layer3",
    "resnet152": "layer3",
    "resnext50_32x4d": "layer3",
    "wide_resnet50_2": "layer3",
    "densenet121": "features.denseblock3",
    "densenet161": "features.denseblock3",
    "vgg11_bn": "features.20",
    "vgg16_bn": "features.32",
    "vgg19": "features.26",
    "efficientnet_b0": "features.5",
    "efficientnet_v2_s": "features.5",
    "convnext_tiny": "features.5",
    "mobilenet_v2": "features.13",
    "mobilenet_v3_small": "features.8",
    "mobilenet_v3_large": "features.12",
    "mnasnet0_5": "layers.11",
    "shufflenet_v2_x1_0": "stage3",
    "squeezenet1_1": "features.7",
    "alexnet": "features.4",
    "googlenet": "inception4e",
    "inception_v3": "Mixed_6e",
    "maxvit_t": "blocks.2",
}
OF_TIMM = {
    **dict.fromkeys(
        "resnet18 resnet50d resnext50_32x4d wide_resnet50_2 seresnet50".split(), "layer3"
    ),
    **dict.fromkeys("resnetv2_50 dm_nfnet_f0 vovnet39a repvgg_a0".split(), "stages.2"),
    **dict.fromkeys("convnext_tiny convnextv2_atto inception_next_atto".split(), "stages.2"),
    **dict.fromkeys("hgnet_tiny fastvit_t8 poolformer_s12".split(), "stages.2"),
    **dict.fromkeys("efficientnet_b0 tf_efficientnetv2_s mobilenetv2_100".split(), "blocks.4"),
    "mobilenetv3_large_100": "blocks.4",
    "mobilenetv4_conv_small": "blocks.2",
    **dict.fromkeys("regnetx_002 regnety_004".split(), "s3"),
    "regnetz_b16": "stages.2",
    "cspdarknet53": "stages.3",  # of five
    "densenet121": "features.denseblock3",
    "dla34": "level4",
    "rexnet_100": "features.10",
}


def on_meta(name: str) -> nn.Module:
    """Build a torchvision network without its weights."""
    bare = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("meta"):
        network: nn.Module = models.get_model(name, weights=None, **bare)
    return network


def shapes_behind(network: nn.Module, place: str, size: int) -> tuple[torch.Size, torch.Size]:
    """Run on the meta device; the shape at a place, and that of the last convolution's maps."""
    seen: dict[str, torch.Size] = {}

    def note(module: nn.Module, inputs: object, output: object) -> None:
        maps = isinstance(output, Tensor) and output.ndim == 4 and output.shape[-1] > 1
        if maps and isinstance(module, nn.Conv2d):
            seen["last"] = output.shape
        if module is network.get_submodule(place):
            assert isinstance(output, Tensor)
            seen["place"] = output.shape

    for module in network.modules():
        module.register_forward_hook(note)
    with torch.device("meta"):
        network.eval()(torch.zeros(2, 3, size, size))
    return seen["place"], seen["last"]


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name: str) -> None:
    assert penultimate_stage(on_meta(name)) == TORCHVISION[name]


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "convnext_tiny", "mobilenet_v2"])
def test_the_last_stage_has_half_the_resolution(name: str) -> None:
    place, last = shapes_behind(on_meta(name), TORCHVISION[name], 224)
    assert place[2:] == (14, 14) and last[2:] == (7, 7)


def test_torchvision_regnet() -> None:  # reads its widths from a tensor: it cannot be on meta
    assert penultimate_stage(models.regnet_x_400mf()) == "trunk_output.block3"


def test_vgg_is_followed_by_the_fourth_pooling() -> None:
    for name in ("vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"):
        features = on_meta(name).features
        assert isinstance(features, nn.Sequential)
        place = int(penultimate_stage(on_meta(name)).removeprefix("features."))
        assert isinstance(features[place], nn.ReLU)
        assert isinstance(features[place + 1], nn.MaxPool2d)
        assert sum(isinstance(m, nn.MaxPool2d) for m in features[: place + 2]) == 4


@pytest.mark.parametrize("name", OF_TIMM)
def test_timm_says_the_same(name: str) -> None:
    """By timm's own list: the module at the last reduction but one."""
    with torch.device("meta"):
        network = timm.create_model(name)
    info = [(entry["reduction"], entry["module"]) for entry in network.feature_info]
    last_but_one = sorted({reduction for reduction, _ in info})[-2]
    listed = {module for reduction, module in info if reduction == last_but_one}
    assert penultimate_stage(network) == OF_TIMM[name] and listed == {OF_TIMM[name]}


@pytest.mark.parametrize(
    ("name", "expected"), [("vgg16_bn", "features.32"), ("ghostnet_100", "blocks.6")]
)
def test_timm_where_its_list_is_of_no_use(name: str, expected: str) -> None:
    """What a VGG's fifth pooling leaves is listed as a stage, and half of a stage of GhostNet."""
    with torch.device("meta"):
        network = timm.create_model(name)
    assert penultimate_stage(network) == expected
    place, last = shapes_behind(network, expected, 224)
    assert place[3] == 2 * last[3]


@pytest.mark.parametrize("name", GROUPS)
def test_our_networks(name: str) -> None:
    with torch.device("meta"):
        network = build_network(name, 10)
    assert penultimate_stage(network) == penultimate(name)


@pytest.mark.parametrize("name", ["swin_t", "vit_b_32"])
def test_torchvision_networks_that_are_refused(name: str) -> None:
    network = on_meta(name)
    with pytest.raises(ValueError, match=r"cannot tell the penultimate stage of a \w+: .* it has "):
        insert_after(network, "penultimate", FocusedDropout())


@pytest.mark.parametrize(
    "name",
    ["swin_tiny_patch4_window7_224", "mambaout_femto", "hrnet_w18_small", "convmixer_768_32"],
)
def test_timm_networks_that_are_refused(name: str) -> None:
    """Channels last in shape, several resolutions side by side, one resolution only."""
    with torch.device("meta"):
        network = timm.create_model(name)
    with pytest.raises(ValueError, match="cannot tell the penultimate stage"):
        insert_after(network, "penultimate", FocusedDropout())


def test_refused_without_a_stage_before_the_last() -> None:
    for network in (
        nn.Linear(2, 2),
        nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU()),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
    ):
        with pytest.raises(ValueError, match="cannot tell the penultimate stage"):
            penultimate_stage(network)


def test_found_inside_wrappers() -> None:
    network = nn.ModuleDict({"body": nn.DataParallel(on_meta("resnet18"))})
    with pytest.raises(ValueError, match="cannot tell"):
        penultimate_stage(network)  # what a ModuleDict calls first, nobody knows
    assert penultimate_stage(nn.DataParallel(on_meta("resnet18"))) == "module.layer3"
    body = nn.Sequential(nn.Identity(), on_meta("convnext_tiny"))
    assert penultimate_stage(body) == "1.features.5"


def test_a_submodule_of_that_name_comes_first() -> None:
    network = nn.Sequential()
    network.add_module("penultimate", nn.Conv2d(3, 4, 3))
    network.add_module("last", nn.Conv2d(4, 4, 3, 2))
    layer = FocusedDropout()
    insert_after(network, "penultimate", layer)
    assert layer.place == "penultimate" and network.penultimate.focused_dropout is layer
