"""What a participating step switches on, restores and reports."""

import copy
import inspect
import pickle
import re
import warnings
from collections.abc import Iterable
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from common import FocusedDropout, FocusedTraining, focused_dropout
from common.method.draws import derived
from common.method.focused_training import participates
from common.method.magnified import Magnified


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), FocusedDropout(0.5), nn.Conv2d(4, 2, 3))


def sgd(model: nn.Module, weight_decay: float = 1e-4) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=weight_decay)


def layer_of(model: nn.Module) -> FocusedDropout:
    (layer,) = (module for module in model.modules() if isinstance(module, FocusedDropout))
    return layer


def first_step(focus: FocusedTraining, taking_part: bool) -> int:
    return next(step for step in range(1000) if focus.participates(step) == taking_part)


# --------------------------------------------------------------------------- layers and decay


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda decay: pickle.loads(pickle.dumps(decay))]
)
def test_copies_of_a_magnified_decay_are_the_decay_that_it_stands_for(copied: Any) -> None:
    decay = Magnified(0.5, base=0.125)
    assert decay == 0.5
    assert copied(decay) == 0.125 and type(copied(decay)) is float


def test_on_in_participating_steps_only() -> None:
    model = network()
    layer = layer_of(model)
    weights = [p for p in model.parameters() if p.ndim > 1]
    biases = [p for p in model.parameters() if p.ndim == 1]
    groups: list[dict[str, Any]] = [
        {"params": weights[:1]},
        {"params": weights[1:], "weight_decay": 5e-4},
        {"params": biases, "weight_decay": 0},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, weight_decay=1e-4)
    base = [1e-4, 5e-4, 0]
    focus = FocusedTraining(model, optimizer, 0.2, weight_decay=2e-3, seed=3)
    seen: set[bool] = set()
    for step in range(50):
        with focus.step(step) as participating:
            assert participating is focus.participates(step)
            assert layer.active is participating
            expected = [2e-3, 2e-3, 0] if participating else base
            assert decays(optimizer) == expected
        assert layer.active is False and decays(optimizer) == base
        seen.add(participating)
    assert seen == {True, False}


def decays(optimizer: torch.optim.Optimizer) -> list[float]:
    return [group["weight_decay"] for group in optimizer.param_groups]


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("error", [Interrupted, KeyboardInterrupt])
def test_restored_after_an_exception(error: type[BaseException]) -> None:
    model = network()
    optimizer = sgd(model)
    focus = FocusedTraining(model, optimizer)
    step = first_step(focus, taking_part=True)
    with pytest.raises(error), focus.step(step):
        assert decays(optimizer) == [1e-3]
        raise error
    assert decays(optimizer) == [1e-4] and layer_of(model).active is False
    assert optimizer.state_dict()["param_groups"][0]["weight_decay"] == 1e-4
    with focus.step(step) as participating:  # and it continues
        assert participating and decays(optimizer) == [1e-3]


def test_no_state_dict_ever_holds_the_magnified_decay() -> None:
    model = network()
    optimizer = sgd(model)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "weight_decay": 0})
    focus = FocusedTraining(model, optimizer)
    taking, resting = first_step(focus, True), first_step(focus, False)
    for step in (resting, taking):
        with focus.step(step):
            train_once(model, optimizer)
            inside = copy.deepcopy(optimizer.state_dict())
            assert decays(optimizer) == ([1e-3, 0] if step == taking else [1e-4, 0])
        for state in (inside, optimizer.state_dict()):
            assert [group["weight_decay"] for group in state["param_groups"]] == [1e-4, 0]
    resumed = sgd(model, weight_decay=7)
    resumed.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    resumed.load_state_dict(inside)
    assert decays(resumed) == [1e-4, 0]


def train_once(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.rand(2, 3, 8, 8)).square().mean().backward()
    optimizer.step()


def test_a_step_inside_a_step() -> None:
    model = network()
    optimizer = sgd(model)
    focus = FocusedTraining(model, optimizer)
    step = first_step(focus, taking_part=True)
    with focus.step(step):
        with pytest.raises(RuntimeError, match="does not nest"), focus.step(step):
            pass
        assert layer_of(model).active and decays(optimizer) == [1e-3]
    assert not layer_of(model).active and decays(optimizer) == [1e-4]


