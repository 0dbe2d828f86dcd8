"""A training step of the detector waits for no value and no copy; a GPU need not idle."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection.retinanet import RetinaNet

from common.images.decoding import IMAGENET_MEAN, IMAGENET_STD
from detect.data.batches import ImageBatch, Targets
from detect.network.retinanet import BatchedRetinaNet, build_retinanet
from detect.recipes import Detector


class NoCopyBetweenDevices(TorchDispatchMode):
    """Raises where a tensor goes from the host to the device, or back."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten._to_copy.default and result.device != args[0].device:
            raise AssertionError(f"copied from {args[0].device} to {result.device}")
        return result


def network(**settings: Any) -> BatchedRetinaNet:
    chosen = Detector(fpn_channels=32, **settings)
    return build_retinanet(chosen, "resnet18", 20, IMAGENET_MEAN, IMAGENET_STD)


def batch() -> tuple[ImageBatch, Targets]:
    images = ImageBatch(torch.zeros(2, 3, 64, 96, dtype=torch.uint8), torch.tensor([[64, 90]] * 2))
    boxes = torch.tensor([[[4.0, 4.0, 60.0, 50.0], [30.0, 20.0, 90.0, 60.0]]] * 2)
    valid = torch.tensor([[True, True], [False, False]])
    return images, Targets(boxes, torch.tensor([[19, 3], [0, 0]]), valid)


@pytest.mark.parametrize("box_loss", ["l1", "giou"])
@pytest.mark.parametrize("loss_normalizer", ["image", "batch"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_value_is_waited_for_and_nothing_is_copied(
    box_loss: str, loss_normalizer: str, device: str
) -> None:
    with FakeTensorMode():  # tensors without values, on a device that need not be there
        with torch.device(device):  # not for the steps: what they make without one is the host's
            ours = network(box_loss=box_loss, loss_normalizer=loss_normalizer)
            inputs = batch()
        ours(*inputs)  # makes the anchors of this shape
        with NoCopyBetweenDevices():
            losses = ours(*inputs)
            if device == "cpu":  # autograd asks a GPU that is not there
                sum(losses.values()).backward()
                assert ours.head.classification_head.cls_logits.weight.grad is not None
    assert {loss.device.type for loss in losses.values()} == {device}


def stock() -> RetinaNet:
    backbone = nn.Conv2d(3, 32, 3, stride=8, padding=1)
    backbone.out_channels = 32
    return RetinaNet(backbone, 20)


def as_stock_takes_it(images: ImageBatch, targets: Targets) -> tuple[list[Tensor], Any]:
    objects = zip(targets.boxes, targets.labels, strict=True)
    return [image / 255 for image in images.pixels], [
        {"boxes": boxes, "labels": labels} for boxes, labels in objects
    ]


def test_torchvisions_step_waits_for_values_and_copies() -> None:
    with FakeTensorMode():
        with torch.device("cuda"):
            theirs, inputs = stock(), as_stock_takes_it(*batch())
        with NoCopyBetweenDevices(), pytest.raises(AssertionError, match="copied from cpu"):
            theirs(*inputs)
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            theirs(*inputs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="counts what a GPU is waited for")
def test_a_step_on_a_gpu_never_waits() -> None:
    def to_gpu(tensors: ImageBatch | Targets) -> Any:
        return type(tensors)(*(tensor.cuda() for tensor in vars(tensors).values()))

    ours = network().cuda().to(memory_format=torch.channels_last)
    inputs = [to_gpu(part) for part in batch()]
    parameters = [parameter for parameter in ours.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, fused=True)

    def step(model: nn.Module, *arguments: Any) -> None:
        with torch.autocast("cuda", torch.bfloat16):
            losses = model(*arguments)
        sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad()

    step(ours, *inputs)
    theirs, lists = stock().cuda(), as_stock_takes_it(*inputs)
    step(theirs, *lists)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(ours, *inputs)
        with pytest.raises(RuntimeError, match="synchroniz"):
            step(theirs, *lists)
    finally:
        torch.cuda.set_sync_debug_mode("default")
