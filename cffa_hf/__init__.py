"""Text-based person retrieval with CFFA on the Hugging Face stack.

The model classes are here at once; everything else is imported when it is asked for.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from cffa_hf.errors import InputError
from cffa_hf.version import VERSION

__version__ = VERSION


def _is_command() -> bool:
    """Tell whether this process is `cffa-hf` or `python -m cffa_hf.cli`, which needs no model for its help."""
    words = getattr(sys, "argv", [""]) or [""]
    as_module = getattr(sys, "orig_argv", [])[1:3] == ["-m", "cffa_hf.cli"] and words[0] == "-m"
    return Path(words[0]).stem == "cffa-hf" or as_module


# A command imports the model when it is about to run, so that help and mistakes are printed at once.
if not _is_command():
    from cffa_hf.auto_classes import CFFAConfig, CFFAForPreTraining, CFFAModel, CFFAOutput

# Public name -> the module that it is in.
LAZY = {
    "CFFATrainer": "training",
    "CFFATrainingArguments": "arguments",
    "Embedder": "inference",
    "Gallery": "search",
    "RetrievalEvaluator": "evaluation",
    "convert": "checkpoints",
    "load_person_dataset": "data",
    "match_ranks": "metrics",
    "model_for": "training",
    "open_checkpoint": "checkpoints",
    "publish_model": "publishing",
    "retrieval_metrics": "metrics",
}

__all__ = ["CFFAConfig", "CFFAForPreTraining", "CFFAModel", "CFFAOutput", "InputError", "__version__", *LAZY]


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'cffa_hf' has no attribute {name!r}")
    value = getattr(import_module(f"cffa_hf.{LAZY.get(name, 'auto_classes')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, also those that are not imported yet."""
    return sorted({*globals(), *__all__})
