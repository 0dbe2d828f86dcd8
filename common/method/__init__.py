"""FocusedDropout (arXiv 2103.15425): the layer, its place in a network, and its training.

Needs torch alone. An installed distribution holds it under its own name as well:
`from focused_dropout import FocusedDropout`.
"""

from .dropout import FocusedDropout, focus_mask, focused_dropout
from .focused_training import FocusedTraining
from .placement import insert_after, penultimate_stage, remove_focused_dropout

__all__ = [
    "FocusedDropout",
    "FocusedTraining",
    "focus_mask",
    "focused_dropout",
    "insert_after",
    "penultimate_stage",
    "remove_focused_dropout",
]
