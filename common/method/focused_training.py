"""Which training steps use FocusedDropout, and the magnified weight decay (MWD) of those steps.

Paper: arXiv 2103.15425, section 4: a random 10% of the batches take part, and on just those batches
the weight decay is raised. Nothing here holds state: what happens at step t is a function of
(seed, t), the same on every rank, on resume and in any order.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from hashlib import blake2b
from operator import index
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from .controls import InParticipatingSteps
from .dropout import FocusedDropout

_CHANCE = 1e-9
"""An epoch without participation is an error where it is less likely than this."""


def _uniform(seed: int, step: int) -> float:
    """Hash (seed, step) to [0, 1)."""
    digest = blake2b(f"{seed} {step}".encode(), digest_size=8, person=b"participates").digest()
    # 53 bits, the precision of a float: all 64 could round up to 1.
    return (int.from_bytes(digest, "big") >> 11) / 2**53


@lru_cache(maxsize=4)
def _exact_steps(rate: float, seed: int, epoch: int, steps_per_epoch: int) -> frozenset[int]:
    first = epoch * steps_per_epoch
    steps = range(first, first + steps_per_epoch)
    return frozenset(
        sorted(steps, key=lambda step: (_uniform(seed, step), step))[: round(rate * len(steps))]
    )


def participates(rate: float, seed: int, step: int, steps_per_epoch: int | None = None) -> bool:
    """Decide whether a step uses FocusedDropout.

    By default each step is drawn by itself, with probability `rate`. With `steps_per_epoch` = N
    exactly round(rate * N) of the N steps of each epoch take part.

    Args:
        rate: Participation rate, in [0, 1].
        seed: Any integer.
        step: Optimizer step, counted from 0 over the whole training.
        steps_per_epoch: Optimizer steps of an epoch, for an exact number of them.

    Raises:
        ValueError: If `step` is negative.
    """
    step = index(step)
    if step < 0:
        raise ValueError(f"steps count from 0; there is no step {step}")
    if steps_per_epoch is None:
        return _uniform(seed, step) < rate
    return step in _exact_steps(rate, seed, step // steps_per_epoch, steps_per_epoch)


def _warn_of_no_magnification(optimizer: Optimizer, weight_decay: float) -> None:
    largest = max(group.get("weight_decay", 0) for group in optimizer.param_groups)
    if largest == 0:
        warnings.warn(
            "no parameter group has a weight decay to magnify: give the optimizer one, "
            "or pass weight_decay=None",
            stacklevel=3,
        )
    elif largest > weight_decay:
        warnings.warn(
            f"the magnified weight decay {weight_decay} is below the optimizer's own {largest}: "
            "raise it (AdamW needs larger decays than SGD), or pass weight_decay=None",
            stacklevel=3,
        )


def _innermost(optimizer: Optimizer) -> Optimizer:
    """Find the optimizer inside the wrappers of Accelerate, Lightning and timm's Lookahead.

    It is the one that state dicts come from, and the one that keeps its groups when loaded anew.
    """
    for name in ("optimizer", "_base_optimizer"):
        inner = getattr(optimizer, name, None)
        if isinstance(inner, Optimizer) and inner.param_groups is optimizer.param_groups:
            return _innermost(inner)
    return optimizer


class FocusedTraining:
    """The method around one's own training loop.

    ```python
    insert_after(model, "layer3", FocusedDropout())
    focus = FocusedTraining(model, optimizer, participation_rate=0.1, weight_decay=1e-3, seed=0)
    for step, (images, labels) in enumerate(batches):
        with focus.step(step):
            loss = criterion(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    ```

    With gradient accumulation all micro-batches of an optimizer step lie inside one `step` block,
    or each in a block of its own with the same step.

    Args:
        model: The network; its FocusedDropout layers are found among `model.modules()`, and those
            that `common.method.controls.InParticipatingSteps` holds.
        optimizer: Any torch optimizer, also wrapped by Accelerate, Lightning or timm's Lookahead.
            Groups with a weight decay of zero keep zero.
        participation_rate: Share of steps that take part, in [0, 1]; the paper's is 0.1.
        weight_decay: Decay of the participating steps, absolute; 1e-3 is the best of the paper's
            Figure 6c (ResNet-56, CIFAR-100). None leaves the decay alone ("without MWD", Table 4).
        seed: Seed of the draw.
        steps_per_epoch: If given, exactly round(rate * steps) steps of each epoch take part.
        decay_only: Magnify the decay and leave the layers off, if there are any ("randomly MWD",
            Table 4).
        freeze_bn_stats: In participating steps BatchNorm keeps its running statistics as they are,
            so that they are of whole maps alone, like those of an evaluation. The weights are the
            same either way: training normalises by the batch. Not in the paper.

    Raises:
        ValueError: If the model has no FocusedDropout and not `decay_only`, if nothing was asked
            for, or if a number is out of range.

    Warns:
        UserWarning: If the decay is to be magnified and no parameter group has one, or one has a
            larger one.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        participation_rate: float = 0.1,
        weight_decay: float | None = 1e-3,
        seed: int = 0,
        *,
        steps_per_epoch: int | None = None,
        decay_only: bool = False,
        freeze_bn_stats: bool = False,
    ) -> None:
        if not 0 <= participation_rate <= 1:
            raise ValueError(f"participation_rate must lie in [0, 1], not {participation_rate}")
        if weight_decay is not None and not 0 <= weight_decay < math.inf:
            raise ValueError(f"weight_decay must be a finite number >= 0, not {weight_decay}")
        if steps_per_epoch is not None and steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch must be at least 1, not {steps_per_epoch}")
        exact = round(participation_rate * steps_per_epoch) if steps_per_epoch else None
        if exact == 0 and participation_rate > 0:
            raise ValueError(
                f"a rate of {participation_rate} rounds to no step of {steps_per_epoch} an epoch"
            )
        if decay_only and weight_decay is None:
            raise ValueError("decay_only without a weight_decay would do nothing")
        found = [module for module in model.modules() if isinstance(module, FocusedDropout)]
        if not found and not decay_only:
            raise ValueError(
                f"{type(model).__name__} has no FocusedDropout layer among its "
                f"{sum(1 for _ in model.modules())} modules: place one with insert_after, "
                "or ask for decay_only"
            )
        if weight_decay is not None:
            _warn_of_no_magnification(optimizer, weight_decay)
        self.layers = [] if decay_only else found
        self._rivals = [m for m in model.modules() if isinstance(m, InParticipatingSteps)]
        self._norms: list[_BatchNorm] = []
        if freeze_bn_stats and not decay_only:
            norms = (module for module in model.modules() if isinstance(module, _BatchNorm))
            self._norms = [norm for norm in norms if norm.track_running_stats]
        self.optimizer = _innermost(optimizer)
        self.participation_rate = participation_rate
        self.weight_decay = weight_decay
        self.seed = seed
        self.steps_per_epoch = steps_per_epoch
        self._base_decays: list[float] | None = None
        self._seen = self._took_part = self._repeats = 0
        self._last_step: int | None = None
        self._looked_for_signs = False
        self.optimizer.register_state_dict_post_hook(self._hide_magnified_decay)

    def participates(self, step: int) -> bool:
        """Tell whether optimizer step `step` takes part; a pure function of (seed, step)."""
        return participates(self.participation_rate, self.seed, step, self.steps_per_epoch)

    @contextmanager
    def step(self, step: int) -> Iterator[bool]:
        """Run one optimizer step, counted from 0, with the method on or off as the draw says.

        In a participating step every FocusedDropout is active and every group that has a weight
        decay gets the magnified one. All returns to what it was afterwards, on an exception too.

        Yields:
            Whether the step takes part.

        Raises:
            RuntimeError: If a participating block lies inside another one.

        Warns:
            UserWarning: After the first participating step, of signed maps; this reads a count from
                the device.
        """
        participating = self.participates(step)
        if step == self._last_step:  # another micro-batch
            self._repeats += 1
        else:
            self._last_step = step
            self._seen += 1
            self._took_part += participating
        if not participating:
            yield False
            return
        if self._base_decays is not None:
            raise RuntimeError("FocusedTraining.step does not nest")
        groups = self.optimizer.param_groups
        switched: list[FocusedDropout | InParticipatingSteps] = [*self.layers, *self._rivals]
        were_active = [layer.active for layer in switched]
        self._base_decays = [group.get("weight_decay", 0) for group in groups]
        try:
            for layer in switched:
                layer.active = True
            for norm in self._norms:
                norm.track_running_stats = False
            if self.weight_decay is not None:
                for group in groups:
                    if group.get("weight_decay", 0) > 0:
                        group["weight_decay"] = self.weight_decay
            yield True
        finally:
            for layer, active in zip(switched, were_active, strict=True):
                layer.active = active
            for norm in self._norms:
                norm.track_running_stats = True
            for group, decay in zip(groups, self._base_decays, strict=False):
                if "weight_decay" in group:
                    group["weight_decay"] = decay
            self._base_decays = None
        if not self._looked_for_signs:
            self._looked_for_signs = True
            for layer in self.layers:
                layer.warn_if_signed(stacklevel=3)  # this generator, contextlib, the user's line

    def end_epoch(self) -> dict[str, float | int | None]:
        """Report on the steps since the last call, and start counting anew.

        Reads the layers' counters, so it waits for the device once.

        Returns:
            `steps`, `participating_steps`, and over all layers `images`, `unmasked_images`,
            `keep_ratio` and `zeros_ratio` as `FocusedDropout.statistics` defines them (ratios are
            means over the layers).

        Raises:
            RuntimeError: If no step took part although so many were due that chance cannot explain
                it (probability below 1e-9; 197 steps at a rate of 0.1).
        """
        seen, took_part, repeats = self._seen, self._took_part, self._repeats
        self._seen = self._took_part = self._repeats = 0
        # One and the same step all the time is rather a step that does not count.
        due = seen + repeats if seen == 1 else seen
        if due and not took_part and (1 - self.participation_rate) ** due < _CHANCE:
            raise RuntimeError(
                f"none of {due} steps took part at a rate of {self.participation_rate}: "
                "does `focus.step(step)` get a step that counts up over the whole training?"
            )
        report: dict[str, float | int | None] = {"steps": seen, "participating_steps": took_part}
        statistics = [layer.statistics() for layer in self.layers]
        for layer in self.layers:
            layer.reset_statistics()
        kept = [s["keep_ratio"] for s in statistics if s["keep_ratio"] is not None]
        keep_ratio = sum(kept) / len(kept) if kept else None
        return report | {
            "images": sum(s["images"] for s in statistics),
            "unmasked_images": sum(s["unmasked_images"] for s in statistics),
            "keep_ratio": keep_ratio,
            "zeros_ratio": None if keep_ratio is None else 1 - keep_ratio,
        }

    def counts(self) -> dict[str, Any]:
        """Return what `end_epoch` will report on, as plain values for a checkpoint."""
        return {
            "seen": self._seen,
            "took_part": self._took_part,
            "totals": [layer.totals.tolist() for layer in self.layers],
        }

    def restore_counts(self, counts: dict[str, Any]) -> None:
        """Go on counting from what `counts` returned; participation itself needs no state."""
        self._seen, self._took_part = counts["seen"], counts["took_part"]
        for layer, totals in zip(self.layers, counts["totals"], strict=True):
            layer.totals[: len(totals)].copy_(torch.tensor(totals))  # older checkpoints have fewer

    def _hide_magnified_decay(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Keep the magnified decay out of a state dict taken inside a step."""
        if self._base_decays is not None:
            for group, decay in zip(state["param_groups"], self._base_decays, strict=False):
                if "weight_decay" in group:
                    group["weight_decay"] = decay
