"""FocusedDropout (arXiv 2103.15425) and what both stages share.

The names below are loaded on first use: the help of a command must not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.dropout import FocusedDropout, focus_mask, focused_dropout
    from common.focused_training import FocusedTraining
    from common.placement import insert_after, penultimate_stage, remove_focused_dropout

_HOMES = {
    "FocusedDropout": "common.dropout",
    "FocusedTraining": "common.focused_training",
    "focus_mask": "common.dropout",
    "focused_dropout": "common.dropout",
    "insert_after": "common.placement",
    "penultimate_stage": "common.placement",
    "remove_focused_dropout": "common.placement",
}
__all__ = [
    "FocusedDropout",
    "FocusedTraining",
    "focus_mask",
    "focused_dropout",
    "insert_after",
    "penultimate_stage",
    "remove_focused_dropout",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
