"""`FocusedTraining` with the optimizers of torch and timm, wrapped, scaled and accumulated."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from timm.optim import create_optimizer_v2
from torch import nn
from torch.optim import Optimizer

from common import FocusedDropout, FocusedTraining, insert_after

Build = Callable[[nn.Module], Optimizer]
BASE, MAGNIFIED = 0.02, 0.3


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), FocusedDropout(0.5), nn.Conv2d(4, 2, 3))


def of_torch(kind: type[Optimizer], **settings: object) -> Build:
    return lambda model: kind(model.parameters(), lr=0.05, weight_decay=BASE, **settings)


def of_timm(name: str) -> Build:
    return lambda model: create_optimizer_v2(
        model, opt=name, lr=0.05, weight_decay=BASE, momentum=0.9
    )


OPTIMIZERS: dict[str, Build] = {
    f"torch {kind.__name__} {how}": of_torch(kind, **{how: True})  # type: ignore[arg-type]
    for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
    for how in ("foreach", "fused")
} | {
    f"timm {name}": of_timm(name)
    for name in ("sgd", "adamw", "lamb", "lion", "nadamw", "adopt", "lars", "lookahead_adamw")
}


def decays(optimizer: Optimizer) -> list[float]:
    return [group["weight_decay"] for group in optimizer.param_groups]


def first_step(focus: FocusedTraining, taking_part: bool) -> int:
    return next(step for step in range(1000) if focus.participates(step) == taking_part)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_decays_as_one_built_with_the_magnified_value(name: str) -> None:
    """Beside a twin whose groups are set by hand, over resting and participating steps."""
    model = network()
    model[2].opposite = True
    twin = copy.deepcopy(model)
    optimizer, other = OPTIMIZERS[name](model), OPTIMIZERS[name](twin)
    base = decays(optimizer)
    assert BASE in base and set(base) <= {0, BASE}
    if name.startswith("timm") and "look" not in name:
        assert 0 in base  # timm gives biases none
    focus = FocusedTraining(model, optimizer, 0.5, weight_decay=MAGNIFIED)
    taken = []
    for step in range(8):
        x = torch.rand(2, 3, 8, 8)
        with focus.step(step) as participating:
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
        assert decays(optimizer) == base
        twin[2].active = focus.participates(step)
        for group, decay in zip(other.param_groups, base, strict=True):
            group["weight_decay"] = MAGNIFIED if decay and focus.participates(step) else decay
        other.zero_grad()
        twin(x).square().sum().backward()
        other.step()
        taken.append(participating)
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.equal(ours, theirs)
    assert set(taken) == {True, False}, "both kinds of step were compared"


@pytest.mark.parametrize("name", ["timm sgd", "timm lookahead_adamw", "torch SGD fused"])
def test_state_dicts_and_loading(name: str) -> None:
    model = network()
    optimizer = OPTIMIZERS[name](model)
    base = decays(optimizer)
    focus = FocusedTraining(model, optimizer, weight_decay=MAGNIFIED)
    step = first_step(focus, taking_part=True)
    with focus.step(step):
        assert MAGNIFIED in decays(optimizer)
        inside = copy.deepcopy(optimizer.state_dict())
        assert [group["weight_decay"] for group in inside["param_groups"]] == base
    optimizer.load_state_dict(inside)  # brings new groups
    with focus.step(step):
        assert MAGNIFIED in decays(optimizer)
    assert decays(optimizer) == base


def test_wrapped_by_accelerate() -> None:
    accelerate = pytest.importorskip("accelerate", reason="an optional test dependency")
    model = network()
    inner = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=BASE)
    model, optimizer = accelerate.Accelerator(cpu=True).prepare(model, inner)
    assert optimizer is not inner
    check_wrapped(model, optimizer, inner)


def test_wrapped_by_lightning() -> None:
    core = pytest.importorskip("lightning.pytorch.core", reason="an optional test dependency")
    model = network()
    inner = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=BASE)
    check_wrapped(model, core.optimizer.LightningOptimizer(inner), inner)


def check_wrapped(model: nn.Module, optimizer: Optimizer, inner: Optimizer) -> None:
    focus = FocusedTraining(model, optimizer, weight_decay=MAGNIFIED)
    assert focus.optimizer is inner
    with focus.step(first_step(focus, taking_part=True)):
        assert decays(inner) == decays(optimizer) == [MAGNIFIED]
        assert inner.state_dict()["param_groups"][0]["weight_decay"] == BASE
    assert decays(inner) == [BASE]


@pytest.mark.parametrize(
    "names", [("optimizer", "_base_optimizer"), ("_base_optimizer", "optimizer")]
)
def test_a_wrapper_in_a_wrapper(names: tuple[str, str]) -> None:
    """As timm's Lookahead in what Accelerate prepares: the groups are one and the same list."""
    model = network()
    inner = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=BASE)
    wrapped: Optimizer = inner
    for name in names:
        outer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=BASE)
        outer.param_groups = inner.param_groups
        setattr(outer, name, wrapped)
        wrapped = outer
    check_wrapped(model, wrapped, inner)
    assert FocusedTraining(model, (wrapped,), weight_decay=MAGNIFIED).optimizers == [inner]


