"""A model at work.

Read modes.py (evaluation and back) and chosen_tokens.py (which patches and words it chose).
"""

from cffa_hf.inference.chosen_tokens import Selection, select
from cffa_hf.inference.modes import evaluation_mode

__all__ = [
    "Selection",
    "evaluation_mode",
    "select",
]
