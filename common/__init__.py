"""FocusedDropout (arXiv 2103.15425) and what both stages share.

The names below are loaded on first use: the help of a command must not wait for torch.
"""

from importlib import import_module
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.method import (
        FocusedDropout,
        FocusedTraining,
        focus_mask,
        focused_dropout,
        insert_after,
        penultimate_stage,
        remove_focused_dropout,
    )

# Installed, this is a regular package, which would hide the folder of that name of a user's own
# that has no __init__.py.
__path__ = extend_path(__path__, __name__)

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
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("common.method"), name)