def test_decay_only_leaves_the_layers_off() -> None:
    model = network()
    optimizer = sgd(model)
    focus = FocusedTraining(model, optimizer, decay_only=True)
    both = FocusedTraining(model, sgd(model))
    with focus.step(first_step(focus, taking_part=True)) as participating:
        assert participating and layer_of(model).active is False and decays(optimizer) == [1e-3]
    assert decays(optimizer) == [1e-4]
    assert [focus.participates(s) for s in range(500)] == [both.participates(s) for s in range(500)]


def test_without_a_weight_decay_only_the_layers_change() -> None:
    model = network()
    optimizer = sgd(model)
    focus = FocusedTraining(model, optimizer, weight_decay=None)
    with focus.step(first_step(focus, taking_part=True)) as participating:
        assert participating and layer_of(model).active is True and decays(optimizer) == [1e-4]
    assert decays(optimizer) == [1e-4]


@pytest.mark.parametrize("momentum", [0.1, None])
def test_frozen_statistics_are_of_whole_maps(momentum: float | None) -> None:
    """BatchNorm's are moved by hand in the steps without the layer; the weights are the same."""
    torch.manual_seed(0)
    start = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), FocusedDropout(0.5), nn.BatchNorm2d(4, momentum=momentum)
    )
    plain, frozen = copy.deepcopy(start), copy.deepcopy(start)
    batches = [torch.rand(2, 3, 8, 8) for _ in range(30)]
    mean, seen = torch.zeros(4), 0
    for model, freeze in ((plain, False), (frozen, True)):
        optimizer = sgd(model)
        focus = FocusedTraining(model, optimizer, 0.3, seed=3, freeze_bn_stats=freeze)
        norm = model[-1]
        assert isinstance(norm, nn.BatchNorm2d)
        for step, batch in enumerate(batches):
            with torch.no_grad():
                whole = model[1](model[0](batch)).mean(dim=(0, 2, 3))
            with focus.step(step) as participating:
                optimizer.zero_grad()
                model(batch).sigmoid().mean().backward()
                optimizer.step()
            if freeze and not participating:
                seen += 1
                share = 1 / seen if momentum is None else momentum  # None: the plain average
                mean = (1 - share) * mean + share * whole
    assert 0 < seen < 30
    for ours, theirs in zip(frozen.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    torch.testing.assert_close(frozen[-1].running_mean, mean)
    assert not torch.allclose(frozen[-1].running_mean, plain[-1].running_mean)


def test_frozen_statistics_compile_to_two_graphs() -> None:
    model = nn.Sequential(network(), nn.BatchNorm2d(2))
    focus = FocusedTraining(model, sgd(model), 0.5, freeze_bn_stats=True)
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    images, seen = torch.rand(2, 3, 8, 8), set()
    for step in range(8):
        before = model[1].running_mean.clone()
        with focus.step(step) as participating:
            compiled(images)
        assert torch.equal(before, model[1].running_mean) is participating
        seen.add(participating)
    assert seen == {True, False} and counter.frame_count == 2


def test_statistics_move_again_after_an_exception() -> None:
    model = nn.Sequential(network(), nn.BatchNorm2d(2))
    focus = FocusedTraining(model, sgd(model), freeze_bn_stats=True)
    with pytest.raises(Interrupted), focus.step(first_step(focus, taking_part=True)):
        assert not model[1].track_running_stats
        raise Interrupted
    assert model[1].track_running_stats


def test_every_layer_of_a_model_takes_part_in_the_same_steps() -> None:
    first, second = network(), network()
    model = nn.Sequential(first, second)
    focus = FocusedTraining(model, sgd(model))
    for step in range(100):
        with focus.step(step) as participating:
            assert layer_of(first).active is participating
            assert layer_of(second).active is participating


@pytest.mark.parametrize("steps_per_epoch", [None, 10])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_parameters_equal_sgd_written_out(momentum: float, steps_per_epoch: int | None) -> None:
    """Thirty steps: g = gradient + decay(t) p;  v = momentum v + g;  p = p - lr v."""
    lr, base, magnified, rate, seed = 0.05, 1e-2, 0.3, 0.3, 1
    model = network().double()
    p: dict[str, Tensor] = {n: v.detach().clone() for n, v in model.named_parameters()}
    v = {name: torch.zeros_like(value) for name, value in p.items()}
    weights = [value for name, value in model.named_parameters() if name.endswith("weight")]
    biases = [value for name, value in model.named_parameters() if name.endswith("bias")]
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": base},
        {"params": biases},
    ]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum)
    focus = FocusedTraining(
        model, optimizer, rate, magnified, seed, steps_per_epoch=steps_per_epoch
    )
    batches = torch.rand(30, 2, 3, 8, 8, dtype=torch.float64)

    taking = [participates(rate, seed, step, steps_per_epoch) for step in range(30)]
    assert 5 <= sum(taking) <= 15
    for step, x in enumerate(batches):
        with focus.step(step):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()

        for value in p.values():
            value.requires_grad_()
        maps = nn.functional.conv2d(x, p["0.weight"], p["0.bias"]).relu()
        if taking[step]:
            maps = focused_dropout(maps, 0.5)
        loss = nn.functional.conv2d(maps, p["3.weight"], p["3.bias"]).square().mean()
        gradients = dict(zip(p, torch.autograd.grad(loss, list(p.values())), strict=True))
        for name, gradient in gradients.items():
            decay = 0.0
            if name.endswith("weight"):
                decay = magnified if taking[step] else base
            v[name] = momentum * v[name] + gradient + decay * p[name].detach()
            p[name] = p[name].detach() - lr * v[name]

    for name, value in model.named_parameters():
        torch.testing.assert_close(value.detach(), p[name], rtol=1e-12, atol=1e-14)


