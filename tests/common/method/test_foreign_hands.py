"""The method in loops and tools of others: what goes past it is noticed, what is legitimate is not.

Warnings are errors in these tests: whatever is not expected here fails.
"""

import copy
import io
import itertools
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from common import FocusedDropout, FocusedTraining, insert_after, remove_focused_dropout

Optimizer = torch.optim.Optimizer


def network(opposite: bool = False) -> nn.Sequential:
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)
    )
    insert_after(model, "0", FocusedDropout(0.5, opposite))
    return model.train()


class Plain(nn.Module):
    """Its layer needs a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)
        insert_after(self, "act", FocusedDropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.act(self.first(x)))
        return out


def layers_of(model: nn.Module) -> list[FocusedDropout]:
    return [module for module in model.modules() if isinstance(module, FocusedDropout)]


def driven(rate: float = 0.1, **options: Any) -> tuple[nn.Sequential, Optimizer, FocusedTraining]:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    return model, optimizer, FocusedTraining(model, optimizer, rate, **options)


def decays(optimizer: Optimizer) -> list[float]:
    return [group["weight_decay"] for group in optimizer.param_groups]


# --------------------------------------------------------------------------- steps

END = "end of an epoch"
Log = Iterable[int | str]


def go(log: Log) -> None:
    """Take the steps of a log."""
    _, _, focus = driven()
    for step in log:
        if isinstance(step, str):
            focus.end_epoch()
        else:
            with focus.step(step):
                pass


def epochs(first: int, steps: int, number: int, end: bool = True) -> list[int | str]:
    return [*range(first, first + steps), *([END] if end else [])] * number


WITHIN_AN_EPOCH: dict[str, Log] = {
    "batch index": epochs(0, 12, 2),
    "counted from 1": epochs(1, 50, 2),
    "without end_epoch": epochs(0, 12, 3, end=False),
    "optimizer steps of accumulation": [s for e in range(2) for s in [0, 0, 1, 1, 2, 2, END]],
    "resumed in the middle": [*range(7, 12), END, *epochs(0, 12, 2)],
    "epochs of two lengths": [*range(12), END, *range(11), END],
    "after a whole count": [*range(300), END, *range(300), END],
}


@pytest.mark.parametrize("name", WITHIN_AN_EPOCH)
def test_steps_that_start_again_each_epoch(name: str) -> None:
    with pytest.warns(UserWarning, match=r"steps start again at [01], .* the whole train") as seen:
        go(WITHIN_AN_EPOCH[name])
    assert len(seen) == 1 and seen[0].filename == __file__  # once, and the user's line


LEGITIMATE: dict[str, Log] = {
    "over the whole training": [s for e in range(9) for s in [*range(9 * e, 9 * e + 9), END]],
    "a resume": [*range(100, 130), END, *range(130, 150), END],
    "accumulation": [s for e in range(4) for s in [2 * e, 2 * e, 2 * e + 1, 2 * e + 1, END]],
    "one step a whole epoch": [s for e in range(5) for s in [*[e] * 20, END]],
    "a step tried again": [0, 1, 1, 1, 2, 3, 3, END, 4, 4, 5],
    "back to a checkpoint, again and again": [*range(30), *range(20, 30), *range(20, 40), END],
    "back to the checkpoint of an epoch": [*range(24), END, *range(12, 24), END, *range(12, 36)],
    "back to the beginning after epochs": [*range(9), END, *range(9, 18), END, *range(9), END],
    "back to the beginning within an epoch": [*range(5), *range(9), END, *range(9, 20), END],
    "a size of batch looked for": [0, 1, 0, 0, 1, 2, 0, 1, 2, 3, END, 4],
    "reports every few steps": [*range(5), END, *range(5, 10), END, END, *range(10, 15), END],
    "some steps left out": [0, 2, 4, END, 6, 8, 10, END],
    "counts that begin at 2": epochs(2, 12, 3),
    "counts that begin alike and end otherwise": [*range(5), *range(6), *range(5), *range(6)],
}


@pytest.mark.parametrize("name", LEGITIMATE)
def test_steps_that_are_right(name: str) -> None:
    go(LEGITIMATE[name])


# --------------------------------------------------------------------------- decay


def test_a_decay_that_is_set_inside_a_block_stays_and_is_told() -> None:
    model, optimizer, focus = driven(1.0)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    used: list[float] = []
    optimizer.register_step_pre_hook(lambda o, *_: used.append(o.param_groups[0]["weight_decay"]))
    for step, decay in enumerate((4e-4, 5e-4, 6e-4)):
        if step:
            with focus.step(step):
                optimizer.param_groups[0]["weight_decay"] = decay
                optimizer.step()
        else:
            message = r"set to 0\.0004 inside the .* step 0"
            with pytest.warns(UserWarning, match=message) as seen, focus.step(step):
                optimizer.param_groups[0]["weight_decay"] = decay
                optimizer.step()
            assert len(seen) == 1 and seen[0].filename == __file__
        assert decays(optimizer) == [decay, 1e-4]  # the other group's is given back
    assert used == [4e-4, 5e-4, 6e-4]


def test_the_value_that_is_set_may_equal_the_magnified_one() -> None:
    _, optimizer, focus = driven(1.0, weight_decay=1e-3)
    with pytest.warns(UserWarning, match="set to 0.001 inside"), focus.step(0):
        optimizer.param_groups[0]["weight_decay"] = 1e-3
    assert decays(optimizer) == [1e-3]


def test_a_schedule_before_the_block_is_magnified_and_kept() -> None:
    _, optimizer, focus = driven(1.0)
    for step, decay in enumerate((4e-4, 5e-4)):
        optimizer.param_groups[0]["weight_decay"] = decay
        with focus.step(step):
            assert decays(optimizer) == [1e-3]
        assert decays(optimizer) == [decay]


def test_a_resting_block_leaves_the_decay_to_whoever_sets_it() -> None:
    _, optimizer, focus = driven(0.0)
    with focus.step(0):
        optimizer.param_groups[0]["weight_decay"] = 0.5
    assert decays(optimizer) == [0.5]


def test_an_exception_is_not_hidden_behind_the_warning() -> None:
    _, optimizer, focus = driven(1.0)
    with pytest.raises(ZeroDivisionError), focus.step(0):
        optimizer.param_groups[0]["weight_decay"] = 0.5
        raise ZeroDivisionError
    assert decays(optimizer) == [0.5]


def through_a_file(optimizer: Optimizer) -> Any:
    file = io.BytesIO()
    torch.save(optimizer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Optimizer], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda optimizer: pickle.loads(pickle.dumps(optimizer)),
    "torch.save": through_a_file,
    "state dict": lambda optimizer: optimizer.state_dict(),
    "copied groups": lambda optimizer: copy.deepcopy(optimizer.param_groups),
    "state dict of a copy": lambda optimizer: copy.deepcopy(optimizer).state_dict(),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_made_inside_a_block_hold_the_base_decay(name: str) -> None:
    _, optimizer, focus = driven(1.0)
    with focus.step(0):
        assert decays(optimizer) == [1e-3]
        copied = COPIES[name](optimizer)
    groups = copied if isinstance(copied, list) else None
    groups = groups or (copied["param_groups"] if isinstance(copied, dict) else copied.param_groups)
    assert [group["weight_decay"] for group in groups] == [1e-4]
    assert type(groups[0]["weight_decay"]) is float


def test_a_state_that_is_loaded_inside_a_block_stays() -> None:
    _, optimizer, focus = driven(1.0)
    _, other, _ = driven()
    other.param_groups[0]["weight_decay"] = 3e-4
    with focus.step(0):
        optimizer.load_state_dict(other.state_dict())
    assert decays(optimizer) == [3e-4]


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize(
    "options", [{"foreach": True}, {"fused": True}, {"foreach": False}], ids=str
)
def test_every_kernel_takes_the_magnified_decay(kind: Any, options: dict[str, bool]) -> None:
    """Against the same optimizer with that decay from the start."""
    ours, theirs = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = kind([ours], lr=0.1, weight_decay=1e-4, **options)
    focus = FocusedTraining(nn.Identity(), optimizer, 1.0, 0.5, decay_only=True)
    ours.grad, theirs.grad = torch.ones(3), torch.ones(3)
    with focus.step(0):
        optimizer.step()
    kind([theirs], lr=0.1, weight_decay=0.5, **options).step()
    assert torch.equal(ours, theirs)


def test_several_optimizers() -> None:
    model = network()
    first, second = model[0].parameters(), model[2].parameters()
    optimizers = [
        torch.optim.SGD(first, lr=0.1, weight_decay=1e-4),
        torch.optim.AdamW(second, lr=0.1, weight_decay=5e-4),
    ]
    focus = FocusedTraining(model, optimizers, 1.0)
    with focus.step(0):
        assert [decays(optimizer) for optimizer in optimizers] == [[1e-3], [1e-3]]
        states = [optimizer.state_dict()["param_groups"][0] for optimizer in optimizers]
    assert [state["weight_decay"] for state in states] == [1e-4, 5e-4]
    assert [decays(optimizer) for optimizer in optimizers] == [[1e-4], [5e-4]]


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ([], "a list of them, not an empty list"),
        (network().parameters(), "a list of them, not a generator"),
        ({"a": 1}, "a list of them, not a dict"),
        (
            torch.optim.lr_scheduler.StepLR(torch.optim.SGD(network().parameters()), 1),
            "a list of them, not a StepLR",
        ),
    ],
    ids=["empty", "parameters", "dict", "scheduler"],
)
def test_what_is_no_optimizer(optimizer: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        FocusedTraining(network(), optimizer)


# --------------------------------------------------------------------------- what is in the block


def take_steps(focus: FocusedTraining, steps: int, forward: str, step: str) -> None:
    """Train, with the passes of the network and the optimizer's step inside the block or not."""
    model, x = focus._model, torch.rand(2, 3, 6, 6)
    for number in range(steps):
        focus.optimizer.zero_grad()
        if forward == "before":
            model(x).sum().backward()
        with focus.step(number):
            if forward == "inside":
                model(x).sum().backward()
            if step == "inside":
                focus.optimizer.step()
        if step == "behind":
            focus.optimizer.step()


