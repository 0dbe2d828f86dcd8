"""FocusedDropout (arXiv 2103.15425) and what both stages share.

The names below are loaded on first use: the help of a command must not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.dropout import FocusedDropout, focus_mask, focused_dropout, insert_after
    from common.focused_training import FocusedTraining

__all__ = ["FocusedDropout", "FocusedTraining", "focus_mask", "focused_dropout", "insert_after"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "common.focused_training" if name == "FocusedTraining" else "common.dropout"
    return getattr(import_module(module), name)
