"""Means over the images of an epoch, without waiting for the device at each step."""

import math
from typing import Any

import torch
from torch import Tensor

from common.processes.ranks import sum_over_ranks


class EpochSums:
    """Sums over the images of an epoch, on the device until they are asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._images = 0

    def add(self, means: dict[str, Tensor], images: int, *, count: bool = True) -> None:
        """Add the means over some images."""
        for name, value in means.items():
            if name not in self._sums:
                self._sums[name] = torch.zeros_like(value, dtype=torch.float64)
            self._sums[name].add_(value.detach(), alpha=images)
        self._images += images if count else 0

    @property
    def images(self) -> int:
        """Images of this rank so far."""
        return self._images

    def means(self) -> dict[str, float]:
        """Return this rank's means; waits for the device."""
        return {name: value / max(1, self._images) for name, value in self._read().items()}

    def means_over_ranks(self) -> dict[str, float]:
        """Return the means over the images of all ranks."""
        if not self._sums:
            return {}
        *totals, images = self._totals()
        return {
            name: value / max(1, images) for name, value in zip(self._sums, totals, strict=True)
        }

    def _totals(self) -> list[float]:
        """Sum over the ranks; the number of images comes last."""
        values = torch.stack(list(self._sums.values()))
        totals = torch.cat((values, values.new_tensor([self._images])))
        return list(sum_over_ranks(totals).tolist())

    def non_finite(self) -> list[str]:
        """Name the sums that are NaN or infinite; waits for the device."""
        return [name for name, value in self._read().items() if not math.isfinite(value)]

    def _read(self) -> dict[str, float]:
        """Bring all sums from the device at once."""
        if not self._sums:
            return {}
        values: list[float] = torch.stack(list(self._sums.values())).tolist()
        return dict(zip(self._sums, values, strict=True))

    def state(self) -> dict[str, Any]:
        """Return the sums over all ranks, plain values for a checkpoint."""
        if not self._sums:
            return {"images": 0, "sums": {}}
        *totals, images = self._totals()
        return {"images": int(images), "sums": dict(zip(self._sums, totals, strict=True))}

    def restore(self, state: dict[str, Any], device: torch.device, *, is_main: bool) -> None:
        """Take over the values of `state` on one rank; the others start from zero."""
        self._images = state["images"] if is_main else 0
        self._sums = {
            name: torch.tensor(value if is_main else 0.0, dtype=torch.float64, device=device)
            for name, value in state["sums"].items()
        }
