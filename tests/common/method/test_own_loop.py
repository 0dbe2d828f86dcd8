"""The library as its user meets it: in a loop of one's own."""

import copy
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from common import FocusedDropout, FocusedTraining, focused_dropout, insert_after


def test_the_eight_lines_on_a_plain_network() -> None:
    model = resnet18(num_classes=3)
    keys = list(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)

    x = torch.rand(4, 3, 32, 32)
    y = focused_dropout(x, 0.45, opposite=False)
    assert (y.shape, y.dtype) == (x.shape, x.dtype) and not torch.equal(x, y)

    layer = FocusedDropout(gamma=(0.3, 0.6), opposite=False)
    insert_after(model, "layer3", layer)
    focus = FocusedTraining(model, optimizer, participation_rate=0.1, weight_decay=1e-3, seed=0)
    assert list(model.state_dict()) == keys
    assert layer in model.modules() and not layer.active

    masked_maps = []
    model.layer4.register_forward_pre_hook(
        lambda module, inputs: masked_maps.append((inputs[0] == 0).all(dim=1).any().item())
    )
    labels = torch.randint(3, (4,))
    took_part, losses = [], []
    for step in range(25):
        assert focus.participates(step) == (step in (13, 20))
        with focus.step(step) as participating:
            loss = nn.functional.cross_entropy(model(x), labels)
            optimizer.zero_grad()
            loss.backward()
            assert optimizer.param_groups[0]["weight_decay"] == (1e-3 if participating else 1e-4)
            optimizer.step()
        took_part.append(participating)
        losses.append(loss.item())
        assert not layer.active and optimizer.param_groups[0]["weight_decay"] == 1e-4

    assert [step for step, taken in enumerate(took_part) if taken] == [13, 20]
    assert masked_maps == took_part  # whole places are zero in just those steps
    assert losses[-1] < losses[0]
    report = focus.end_epoch()
    assert report["steps"] == 25 and report["participating_steps"] == 2 and report["images"] == 8

    plain = resnet18(num_classes=3)
    plain.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(plain.eval()(x), model.eval()(x))


def test_steps_that_do_not_take_part_train_as_without_the_method() -> None:
    plain = resnet18(num_classes=3)
    focused = copy.deepcopy(plain)
    insert_after(focused, "layer3", FocusedDropout())
    x, labels = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    for model in (plain, focused):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=1e-4)
        focus = FocusedTraining(focused, optimizer) if model is focused else None
        for step in range(3):
            with focus.step(step) if focus else nullcontext():
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), labels).backward()
                optimizer.step()
    for ours, theirs in zip(focused.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("own", ["common/__init__.py", "common/helpers.py", "detect.py"])
def test_a_folder_or_module_of_ones_own_may_be_called_so(tmp_path: Path, own: str) -> None:
    """The installed package, `focused_dropout`, stands for itself."""
    method = Path(__file__).parents[3] / "common/method"
    installed, mine = tmp_path / "installed", tmp_path / "mine"
    installed.mkdir()
    (installed / "focused_dropout").symlink_to(method)
    (mine / own).parent.mkdir(parents=True)
    (mine / own).write_text("mine = True\n")
    name = own.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    lines = f"import {name} as own, focused_dropout as f; print(own.mine, f.FocusedDropout())"
    done = subprocess.run(
        [sys.executable, "-c", lines],
        cwd=mine,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("True FocusedDropout"), done.stderr
