"""Weights -> models: other people's are converted, ours are opened whole or not at all.

Read files.py and folders.py (weights and configs, read without running anything), names.py and originals.py (what
other people call theirs), conversion.py, saved_processor.py, tokenizer.py, opening.py, provenance.py (where a
checkpoint comes from).
"""

from cffa_hf.checkpoints.conversion import Conversion, account, convert
from cffa_hf.checkpoints.files import read_state_dict
from cffa_hf.checkpoints.opening import open_model
from cffa_hf.checkpoints.provenance import Checkpoint, open_checkpoint, weights_digest

__all__ = [
    "Checkpoint",
    "Conversion",
    "account",
    "convert",
    "open_checkpoint",
    "open_model",
    "read_state_dict",
    "weights_digest",
]