def test_a_step_of_the_optimizer_behind_the_block_is_told() -> None:
    _, _, focus = driven(1.0)
    with pytest.warns(UserWarning, match=r"its step outside .*: put optimizer\.step\(\) into") as w:
        take_steps(focus, 4, "inside", "behind")
    assert len(w) == 1 and w[0].filename == __file__


def test_passes_before_the_block_are_told() -> None:
    model, _, focus = driven(1.0)
    take_steps(focus, 2, "before", "inside")  # not sure yet
    with pytest.warns(
        UserWarning, match="network runs outside the blocks .*: put the forward"
    ) as w:
        take_steps(focus, 4, "before", "inside")
    assert len(w) == 1 and w[0].filename == __file__
    assert layers_of(model)[0].statistics()["images"] == 0


def test_the_third_step_without_a_pass_leaves_no_doubt() -> None:
    """And not a third one of a network that has run inside of one before."""
    _, _, focus = driven(1.0)
    with pytest.warns(UserWarning, match="network runs outside the blocks"):
        take_steps(focus, 3, "before", "inside")
    _, _, focus = driven(1.0)
    take_steps(focus, 1, "inside", "inside")
    model, x = focus._model, torch.rand(2, 3, 6, 6)
    for number in range(1, 6):
        model(x)
        with focus.step(number):
            focus.optimizer.step()


