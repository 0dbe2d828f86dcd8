"""Precision: where autocast is on, and what it keeps."""

from typing import Literal

import pytest
import torch

from common.optimization import autocast
from common.settings import Optimization

Precision = Literal["auto", "fp32", "bf16"]


def settings(precision: Precision, *, cuda_graphs: bool = False) -> Optimization:
    return Optimization(
        lr=0.1, batch_size=8, epochs=1, precision=precision, cuda_graphs=cuda_graphs
    )


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("auto", torch.float32), ("fp32", torch.float32), ("bf16", torch.bfloat16)],
)
def test_precision_on_a_cpu(precision: Precision, dtype: torch.dtype) -> None:
    layer = torch.nn.Linear(3, 3)
    with autocast(settings(precision), torch.device("cpu")):
        assert layer(torch.ones(2, 3)).dtype == dtype


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_casts_of_weights_are_not_kept_for_graphs(cuda_graphs: bool) -> None:
    with autocast(settings("bf16", cuda_graphs=cuda_graphs), torch.device("cpu")):
        assert torch.is_autocast_cache_enabled() == (not cuda_graphs)
