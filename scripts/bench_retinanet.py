"""`python scripts/bench.py retinanet`: our RetinaNet against torchvision's, on random data.

The same weights, sizes, objects, precision and optimizer, and frozen BatchNorm in both. Ours takes
what its loader delivers: images resized and padded, as bytes. torchvision's takes float images and
lists of boxes, once of the final size, once of 500x375 pixels, which it resizes itself.
"""

import copy
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torchvision.models as models
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from common.images import IMAGENET_MEAN, IMAGENET_STD
from detect.batches import Images, Targets
from detect.recipes import Detector
from detect.retinanet import BatchedRetinaNet, build_retinanet

CLASSES = 20
OBJECTS = 5  # at most, in an image
RAW = (375, 500)
SHARE_OF_CANDIDATES = 1e-3  # of all scores lie above the threshold, as in a trained network


@dataclass(frozen=True)
class Case:
    """A network and a batch; `short` is the short side of the resized images, pixels."""

    body: str
    channels: int
    short: int
    batch: int
    rounds: int


CPU_CASES = (Case("resnet18", 64, 160, 8, 9), Case("resnet50", 256, 256, 1, 7))
GPU_CASES = (Case("resnet50", 256, 600, 16, 20), Case("resnet50", 256, 800, 8, 20))


@dataclass(frozen=True)
class Batch:
    """The same images and objects as each network takes them."""

    images: Images
    targets: Targets
    final: list[Tensor]
    final_targets: list[dict[str, Tensor]]
    raw: list[Tensor]
    raw_targets: list[dict[str, Tensor]]


