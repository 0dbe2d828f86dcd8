"""Which training steps use FocusedDropout, and the magnified weight decay (MWD) of those steps.

Paper: arXiv 2103.15425, section 4: a random 10% of the batches take part, and on just those batches
the weight decay is raised. Nothing here holds state: what happens at step t is a function of
(seed, t), the same on every rank, on resume and in any order.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from .arguments import check_flag, check_module, check_number, whole_number
from .controls import InParticipatingSteps
from .draws import derived
from .dropout import FocusedDropout
from .magnified import (
    Magnified,
    hide_magnified_decay,
    innermost_of,
    warn_of_no_magnification,
    warn_of_strangers,
)
from .participation import participates
from .restarts import Restarts

_CHANCE = 1e-9
"""An epoch without participation is an error where it is less likely than this."""
_SURE = 3
"""After so many participating steps without a pass of the network there is no doubt."""


class FocusedTraining:
    """The method, for a training loop of one's own.

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
        optimizer: Any torch optimizer, also wrapped by Accelerate, Lightning or timm's Lookahead,
            or a list of several. Groups with a weight decay of zero keep zero.
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

    Attributes:
        layers: The FocusedDropout layers that it switches; found anew in each participating step.
        optimizers: Those given, each without its wrappers; `optimizer` is the first.

    Raises:
        TypeError: If `model` is no module, `optimizer` neither a torch optimizer nor a list of
            them, or another argument of a wrong type.
        ValueError: If the model has no FocusedDropout and not `decay_only`, if nothing was asked
            for, or if a number is out of range.

    Warns:
        UserWarning: If the decay is to be magnified and no parameter group has one, or one has a
            larger one, or if the optimizer holds no parameter of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        participation_rate: float = 0.1,
        weight_decay: float | None = 1e-3,
        seed: int = 0,
        *,
        steps_per_epoch: int | None = None,
        decay_only: bool = False,
        freeze_bn_stats: bool = False,
    ) -> None:
        self.optimizers = innermost_of(optimizer)
        check_module("model", model)
        check_number("participation_rate", participation_rate)
        if not 0 <= participation_rate <= 1:
            raise ValueError(f"participation_rate must lie in [0, 1], not {participation_rate}")
        if weight_decay is not None:
            check_number("weight_decay", weight_decay)
            if not 0 <= weight_decay < math.inf:
                raise ValueError(f"weight_decay must be a finite number >= 0, not {weight_decay}")
        if steps_per_epoch is not None:
            steps_per_epoch = whole_number("steps_per_epoch", steps_per_epoch)
            if steps_per_epoch < 1:
                raise ValueError(f"steps_per_epoch must be at least 1, not {steps_per_epoch}")
        check_flag("decay_only", decay_only)
        check_flag("freeze_bn_stats", freeze_bn_stats)
        exact = round(participation_rate * steps_per_epoch) if steps_per_epoch else None
        if exact == 0 and participation_rate > 0:
            raise ValueError(
                f"a rate of {participation_rate} rounds to no step of {steps_per_epoch} an epoch"
            )
        if decay_only and weight_decay is None:
            raise ValueError("decay_only without a weight_decay would do nothing")
        self.optimizer = self.optimizers[0]
        self._model = model
        self._decay_only = decay_only
        self._freeze = freeze_bn_stats and not decay_only
        self._find_modules()
        if not self.layers and not decay_only:
            raise ValueError(
                f"{type(model).__name__} has no FocusedDropout layer among its "
                f"{sum(1 for _ in model.modules())} modules: place one with insert_after, "
                "or ask for decay_only"
            )
        if weight_decay is not None:
            warn_of_no_magnification(self._groups(), weight_decay)
            warn_of_strangers(model, self._groups())
        self.participation_rate = participation_rate
        self.weight_decay = weight_decay
        self.seed = whole_number("seed", seed)
        self.steps_per_epoch = steps_per_epoch
        self._inside = False
        self._seen = self._took_part = self._repeats = 0
        self._last_step: int | None = None
        self._restarts = Restarts()
        self._looked_for_signs = self._told_of_decay = self._told_of_layers = False
        self._left_out = self._idle_before = 0
        self._stepped = self._owed = self._told_of_block = False
        for one in self.optimizers:
            one.register_state_dict_post_hook(hide_magnified_decay)
            one.register_step_post_hook(self._notice_optimizer_step)

    def _find_modules(self) -> None:
        """Look anew: a network may be changed after this was built, as SyncBatchNorm does."""
        modules = list(self._model.modules())
        self._found = [module for module in modules if isinstance(module, FocusedDropout)]
        self.layers = [] if self._decay_only else self._found
        self._rivals = [module for module in modules if isinstance(module, InParticipatingSteps)]
        norms = [module for module in modules if isinstance(module, _BatchNorm)]
        self._norms = [n for n in norms if n.track_running_stats] if self._freeze else []

    def _groups(self) -> list[dict[str, Any]]:
        return [group for one in self.optimizers for group in one.param_groups]

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
            UserWarning: Once each: after the first participating step, of signed maps, which reads
                a count from the device; if the steps start again, as within an epoch; if somebody
                set a weight decay inside the block (that value stays); if the layers are gone; if
                the network runs, or the optimizer makes its step, outside of the block.
        """
        participating = self.participates(step)
        if self._inside and participating:
            raise RuntimeError("FocusedTraining.step does not nest")
        self._count(step, participating)
        ran_outside = bool(self.layers) and self._idle_passes() > self._idle_before
        self._touch()
        self._idle_before = 0
        self._stepped = self._owed = False
        if not participating:
            try:
                yield False
            finally:
                self.draw_from(None)
                self._idle_before = self._idle_passes()
            return
        self._find_modules()
        switched: list[FocusedDropout | InParticipatingSteps] = [*self.layers, *self._rivals]
        were_active = [layer.active for layer in switched]
        norms, groups, self._inside = self._norms, self._groups(), True
        magnified: list[tuple[dict[str, Any], Magnified]] = []
        try:
            for layer in switched:
                layer.active = True
            for norm in norms:
                norm.track_running_stats = False
            if self.weight_decay is not None:
                for group in groups:
                    base = group.get("weight_decay", 0)
                    if base > 0:
                        group["weight_decay"] = Magnified(self.weight_decay, base)
                        magnified.append((group, group["weight_decay"]))
            yield True
        finally:
            for layer, active in zip(switched, were_active, strict=True):
                layer.active = active
            self.draw_from(None)
            for norm in norms:
                norm.track_running_stats = True
            changed = [g["weight_decay"] for g, ours in magnified if g["weight_decay"] is not ours]
            for group, ours in magnified:
                if group["weight_decay"] is ours:
                    group["weight_decay"] = ours.base
            self._inside = False
            ran_inside = any(layer._idle < 0 for layer in self.layers)
            self._touch()
        self._owed = bool(magnified) and not self._stepped
        self._warn_after_step(step, changed)
        if ran_outside and not ran_inside:
            self._warn_of_passes_outside()
        if not self._looked_for_signs:
            self._looked_for_signs = True
            for focused in self.layers:
                focused.warn_if_signed(stacklevel=3)  # this generator, contextlib, the user's line

    def draw_from(self, keys: Tensor | None) -> None:
        """Make the layers' draws from the keys of the images, instead of from torch's generator.

        So they do not depend on how many processes there are. Call it inside `step`, before each
        forward pass; it holds until the end of the block.

        ```python
        with focus.step(step):
            first = rank * len(images)  # of the batch over all processes
            focus.draw_from(image_keys(seed, step, first, len(images)).to(images.device))
        ```

        Args:
            keys: One for each image of the batch that comes, as
                `common.method.draws.image_keys` makes them, on its device; None: the generator.
        """
        for number, layer in enumerate(self.layers):
            layer.keys = keys if keys is None or number == 0 else derived(keys, -number)

    def _count(self, step: int, participating: bool) -> None:
        if step == self._last_step:  # another micro-batch
            self._repeats += 1
            return
        self._last_step = step
        self._seen += 1
        self._took_part += participating
        if self._restarts.notice(step):
            warnings.warn(
                f"the steps start again at {step}, as within an epoch, so the same ones take part "
                "each time: give focus.step a step that counts up over the whole training",
                stacklevel=4,  # this, the generator, contextlib, the user's line
            )

    def _touch(self) -> None:
        """Let the layers know that somebody decides for them, on or off."""
        for layer in self._found:
            layer._idle = 0

    def _idle_passes(self) -> int:
        """Count the passes in training, and switched off, that layers made since the last touch."""
        return sum(max(layer._idle, 0) for layer in self._found)

    def _warn_after_step(self, step: int, changed: list[float]) -> None:
        """Tell, once, what went past the method in a participating step."""
        if changed and not self._told_of_decay:
            self._told_of_decay = True
            warnings.warn(
                f"a weight decay was set to {changed[0]:g} inside the block of step {step}, so it "
                "was not magnified; it stays as it was set: set it before the block instead",
                stacklevel=4,
            )
        if not self.layers and not self._decay_only and not self._told_of_layers:
            self._told_of_layers = True
            warnings.warn(
                f"{type(self._model).__name__} has no FocusedDropout any more, so only the decay "
                "changes: insert one, or build a FocusedTraining with decay_only",
                stacklevel=4,
            )

    def _warn_of_passes_outside(self) -> None:
        """Tell, once, of a network that runs between the blocks instead."""
        self._left_out += 1
        if self._left_out == _SURE and not any(layer.totals[3] for layer in self.layers):
            warnings.warn(
                "the network runs outside the blocks of focus.step, so FocusedDropout is never on: "
                "put the forward and backward pass and the optimizer's step into the block",
                stacklevel=4,
            )

    def _notice_optimizer_step(self, optimizer: Optimizer, *_: Any) -> None:
        """Tell, once, of an optimizer that makes the step of a participating block behind it."""
        if torch.compiler.is_compiling():
            return
        self._stepped = True
        if self._owed and not self._told_of_block:
            self._told_of_block = True
            warnings.warn(
                "the optimizer made its step outside the block of focus.step, so its weight decay "
                "was not magnified: put optimizer.step() into the block",
                stacklevel=3,  # torch's wrapper, the user's line
            )

    def end_epoch(self) -> dict[str, float | int | None]:
        """Report on the steps since the last call, and reset the counts.

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
        self._restarts.end_epoch()
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
        """Continue counting from what `counts` returned; participation itself needs no state."""
        self._seen, self._took_part = counts["seen"], counts["took_part"]
        for layer, totals in zip(self.layers, counts["totals"], strict=True):
            layer.totals[: len(totals)].copy_(torch.tensor(totals))  # older checkpoints have fewer