def test_gradient_accumulation_has_one_decision_a_step() -> None:
    model = network()
    optimizer = sgd(model)
    focus = FocusedTraining(model, optimizer, participation_rate=0.5)
    taking = 0
    for step in range(10):
        with focus.step(step) as participating:
            optimizer.zero_grad()
            for _ in range(4):
                assert layer_of(model).active is participating
                model(torch.rand(2, 3, 8, 8)).square().mean().backward()
            optimizer.step()
        taking += participating
    assert 0 < taking < 10
    report = focus.end_epoch()
    assert report["steps"] == 10 and report["participating_steps"] == taking
    assert report["images"] == taking * 4 * 2


def test_what_is_not_said() -> None:
    """The rate of the paper, the best decay of its Figure 6c, seed 0, each step by its own draw."""
    model = network()
    focus = FocusedTraining(model, sgd(model))
    assert (focus.participation_rate, focus.weight_decay, focus.seed) == (0.1, 1e-3, 0)
    assert focus.steps_per_epoch is None
    given = inspect.signature(FocusedTraining).parameters
    last = [(name, given[name].default) for name in list(given)[-3:]]
    assert last == [("steps_per_epoch", None), ("decay_only", False), ("freeze_bn_stats", False)]


@pytest.mark.parametrize("rate", [0, 0.0, 1, 1.0])
def test_the_ends_of_the_ranges_are_allowed(rate: float) -> None:
    model = network()
    focus = FocusedTraining(model, sgd(model, 0.25), rate, 0.25, steps_per_epoch=1)
    assert focus.participates(7) is (rate == 1)
    with pytest.warns(UserWarning, match=r"decay 0\.0 is below the optimizer's own 0\.25"):
        zero = FocusedTraining(model, optimizer := sgd(model, 0.25), 1.0, 0.0)
    with zero.step(0):
        assert decays(optimizer) == [0.0]
    assert decays(optimizer) == [0.25]


def test_what_was_switched_by_hand_is_so_again() -> None:
    """A layer that was on; a BatchNorm that keeps no statistics; and a seed of another type."""
    model = nn.Sequential(
        *network(), nn.BatchNorm2d(2, track_running_stats=False), nn.BatchNorm2d(2)
    )
    focus = FocusedTraining(model, sgd(model), 1.0, seed=torch.tensor(7), freeze_bn_stats=True)  # type: ignore[arg-type]
    assert type(focus.seed) is int and focus.seed == 7
    layer_of(model).active = True
    with focus.step(0):
        assert [norm.track_running_stats for norm in model[-2:]] == [False, False]
    assert layer_of(model).active
    assert [norm.track_running_stats for norm in model[-2:]] == [False, True]
    alone = FocusedTraining(model, sgd(model), 1.0, decay_only=True, freeze_bn_stats=True)
    with alone.step(0):
        assert model[-1].track_running_stats  # the layers are off: every map is whole