def test_one_layer_of_several_that_runs_inside_is_enough() -> None:
    """As of a network with a head that some batches leave out: those steps are no doubt."""
    model = nn.Sequential(FocusedDropout(0.5), FocusedDropout(0.5), nn.Conv2d(1, 1, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-4)
    focus, x = FocusedTraining(model, optimizer, 1.0), torch.rand(1, 1, 4, 4)
    for step in range(2):
        model[0](x)
        with focus.step(step):
            model[0](x)
    focus.end_epoch()
    model[0](x)
    with focus.step(2):  # the first that has no pass inside
        pass


def test_keys_end_with_their_block() -> None:
    for rate in (0.0, 1.0):
        model, _, focus = driven(rate)
        with pytest.raises(ZeroDivisionError), focus.step(0):
            focus.draw_from(torch.arange(2))
            raise ZeroDivisionError
        assert layers_of(model)[0].keys is None


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_what_may_stand_outside_of_the_block(rate: float) -> None:
    model, optimizer, focus = driven(rate)
    x = torch.rand(2, 3, 6, 6)
    for number in range(8):
        model(x)  # such as statistics of BatchNorm
        with focus.step(number // 2):
            model(x).sum().backward()
            if number % 2:
                optimizer.step()
        with focus.step(100 + number):  # a scaler that found infinity makes none
            model(x).sum().backward()
        with pytest.raises(ZeroDivisionError), focus.step(200 + number):
            raise ZeroDivisionError
        optimizer.step()  # of a phase without the method
    _, optimizer, focus = driven(rate, weight_decay=None)
    take_steps(focus, 4, "inside", "behind")


# --------------------------------------------------------------------------- changed networks


def test_norms_that_were_converted_afterwards_are_frozen() -> None:
    model, _, focus = driven(1.0, freeze_bn_stats=True)
    nn.SyncBatchNorm.convert_sync_batchnorm(model)
    norm = model[1]
    assert isinstance(norm, nn.SyncBatchNorm)
    with focus.step(0):
        assert not norm.track_running_stats
    assert norm.track_running_stats


def test_layers_that_were_placed_afterwards_take_part() -> None:
    model, _, focus = driven(1.0)
    insert_after(model, "2", FocusedDropout(0.5))
    with focus.step(0):
        assert [layer.active for layer in layers_of(model)] == [True, True]
    assert [layer.active for layer in layers_of(model)] == [False, False]


def test_layers_that_were_taken_out() -> None:
    model, optimizer, focus = driven(1.0)
    remove_focused_dropout(model)
    with pytest.warns(UserWarning, match="Sequential has no FocusedDropout any more, so only the"):
        for step in range(3):
            with focus.step(step):
                assert decays(optimizer) == [1e-3]


def train(model: nn.Module, steps: int, focus: FocusedTraining | None = None) -> None:
    x = torch.rand(1, 3, 6, 6)
    for step in range(steps):
        if focus is None:
            model(x)
        else:
            with focus.step(step):
                model(x)


def test_a_layer_that_nobody_switches_on_is_told_once() -> None:
    model = network()
    train(model, 999)
    with pytest.warns(
        UserWarning, match="after '0' was never active in 1,000 training steps: "
    ) as w:
        train(model, 1001)
    assert len(w) == 1


def test_the_count_of_idle_steps_begins_anew_after_each_step_of_the_training() -> None:
    model, _, focus = driven(0.0)
    train(model, 3, focus)  # the last of them counts
    train(model, 998)
    with focus.step(3):
        train(model, 1)
    train(model, 998)
    with pytest.warns(UserWarning, match="never active in 1,000 training steps"):
        train(model, 1)


def test_a_copy_that_is_trained_instead_is_told() -> None:
    model, _, focus = driven(1.0)
    train(model, 3, focus)
    with pytest.warns(UserWarning, match="never active in 1,000 training steps"):
        train(copy.deepcopy(model), 1000)


def test_layers_that_rest_on_purpose_are_silent() -> None:
    for options in ({"participation_rate": 0.0}, {"decay_only": True}):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-4)
        train(model, 1100, FocusedTraining(model, optimizer, **options))  # type: ignore[arg-type]
    model = network()
    (layer,) = layers_of(model)
    layer.active = True  # by hand, as the text of the class says
    train(model, 1)
    layer.active = False
    train(model, 1100)
    train(model.eval(), 1100)


# --------------------------------------------------------------------------- other tools


@pytest.mark.filterwarnings(
    "ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning"
)
def test_scripts_of_an_evaluation() -> None:
    model, x = network().eval(), torch.rand(2, 3, 8, 8)
    scripted = torch.jit.script(model)
    assert torch.equal(scripted(x), model(x))
    with pytest.raises(torch.jit.Error, match="a scripted FocusedDropout cannot train: script the"):
        scripted.train()(x)
    hooked = Plain().eval()
    with pytest.raises(RuntimeError, match=r"hook of FocusedDropout after 'act': call remove_"):
        torch.jit.script(hooked)
    remove_focused_dropout(hooked)
    assert torch.equal(torch.jit.script(hooked)(x), hooked(x))


TRACES: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "fx": lambda model, x: torch.fx.symbolic_trace(model),
    "export": lambda model, x: torch.export.export(model, (x,)).module(),
}


