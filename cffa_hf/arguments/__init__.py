"""The settings of a run.

Read model.py, data.py and training.py (the settings), evaluation.py (those of an evaluation), parsing.py (from YAML
and command line into them), listing.py (all of them as data, for help and completion).
"""

from cffa_hf.arguments.data import DataArguments, TrainingDataArguments
from cffa_hf.arguments.evaluation import EvaluationArguments, parse_evaluation_arguments
from cffa_hf.arguments.model import ModelArguments
from cffa_hf.arguments.parsing import parse_arguments
from cffa_hf.arguments.training import CFFATrainingArguments, CorruptionSettings

__all__ = [
    "CFFATrainingArguments",
    "CorruptionSettings",
    "DataArguments",
    "EvaluationArguments",
    "ModelArguments",
    "TrainingDataArguments",
    "parse_arguments",
    "parse_evaluation_arguments",
]
