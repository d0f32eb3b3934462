"""Weights -> models: those of other implementations are converted, ours are opened strictly.

Read files.py and folders.py (weights and configs, read without running anything), names.py and originals.py (the
names of other implementations), conversion.py, saved_processor.py, tokenizer.py, opening.py, provenance.py (where a
checkpoint comes from).
"""

import cffa_hf.auto_classes  # noqa: F401  (processors are opened by the model's type, which must be known)
from cffa_hf.checkpoints.conversion import Conversion, convert, summary
from cffa_hf.checkpoints.files import read_state_dict
from cffa_hf.checkpoints.opening import open_model
from cffa_hf.checkpoints.provenance import Checkpoint, open_checkpoint, weights_digest

__all__ = [
    "Checkpoint",
    "Conversion",
    "convert",
    "open_checkpoint",
    "open_model",
    "read_state_dict",
    "summary",
    "weights_digest",
]