@pytest.mark.parametrize("name", TRACES)
def test_a_trace_of_a_training_network_is_told(name: str) -> None:
    x = torch.rand(2, 3, 8, 8)
    with pytest.warns(UserWarning, match="keeps FocusedDropout after '0' off for good: trace in"):
        TRACES[name](network(), x)
    model = network().eval()
    assert torch.equal(TRACES[name](model, x)(x), model(x))  # and silent


@pytest.mark.parametrize("build", [network, Plain])
def test_transforms_of_functions(build: Callable[[], nn.Module]) -> None:
    """Gradients of each image by vmap, with the layer on, against one image at a time."""
    model = build().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    (layer,) = layers_of(model)
    layer.active = True
    weights, x = dict(model.named_parameters()), torch.rand(3, 3, 8, 8)

    def loss(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        out: Tensor = functional_call(model, weights, (image[None],)).square().sum()
        return out

    together = vmap(grad(loss), (None, 0), randomness="different")(weights, x)
    for index, image in enumerate(x):
        alone = torch.autograd.grad(loss(weights, image), list(weights.values()))
        for name, value in zip(weights, alone, strict=True):
            torch.testing.assert_close(together[name][index], value)


def test_copies_and_pickles_of_networks() -> None:
    x = torch.rand(2, 3, 8, 8)
    for build, copied in itertools.product(
        (network, Plain), (copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)))
    ):
        model = build().train()
        other = copied(model)
        optimizer = torch.optim.SGD(other.parameters(), lr=0.1, weight_decay=1e-4)
        focus = FocusedTraining(other, optimizer, 1.0)
        with focus.step(0):
            assert [layer.active for layer in layers_of(model)] == [False]
            other(x)
        assert focus.end_epoch()["images"] == 2
