"""A replayed step by itself; whole steps are in test_loop.py and test_cuda_graphs.py."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from common.images.sampling import MicroBatch
from common.method.draws import image_keys
from common.processes.ranks import World
from common.training.epoch_means import EpochSums
from common.training.steps import Steps

IMAGES = torch.zeros(3, 1)


@pytest.mark.parametrize("focus", [False, True])
@pytest.mark.parametrize("batch", [(IMAGES, IMAGES), [IMAGES, IMAGES], IMAGES])
@pytest.mark.parametrize("full", [False, True])
def test_keys_go_before_a_tuple_where_the_method_is_on(focus: bool, batch: Any, full: bool) -> None:
    seen: list[tuple[Any, bool, bool]] = []
    checked: list[tuple[int, int]] = []

    def replay(batch: Any, *, participating: bool, full: bool) -> dict[str, torch.Tensor]:
        seen.append((batch, participating, full))
        return {"loss": torch.tensor(2.0)}

    steps = object.__new__(Steps)
    vars(steps).update(
        _graphed=replay,
        _sampling=SimpleNamespace(is_full=lambda step: full and step == 7, seed=5),
        _state=SimpleNamespace(focus=focus or None, step=7, sums=EpochSums()),
        _finite=SimpleNamespace(check=lambda sums, step: checked.append((sums.images, step))),
        _optimization=SimpleNamespace(compile=False),
        _world=World(torch.device("cpu")),
    )
    plan = [MicroBatch(0, np.array([4, 5, 6]), 1.0, first=2)]
    steps._replay(plan, iter([batch]), participating=True)
    ((given, participating, whole),) = seen
    assert (participating, whole) == (True, full)
    if focus and isinstance(batch, tuple):
        keys, *rest = given
        assert torch.equal(keys, image_keys(5, 7, 2, 3)) and tuple(rest) == batch
    else:
        assert given is batch
    assert checked == [(3, 7)] and steps._state.sums.means() == {"loss": 2.0}