def test_a_resting_step_may_lie_inside_a_participating_one() -> None:
    model = network()
    focus = FocusedTraining(model, optimizer := sgd(model))
    taking, resting = first_step(focus, True), first_step(focus, False)
    with focus.step(taking), focus.step(resting) as participating:
        assert not participating and layer_of(model).active and decays(optimizer) == [1e-3]


def test_each_layer_has_keys_of_its_own() -> None:
    model = nn.Sequential(*(FocusedDropout() for _ in range(3)), nn.Conv2d(1, 1, 1))
    focus = FocusedTraining(model, sgd(model))
    keys = torch.tensor([5, 2**32 - 1])
    focus.draw_from(keys)
    expected = [keys, derived(keys, -1), derived(keys, -2)]
    assert [layer.keys.tolist() for layer in focus.layers] == [e.tolist() for e in expected]
    focus.draw_from(None)
    assert [layer.keys for layer in focus.layers] == [None] * 3


def test_counts_are_taken_and_restored() -> None:
    """Those of an older checkpoint lack the last of a layer's five."""
    model = nn.Sequential(*(FocusedDropout(0.5, signed=True) for _ in range(2)), nn.Conv2d(1, 1, 1))
    focus = FocusedTraining(model, sgd(model), 0.5)
    x = torch.tensor([[[[4.0, 3.0, 2.0, 1.0]]], [[[-1.0, -2.0, -3.0, -4.0]]]])
    for step in range(10):
        with focus.step(step):
            model(x)
    taking = sum(focus.participates(step) for step in range(10))
    kept, images = 6 * taking, 2 * taking
    totals = [kept, 8 * taking, taking, images, taking]
    counts = focus.counts()
    assert counts == {"seen": 10, "took_part": taking, "totals": [totals, totals]}
    report = focus.end_epoch()
    assert focus.counts() == {"seen": 0, "took_part": 0, "totals": [[0] * 5] * 2}
    focus.restore_counts(counts | {"totals": [totals[:4], totals]})
    assert focus.counts()["totals"] == [[*totals[:4], 0], totals]
    assert focus.end_epoch() == report
    with pytest.raises(ValueError, match="zip"):
        focus.restore_counts(counts | {"totals": [totals]})


# --------------------------------------------------------------------------- reports and errors


def test_report_of_an_epoch() -> None:
    layers = [FocusedDropout(0.5, opposite=o, signed=True) for o in (False, True)]
    model = nn.Sequential(*layers, nn.Conv2d(1, 1, 1))
    focus = FocusedTraining(model, sgd(model))
    taking = [step for step in range(120) if focus.participates(step)]
    x = torch.tensor([[[[4.0, 4.0, 4.0, 0.0]]], [[[-1.0, -1.0, -1.0, -1.0]]]])
    for step in range(120):
        with focus.step(step):
            model(x)
    # First layer: 3 of 4 units kept, and all 4 for lack of an area. The second sees the masked
    # maps: its area is the first three places, so it keeps 1 of 4, and again all 4.
    assert focus.end_epoch() == {
        "steps": 120,
        "participating_steps": len(taking),
        "images": 2 * 2 * len(taking),
        "unmasked_images": 2 * len(taking),
        "keep_ratio": (7 / 8 + 5 / 8) / 2,
        "zeros_ratio": 1 - (7 / 8 + 5 / 8) / 2,
    }
    assert focus.end_epoch() == {
        "steps": 0,
        "participating_steps": 0,
        "images": 0,
        "unmasked_images": 0,
        "keep_ratio": None,
        "zeros_ratio": None,
    }


def run_without_participation(focus: FocusedTraining, steps: int, start: int = 0) -> None:
    resting = (step for step in range(start, 10_000) if not focus.participates(step))
    for step in islice(resting, steps):
        with focus.step(step):
            pass


def test_an_epoch_without_participation_is_an_error_where_chance_cannot_explain_it() -> None:
    model = network()
    focus = FocusedTraining(model, sgd(model))
    run_without_participation(focus, 196)  # 0.9^196 = 1.07e-9
    assert focus.end_epoch()["participating_steps"] == 0
    run_without_participation(focus, 197, 300)  # 0.9^197 = 0.97e-9
    with pytest.raises(RuntimeError, match=re.escape("none of 197 steps took part at a rate of")):
        focus.end_epoch()
    run_without_participation(focus, 196, 600)  # counted anew
    assert focus.end_epoch()["steps"] == 196