def test_a_magnified_decay_that_is_no_larger() -> None:
    """Equal is silent; the largest of the groups decides."""
    model = network()
    groups = [{"params": [p], "weight_decay": BASE * n} for n, p in enumerate(model.parameters())]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    FocusedTraining(model, optimizer, weight_decay=3 * BASE)
    with pytest.warns(UserWarning, match=r"decay 0\.059 is below the optimizer's own 0\.06: raise"):
        FocusedTraining(model, optimizer, weight_decay=0.059)


def test_an_optimizer_that_merely_holds_another_is_left_alone() -> None:
    model = network()
    outer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=BASE)
    outer.optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)  # type: ignore[attr-defined]
    assert FocusedTraining(model, outer, weight_decay=MAGNIFIED).optimizer is outer


@pytest.mark.parametrize("one_block", [True, False])
def test_loss_scaling_and_accumulation(one_block: bool) -> None:
    """Two micro-batches per step, in one block or in a block each; the first update overflows."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=BASE)
    focus = FocusedTraining(model, optimizer, 0.5, weight_decay=MAGNIFIED)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    updates: list[tuple[int, float, bool]] = []
    current = 0
    optimizer.register_step_pre_hook(
        lambda *_: updates.append((current, decays(optimizer)[0], model[2].active))
    )

    def micro_batch(step: int, last: bool) -> None:
        x = torch.rand(2, 3, 8, 8)
        scaler.scale(model(x).square().mean() * (torch.inf if step == 0 else 1)).backward()
        if last:
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()

    for current in range(6):
        if one_block:
            with focus.step(current):
                micro_batch(current, last=False)
                micro_batch(current, last=True)
        else:
            for last in (False, True):
                with focus.step(current):
                    micro_batch(current, last)
    takes = [focus.participates(step) for step in range(6)]
    assert updates == [(s, MAGNIFIED if takes[s] else BASE, takes[s]) for s in range(1, 6)]
    assert set(takes[1:]) == {True, False}, "both kinds of step were compared"
    report = focus.end_epoch()
    assert (report["steps"], report["participating_steps"]) == (6, sum(takes))
    assert report["images"] == 4 * sum(takes)


def test_a_step_that_does_not_count_is_told_from_micro_batches() -> None:
    model = network()
    focus = FocusedTraining(model, of_torch(torch.optim.SGD)(model), weight_decay=MAGNIFIED)
    resting = [step for step in range(100) if not focus.participates(step)][:51]
    for step in resting[:-1]:
        for _ in range(4):
            with focus.step(step):
                pass
    assert focus.end_epoch()["steps"] == 50
    for _ in range(197):
        with focus.step(resting[-1]):
            pass
    with pytest.raises(RuntimeError, match="none of 197 steps took part"):
        focus.end_epoch()


# --------------------------------------------------------------------------- signed maps


def train_on(maps: torch.Tensor, layer: FocusedDropout, place: bool = True) -> None:
    """Ten steps in which every one takes part."""
    model = nn.Sequential(nn.Identity(), nn.Conv2d(maps.shape[1], 2, 1))
    if place:
        insert_after(model, "0", layer)
    else:
        model.insert(1, layer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=BASE)
    focus = FocusedTraining(model, optimizer, 1.0, weight_decay=MAGNIFIED)
    for step in range(10):
        with focus.step(step):
            model(maps)


def test_signed_maps_warn_once_at_the_users_line() -> None:
    maps = torch.rand(3, 2, 4, 4)
    maps[1] -= 0.6  # between -0.6 and 0.4: below minus half the peak
    layer = FocusedDropout(0.5)
    with pytest.warns(UserWarning, match="after '0' meets signed maps .1 of 3 images") as caught:
        train_on(maps, layer)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert "place it behind the activation" in str(caught[0].message)
    with pytest.warns(UserWarning, match="^FocusedDropout meets signed maps"):
        train_on(maps, FocusedDropout(0.5), place=False)
    train_on(maps, FocusedDropout(0.5, signed=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_on(maps, layer, place=False)  # once per layer


@pytest.mark.parametrize(
    "activation",
    [nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.GELU(), nn.Hardswish(), nn.Mish(), nn.LeakyReLU()],
)
def test_outputs_of_activations_do_not_warn(activation: nn.Module) -> None:
    train_on(activation(torch.randn(64, 16, 8, 8)), FocusedDropout())  # warnings are errors
    train_on(torch.zeros(2, 2, 3, 3), FocusedDropout())


def test_what_is_signed_by_hand() -> None:
    """The reference channel alone decides; equal to minus the threshold is not below it."""
    images = torch.tensor(
        [
            [[4.0, 4.0, -2.0], [0.0, 0.0, -9.0]],
            [[4.0, 4.0, -2.1], [0.0, 0.0, 0.0]],
            [[-1.0, -1.0, -1.0], [-2.0, -2.0, -2.0]],
        ]
    )[:, :, None]
    layer = FocusedDropout(0.5)
    layer.active = True
    layer(images)
    with pytest.warns(UserWarning, match="2 of 3 images"):
        layer.warn_if_signed()
