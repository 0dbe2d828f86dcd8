"""The benchmarks measure what they say; times themselves are never tested."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common import allocator
from detect.voc_score import score_voc
from pretrain.networks import build_network

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_synthetic_detections_are_of_the_stated_size_and_partly_right(bench: ModuleType) -> None:
    truth, detections = bench.synthetic(40, 2000)
    assert len(truth.image_ids) == 40
    assert len(truth.box) == 120
    assert len(detections.score) == 2000
    assert (detections.box[:, 2:] > detections.box[:, :2]).all()
    result = score_voc(truth, detections)
    assert 0.2 < np.mean(result.overlap >= 0.5) < 0.8


def test_the_rate_is_that_of_the_steps_after_the_warm_up(bench: ModuleType) -> None:
    """Three steps of 128 images from 10 s to 16 s; when the last one ended is not known."""
    assert bench.images_per_second([0.0, 8.0, 10.0, 11.0, 12.0, 16.0], 2) == 3 * 128 / 6


@pytest.mark.parametrize("name", ["plain", "ours", "ours-bf16"])
def test_loops_do_the_same_work(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """One update of all weights a step, on normalised float32 images; logits in the precision."""
    monkeypatch.setattr(allocator, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(bench, "BATCH", 8)
    networks: list[nn.Module] = []
    images: list[Tensor] = []
    logits: list[Tensor] = []

    def note(network: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        assert network.training
        images.append(inputs[0])
        logits.append(output)

    def build(*arguments: Any) -> nn.Module:
        torch.manual_seed(1)
        networks.append(build_network(*arguments))
        networks[0].register_forward_hook(note)
        return networks[0]

    monkeypatch.setattr(bench, "build_network", build)
    starts = bench.LOOPS[name](bench.random_images(24))
    assert len(starts) == len(images) == 3
    assert starts == sorted(starts)
    torch.manual_seed(1)
    fresh = build_network("cifar-resnet20", 10).state_dict()
    trained = networks[0].state_dict()
    assert trained.keys() == fresh.keys()
    assert not any(torch.equal(trained[key], value) for key, value in fresh.items())
    assert trained["bn1.num_batches_tracked"] == 3
    assert {(batch.shape, batch.dtype) for batch in images} == {((8, 3, 32, 32), torch.float32)}
    pixels = torch.cat(images)
    inside = pixels[:, :, 8:24, 8:24]  # no crop has its border here
    # Even bytes have a mean of 0.5 and a deviation of 0.289 before CIFAR-10 is normalised away.
    assert torch.allclose(inside.mean(dim=(0, 2, 3)), torch.tensor([0.035, 0.073, 0.205]), atol=0.1)
    assert torch.allclose(inside.std(dim=(0, 2, 3)), torch.tensor([1.17, 1.19, 1.11]), atol=0.05)
    precision = torch.bfloat16 if name == "ours-bf16" else torch.float32
    assert {output.dtype for output in logits} == {precision}
