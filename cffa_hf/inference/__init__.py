"""A model at work.

Read embedder.py (images and captions -> vectors), modes.py (evaluation with the layers of the device, and back),
chosen_tokens.py (which patches and words it chose) and views.py (those patches as pixels).
"""

from cffa_hf.inference.chosen_tokens import Selection, select
from cffa_hf.inference.embedder import Embedder
from cffa_hf.inference.modes import evaluation_mode

__all__ = [
    "Embedder",
    "Selection",
    "evaluation_mode",
    "select",
]