def test_one_participating_step_is_enough() -> None:
    model = network()
    focus = FocusedTraining(model, sgd(model))
    run_without_participation(focus, 500)
    with focus.step(first_step(focus, taking_part=True)):
        pass
    assert focus.end_epoch()["participating_steps"] == 1


def test_a_rate_of_zero_is_no_error() -> None:
    model = network()
    focus = FocusedTraining(model, sgd(model), participation_rate=0)
    for step in range(1000):
        with focus.step(step):
            pass
    assert focus.end_epoch()["participating_steps"] == 0


def test_a_model_without_the_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with pytest.raises(ValueError, match="Sequential has no FocusedDropout layer among its 3 mod"):
        FocusedTraining(model, sgd(model))
    focus = FocusedTraining(model, sgd(model), decay_only=True)
    with focus.step(first_step(focus, taking_part=True)) as participating:
        assert participating
    assert focus.end_epoch()["keep_ratio"] is None


def groups_without_decay(model: nn.Module) -> Iterable[torch.optim.Optimizer]:
    yield sgd(model, weight_decay=0)
    yield torch.optim.LBFGS(model.parameters())  # knows no weight decay at all


def test_warns_when_no_group_has_a_decay() -> None:
    model = network()
    for optimizer in groups_without_decay(model):
        before = copy.deepcopy(optimizer.state_dict()["param_groups"])
        with pytest.warns(UserWarning, match="no parameter group has a weight decay") as caught:
            focus = FocusedTraining(model, optimizer)
        assert caught[0].filename == __file__  # points at the user's line
        with focus.step(first_step(focus, taking_part=True)):
            assert optimizer.state_dict()["param_groups"] == before
            assert layer_of(model).active
        assert optimizer.state_dict()["param_groups"] == before
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            FocusedTraining(model, optimizer, weight_decay=None)


def test_warns_of_the_optimizer_of_another_network() -> None:
    model, other = network(), network()
    with pytest.warns(UserWarning, match="holds no parameter of the network") as caught:
        FocusedTraining(model, sgd(other))
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FocusedTraining(model, [sgd(other), sgd(model)])  # as a GAN's two are


def test_warns_when_the_magnified_decay_is_the_smaller_one() -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())  # its default decay is 1e-2
    with pytest.warns(UserWarning, match=r"0\.001 is below the optimizer's own 0\.01") as caught:
        FocusedTraining(model, optimizer)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"participation_rate": -0.1}, r"participation_rate must lie in \[0, 1\], not -0.1"),
        ({"participation_rate": 1.1}, r"participation_rate must lie in \[0, 1\], not 1.1"),
        ({"participation_rate": float("nan")}, "participation_rate must lie in"),
        ({"weight_decay": -1e-3}, "weight_decay must be a finite number >= 0, not -0.001"),
        ({"weight_decay": float("inf")}, "weight_decay must be a finite number >= 0"),
        ({"weight_decay": float("nan")}, "weight_decay must be a finite number >= 0"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be at least 1, not 0"),
        ({"steps_per_epoch": 4}, "a rate of 0.1 rounds to no step of 4 an epoch"),
        ({"decay_only": True, "weight_decay": None}, "would do nothing"),
    ],
)
def test_wrong_arguments(arguments: dict[str, float], message: str) -> None:
    model = network()
    with pytest.raises(ValueError, match=message):
        FocusedTraining(model, sgd(model), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_layers_are_found_in_a_wrapped_model(wrap: type[nn.Module]) -> None:
    model = network()
    focus = FocusedTraining(wrap(model), sgd(model))
    assert focus.layers == [layer_of(model)]


def test_adamw_gets_the_magnified_decay_too() -> None:
    """Decoupled: a step shrinks the weights by lr * decay, here the whole change."""
    weight = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.01)
    focus = FocusedTraining(nn.Identity(), optimizer, 1.0, weight_decay=0.2, decay_only=True)
    with focus.step(0):
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full_like(weight, 1 - 0.1 * 0.2))
