"""Asking all ranks together whether one of them wants something, by time and not by steps."""

import time

import torch

from common.processes.ranks import World, max_over_ranks

SECONDS = 1.0
"""Time between two questions, where steps are shorter. Launchers grant tens of seconds."""
MOST_STEPS = 100
"""Steps between two questions, however short they are: the next ones may be longer."""


class Polling:
    """Knows at which steps to ask; asks after every step where steps take long.

    A question makes ranks wait for each other, and a GPU's host for the GPU. When the next one is
    due must be the same on all ranks, whose clocks differ, or they would wait for ever. So each
    question takes along how long the steps took, and all go by the slowest rank.

    Args:
        world: This process among its peers.
        step: Steps done.
    """

    def __init__(self, world: World, step: int) -> None:
        self._world = world
        self._asked, self._next = step, step + 1
        self._clock = time.monotonic()

    def ask(self, step: int, *wishes: bool) -> list[bool]:
        """Tell which wishes any rank has; none before the time to ask has come.

        A single process is always asked.

        Args:
            step: Steps done, the same on all ranks.
            wishes: Of this rank.
        """
        if self._world.size == 1:
            return list(wishes)
        if step < self._next:
            return [False] * len(wishes)
        mine = [(time.monotonic() - self._clock) / (step - self._asked), *map(float, wishes)]
        values = torch.tensor(mine, dtype=torch.float64, device=self._world.device)
        seconds, *answers = max_over_ranks(values).tolist()
        self._asked, self._clock = step, time.monotonic()
        self._next = step + max(1, min(MOST_STEPS, int(SECONDS / max(seconds, 1e-9))))
        return [answer > 0 for answer in answers]
