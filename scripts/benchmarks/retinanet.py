"""Our RetinaNet against torchvision's: a training step, and detecting.

The same weights, sizes, objects, precision and optimizer, and frozen BatchNorm in both. Ours takes
what its loader delivers: images resized and padded, as bytes. torchvision's takes float images and
lists of boxes, once of the final size, once of 500x375 pixels, which it resizes itself. The folding
of frozen norms is measured by itself, on the ResNet body. Compiled sides, if asked for, are timed
alone beside our eager one.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
import torchvision.models as models
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from benchmarks.floors import Bounds, Work, floors, rates
from benchmarks.frozen_norm import compare_norms
from benchmarks.measure import Comparison, Settings, duration
from benchmarks.timing import elapsed, take_turns
from common.errors import InputError
from common.images.decoding import IMAGENET_MEAN, IMAGENET_STD
from common.optimization.optimizer import in_memory_order
from common.processes import memory
from detect.data.batches import ImageBatch, Targets
from detect.network.retinanet import BatchedRetinaNet, build_retinanet
from detect.recipes import Detector

CLASSES = 20
OBJECTS = 5  # at most, in an image
RAW = (375, 500)
OURS, COMPILED = "ours", "ours, compiled"
STOCK, RAW_STOCK = "torchvision", "torchvision, 500x375"
CONVOLUTIONS, LOSSES, OPTIMIZER = "convolutions", "matching and losses, forward", "optimizer"
REST = "all else"
SHARE_OF_CANDIDATES = 1e-3  # of all scores lie above the threshold, as in a trained network


@dataclass(frozen=True)
class Case:
    """A network and a batch; `short` is the short side of the resized images, pixels."""

    body: str
    channels: int
    short: int
    batch: int
    rounds: int
    precision: Literal["fp32", "bf16"] = "fp32"
    raw: bool = True
    """Whether torchvision's is timed with images to resize as well."""
    photo: tuple[int, int] = RAW
    """Height and width of the images before they are resized."""
    published: tuple[float, str] | None = None
    """Images per second of others' training, and who says so."""


MLPERF = (283.0, "MLPerf Training, RetinaNet on ResNeXt-50 at 800x800, a GPU of an H100 machine")
CPU_CASES = {
    "small": Case("resnet18", 64, 160, 8, 15),
    "small-bf16": Case("resnet18", 64, 160, 8, 15, "bf16", raw=False),
    "256": Case("resnet50", 256, 256, 4, 5, raw=False),
}
GPU_CASES = {
    "608x1024": Case("resnet50", 256, 608, 16, 9, "bf16", raw=False, photo=(380, 640)),
    "800x800": Case("resnet50", 256, 800, 16, 9, "bf16", False, (500, 500), MLPERF),
}
TINY_CASE = Case("resnet18", 64, 64, 2, 1, "bf16")


@dataclass(frozen=True)
class Batch:
    """The same images and objects as each network takes them."""

    images: ImageBatch
    targets: Targets
    final: list[Tensor]
    final_targets: list[dict[str, Tensor]]
    raw: list[Tensor]
    raw_targets: list[dict[str, Tensor]]


def make_batch(case: Case, device: torch.device) -> Batch:
    """Draw images with 1 to 5 objects, and resize them as torchvision does."""
    generator = torch.Generator().manual_seed(0)
    raw = [torch.rand(3, *case.photo, generator=generator) for _ in range(case.batch)]
    height, width = (int(side * case.short / min(case.photo)) for side in case.photo)
    scale = torch.tensor([width / case.photo[1], height / case.photo[0]]).repeat(2)
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
        ImageBatch(pixels.to(device), torch.tensor([[height, width]] * case.batch).to(device)),
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
    network.to(device).to(memory_format=torch.channels_last)
    return network


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


def precision(case: Case, device: torch.device) -> AbstractContextManager[Any]:
    """Return what both networks run in."""
    return torch.autocast(device.type, torch.bfloat16, enabled=case.precision == "bf16")


def training_step(
    case: Case, device: torch.device, network: nn.Module, *arguments: Any
) -> Callable[[], None]:
    """Return a step: forward, backward, SGD."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, fused=True)

    def step() -> None:
        with precision(case, device):
            losses = network(*arguments)
        sum(losses.values()).backward()
        with in_memory_order(optimizer):  # changes nothing for torchvision's plain weights
            optimizer.step()
        optimizer.zero_grad()

    return step


def inference(
    case: Case, device: torch.device, network: nn.Module, images: Any
) -> Callable[[], None]:
    """Return a call that detects on a batch."""

    @torch.inference_mode()
    def call() -> None:
        with precision(case, device):
            network(images)

    return call


def parts(step: Callable[[], None], network: Any, device: torch.device) -> dict[str, float]:
    """Profile a training step; return the seconds of its parts.

    On a GPU those of its kernels, and under "all else" the time in which it had none to run, too.
    Each kernel counts for the operation of the host that launched it; the profiler's rows of the
    device, which have the same names, would count it again.
    """
    cuda = device.type == "cuda"
    network.compute_loss = record_function(LOSSES)(network.compute_loss)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    try:
        with profile(activities=activities, acc_events=True) as profiled:  # else 2.11 warns
            total = elapsed(step, device).seconds
    finally:
        del network.compute_loss
    seconds = dict.fromkeys((CONVOLUTIONS, LOSSES, OPTIMIZER), 0.0)
    part_of = {"aten::convolution": CONVOLUTIONS, "aten::convolution_backward": CONVOLUTIONS}
    part_of |= {LOSSES: LOSSES, "Optimizer.step#SGD.step": OPTIMIZER}
    for event in profiled.key_averages():
        if event.key in part_of and event.device_type.name == "CPU":
            took = event.device_time_total if cuda else event.cpu_time_total
            seconds[part_of[event.key]] += took / 1e6
    return seconds | {REST: total - sum(seconds.values())}


def waits(step: Callable[[], None]) -> int:
    """Count how often a step on a GPU makes the host wait for it."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def compare_parts(
    case: Case, device: torch.device, calls: dict[str, Callable[[], None]], networks: dict[str, Any]
) -> list[Comparison]:
    """Time the parts of the training steps, a comparison each."""
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in networks}
    for number in range(case.rounds):
        for name in list(networks)[:: 1 if number % 2 else -1]:
            seen[name].append(parts(calls[name], networks[name], device))
    return [
        Comparison(
            case=f"of it {part}",
            seconds={name: [split[part] for split in splits] for name, splits in seen.items()},
        )
        for part in (CONVOLUTIONS, LOSSES, OPTIMIZER, REST)
    ]