def make_batch(case: Case, device: torch.device) -> Batch:
    """Draw images of 500x375 pixels with 1 to 5 objects, and resize them as torchvision does."""
    generator = torch.Generator().manual_seed(0)
    raw = [torch.rand(3, *RAW, generator=generator) for _ in range(case.batch)]
    height, width = (int(side * case.short / RAW[0]) for side in RAW)
    scale = torch.tensor([width / RAW[1], height / RAW[0]]).repeat(2)
    counts = torch.randint(1, OBJECTS + 1, (case.batch,), generator=generator)
    corner = torch.rand(case.batch, OBJECTS, 2, generator=generator) * 200
    sides = 20 + torch.rand(case.batch, OBJECTS, 2, generator=generator) * 150
    boxes = torch.cat([corner, corner + sides], dim=-1)
    labels = torch.randint(0, CLASSES, (case.batch, OBJECTS), generator=generator)
    valid = torch.arange(OBJECTS) < counts[:, None]
    pixels = torch.zeros(
        case.batch, 3, *(-(-side // 32) * 32 for side in (height, width)), dtype=torch.uint8
    )
    for padded, image in zip(pixels, raw, strict=True):
        resized = F.interpolate(image[None], (height, width), mode="bilinear")[0]
        padded[:, :height, :width] = (resized * 255).round().byte()
    objects = list(zip(boxes, labels, valid, strict=True))
    return Batch(
        Images(pixels.to(device), torch.tensor([[height, width]] * case.batch).to(device)),
        Targets((boxes * scale).to(device), labels.to(device), valid.to(device)),
        [(image[:, :height, :width] / 255).to(device) for image in pixels],
        [{"boxes": (b * scale)[v].to(device), "labels": n[v].to(device)} for b, n, v in objects],
        [image.to(device) for image in raw],
        [{"boxes": b[v].to(device), "labels": n[v].to(device)} for b, n, v in objects],
    )


def make_ours(case: Case, device: torch.device) -> BatchedRetinaNet:
    """Build our detector as a training does."""
    torch.manual_seed(0)
    settings = Detector(fpn_channels=case.channels)
    network = build_retinanet(settings, case.body, CLASSES, IMAGENET_MEAN, IMAGENET_STD)
    return network.to(device).to(memory_format=torch.channels_last)


def make_stock(case: Case, ours: BatchedRetinaNet, device: torch.device) -> RetinaNet:
    """Build torchvision's detector with the weights of ours."""
    resnet = models.get_model(case.body, weights=None, norm_layer=FrozenBatchNorm2d)
    c5 = resnet.fc.in_features
    for name, parameter in resnet.named_parameters():
        parameter.requires_grad_(name.startswith(("layer4", "layer3", "layer2")))
    backbone = BackboneWithFPN(
        resnet,
        return_layers={"layer2": "0", "layer3": "1", "layer4": "2"},
        in_channels_list=[c5 // 4, c5 // 2, c5],
        out_channels=case.channels,
        extra_blocks=LastLevelP6P7(c5, case.channels),
    )
    network = RetinaNet(
        backbone,
        CLASSES,
        min_size=case.short,
        max_size=10 * case.short,
        anchor_generator=AnchorGenerator(
            ours.anchor_generator.sizes, ours.anchor_generator.aspect_ratios
        ),
        detections_per_img=ours.detections_per_img,
    )
    network.load_state_dict(ours.state_dict())
    return network.to(device)


@torch.no_grad()
def spread_scores(network: BatchedRetinaNet, batch: Batch) -> None:
    """Let a thousandth of the scores pass the threshold: a fresh network detects nothing."""
    features = list(network.backbone(network.normalize(batch.images)).values())
    head = network.head.classification_head
    sample = head(features).flatten()[::7]
    deviation = sample.std()
    head.cls_logits.weight.div_(deviation)
    quantile = ((sample - sample.mean()) / deviation).sort().values
    passing = quantile[int(len(quantile) * (1 - SHARE_OF_CANDIDATES))]
    threshold = torch.logit(torch.tensor(network.score_thresh))
    head.cls_logits.bias.fill_(threshold - passing)


def training_step(network: nn.Module, *arguments: Any) -> Callable[[], None]:
    """Return a step: forward, backward, SGD."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, fused=True)

    def step() -> None:
        with precision(parameters[0].device):
            losses = network(*arguments)
        sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def inference(network: nn.Module, images: Any) -> Callable[[], None]:
    """Return a call that detects on a batch."""

    @torch.inference_mode()
    def call() -> None:
        with precision(next(network.parameters()).device):
            network(images)

    return call


def precision(device: torch.device) -> AbstractContextManager[Any]:
    """Return what both networks run in: bfloat16 on a GPU, float32 on a CPU."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def times_in_turn(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Time the calls in turn, after two of each to warm up; seconds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 2):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # ours returns before the GPU is done
            if number >= 2:
                times[name].append(time.perf_counter() - start)
    return times


def measure(case: Case, device: torch.device) -> None:
    """Print a training step and inference of one case: medians, ranges, ratios by pairs."""
    batch, ours = make_batch(case, device), make_ours(case, device)
    spread_scores(ours, batch)
    stock = make_stock(case, ours, device)
    height, width = batch.images.sizes[0].tolist()
    print(
        f"{case.body}, {case.channels} channels, {case.batch} images of {height}x{width}, "
        f"{'bf16' if device.type == 'cuda' else 'fp32'}"
    )
    kept = copy.deepcopy(ours.state_dict())
    parts: dict[str, dict[str, Callable[[], None]]] = {
        "training step": {
            "ours": training_step(ours.train(), batch.images, batch.targets),
            "torchvision": training_step(stock.train(), batch.final, batch.final_targets),
            "torchvision, 500x375": training_step(stock, batch.raw, batch.raw_targets),
        },
        "inference": {
            "ours": inference(ours, batch.images),
            "torchvision": inference(stock, batch.final),
            "torchvision, 500x375": inference(stock, batch.raw),
        },
    }
    for part, calls in parts.items():
        for network in (ours, stock):
            network.load_state_dict(kept)
            network.train(part == "training step")
        times = times_in_turn(calls, case.rounds)
        for name, seen in times.items():
            ratios = [theirs / mine for theirs, mine in zip(seen, times["ours"], strict=True)]
            print(
                f"  {part:13}  {name:20}  {_spread([1e3 * t for t in seen], '.1f')} ms, ours is "
                f"{_spread(ratios, '.2f')} times as fast, n={case.rounds}"
            )


def _spread(values: list[float], form: str) -> str:
    low, high = (format(bound(values), form) for bound in (min, max))
    return f"{statistics.median(values):{form}} ({low} to {high})"


def run() -> None:
    """Run the cases of this machine, on a CPU with as many threads as torch takes by itself."""
    if torch.cuda.is_available():
        device, cases = torch.device("cuda"), GPU_CASES
        print(torch.cuda.get_device_name())
    else:
        device, cases = torch.device("cpu"), CPU_CASES
        print(f"{torch.get_num_threads()} threads")
    for case in cases:
        measure(case, device)
