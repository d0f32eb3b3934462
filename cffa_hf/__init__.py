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

_words = getattr(sys, "argv", [""]) or [""]
# `cffa-hf --help` and `cffa-hf --version` need no model: without one they start at once.
if Path(_words[0]).stem != "cffa-hf" or any(not word.startswith("-") for word in _words[1:]):
    from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoProcessor, CLIPProcessor

    from cffa_hf.configuration_cffa import CFFAConfig
    from cffa_hf.modeling_cffa import CFFAForPreTraining, CFFAModel, CFFAOutput

    AutoConfig.register(CFFAConfig.model_type, CFFAConfig)
    AutoModel.register(CFFAConfig, CFFAModel)
    AutoModelForPreTraining.register(CFFAConfig, CFFAForPreTraining)
    AutoProcessor.register(CFFAConfig, CLIPProcessor)

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

__all__ = [
    "CFFAConfig",
    "CFFAForPreTraining",
    "CFFAModel",
    "CFFAOutput",
    "InputError",
    "__version__",
    *LAZY,
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first asked for."""
    if name not in LAZY:
        raise AttributeError(f"module 'cffa_hf' has no attribute {name!r}")
    value = getattr(import_module(f"cffa_hf.{LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, also those that are not imported yet."""
    return sorted({*globals(), *__all__})