def compare(case: Case, device: torch.device) -> Iterator[Comparison]:
    """Time a training step, its parts, and inference of one case."""
    batch, ours = make_batch(case, device), make_ours(case, device)
    spread_scores(ours, batch)
    stock = make_stock(case, ours, device)
    height, width = batch.images.sizes[0].tolist()
    kept = copy.deepcopy(ours.state_dict())
    train = partial(training_step, case, device)
    test = partial(inference, case, device)
    sides: dict[str, dict[str, Callable[[], None]]] = {
        "training step": {
            OURS: train(ours.train(), batch.images, batch.targets),
            STOCK: train(stock.train(), batch.final, batch.final_targets),
            RAW_STOCK: train(stock, batch.raw, batch.raw_targets),
        },
        "inference": {
            OURS: test(ours, batch.images),
            STOCK: test(stock, batch.final),
            RAW_STOCK: test(stock, batch.raw),
        },
    }
    for part, calls in sides.items():
        if not case.raw:
            del calls[RAW_STOCK]
        for network in (ours, stock):
            network.load_state_dict(kept)
            network.train(part == "training step")
        waited = ""
        if device.type == "cuda":
            waited = f"; the host waits {waits(calls[OURS])} times, {waits(calls[STOCK])} in stock"
        yield compare_calls(case, device, part, height, width, calls, waited)
        if part == "training step":
            yield from compare_parts(case, device, calls, {OURS: ours, STOCK: stock})


def compare_calls(
    case: Case,
    device: torch.device,
    part: str,
    height: int,
    width: int,
    calls: dict[str, Callable[[], None]],
    waited: str = "",
) -> Comparison:
    """Time what was made for one case in turn."""
    with Work() as work:
        calls[OURS]()
    turns = take_turns(calls, case.rounds, device, warm_up=1)
    bounds = floors(work, rates(device))
    if device.type == "cpu" and case.precision == "bf16":
        bounds = Bounds()  # a CPU's product is timed in float32
    return Comparison(
        case=f"{part}: {case.body}, {case.channels} channels, "
        f"{case.batch} of {height}x{width}, {case.precision}{waited}",
        **vars(turns),
        faster={STOCK: 1.15} if STOCK in calls else {},
        **bounds,
        images=case.batch,
        published=case.published if part == "training step" else None,
    )


def compare_compiled(case: Case, device: torch.device, *, tiny: bool) -> Comparison:
    """Time a training step of ours compiled beside the eager one."""
    batch = make_batch(case, device)
    height, width = batch.images.sizes[0].tolist()
    networks = {OURS: make_ours(case, device), COMPILED: make_ours(case, device)}
    if tiny:
        for part in (networks[COMPILED].backbone, networks[COMPILED].head):
            part.compile(backend="eager")
    else:
        networks[COMPILED].compile_parts()
    calls = {
        name: training_step(case, device, network.train(), batch.images, batch.targets)
        for name, network in networks.items()
    }
    first = elapsed(calls[COMPILED], device).seconds
    compared = compare_calls(case, device, "training step", height, width, calls)
    return replace(compared, notes={COMPILED: f"first step {duration(first)}"})


def choose(settings: Settings) -> list[Case]:
    """Return the cases of this machine, or the one that is named.

    Raises:
        InputError: If there is no such case.
    """
    known = CPU_CASES if settings.device.type == "cpu" else GPU_CASES
    if settings.tiny:
        return [TINY_CASE]
    if settings.network is None:
        return list(known.values())
    if settings.network not in known:
        raise InputError(
            f"retinanet has no case {settings.network}: choose from {', '.join(known)}"
        )
    return [known[settings.network]]


def run(settings: Settings) -> Iterator[Comparison]:
    """Run the cases of this machine; memory is kept as in a training."""
    if settings.device.type == "cpu":
        memory.keep_freed_memory()
    cases = choose(settings)
    for case in cases:
        if settings.compiled:
            yield compare_compiled(case, settings.device, tiny=settings.tiny)
        else:
            yield from compare(case, settings.device)
    if not settings.compiled:
        for case in cases:
            side = -(-case.short // 32) * 32
            images = torch.randn(case.batch, 3, side, side, device=settings.device)
            yield compare_norms(
                case.body,
                images.to(memory_format=torch.channels_last),
                case.rounds,
                partial(precision, case, settings.device),
                case.precision,
            )
