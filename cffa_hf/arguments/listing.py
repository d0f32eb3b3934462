"""All settings of a training and of an evaluation, in groups, as data: help and completion of the commands read them from a file.

The classes of the settings need torch and transformers, whose import takes seconds. `python -m cffa_hf.arguments.listing` writes
the file anew; a test says when that is due.
"""

import json
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from cffa_hf.arguments.data import DataArguments, TrainingDataArguments
from cffa_hf.arguments.evaluation import EvaluationArguments
from cffa_hf.arguments.model import ModelArguments, RandomWeightsArguments
from cffa_hf.arguments.parsing import RUN_CLASSES, QuietArgumentParser
from cffa_hf.arguments.search_space import SearchSettings
from cffa_hf.arguments.training import CFFATrainingArguments, CorruptionSettings
from cffa_hf.losses import LossSettings
from cffa_hf.names import SETTINGS_FILE

# Of the many settings of TrainingArguments those that are explained beside ours; of the others the help has the names.
# fmt: off
RUN = [
    "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "seed", "num_train_epochs",
    "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps",
    "cached_batch_size", "precision", "use_cpu", "dataloader_num_workers", "eval_strategy", "eval_steps",
    "save_strategy", "save_steps", "save_total_limit", "load_best_model_at_end", "metric_for_best_model",
    "logging_steps", "disable_tqdm", "report_to", "run_name", "project", "push_to_hub", "hub_model_id",
    "hub_private_repo",
]
RATES = [
    "learning_rate", "refinement_learning_rate", "bias_rate_factor", "head_rate_factor", "warmup_epochs",
    "warmup_start", "lr_scheduler_type", "optim", "weight_decay", "coupled_weight_decay", "adam_epsilon",
    "max_grad_norm",
]
# fmt: on
# What those that are the library's mean here.
INHERITED = {
    "output_dir": "Folder for all that the run writes",
    "seed": "Decides everything that is drawn",
    "gradient_accumulation_steps": "Batches whose gradients are added up before a step",
    "use_cpu": "Train on the CPU, though there is a GPU",
    "dataloader_num_workers": "Processes that decode images; 0: none of their own",
    "eval_steps": "Steps between evaluations, with eval_strategy steps",
    "save_steps": "Steps between checkpoints, with save_strategy steps",
    "disable_tqdm": "No progress bars; without a terminal there are none",
    "report_to": "tensorboard, trackio, wandb ...: trackers, which must be installed",
    "run_name": "Name of the run for trackers",
    "project": "Name of the project for trackers",
    "push_to_hub": "Publish the model at the end",
    "hub_model_id": "Where it is published: owner/name",
    "hub_private_repo": "Make a new repository private",
    "optim": "Optimizer; adamw_torch is Adam here, unless coupled_weight_decay is false",
}


def names_of(kind: Any, *without: Any) -> list[str]:
    """Return the names of a dataclass's fields, without those of others."""
    left_out = {item.name for other in without for item in fields(other)}
    return [item.name for item in fields(kind) if item.name not in left_out]


def listing() -> dict[str, Any]:
    """Return the groups of both commands, and the names of all other settings of `TrainingArguments`."""
    parser = QuietArgumentParser(RUN_CLASSES)
    own = names_of(CFFATrainingArguments, TrainingArguments, LossSettings, CorruptionSettings, SearchSettings)
    groups = {
        "run": [*RUN, *(name for name in own if name not in {*RUN, *RATES})],
        "data": names_of(TrainingDataArguments),
        "model": names_of(ModelArguments, RandomWeightsArguments),
        "sizes, only for random weights (init_from: null)": names_of(RandomWeightsArguments),
        "losses": names_of(LossSettings),
        "masked captions and augmented images": names_of(CorruptionSettings),
        "learning rates and schedule": RATES,
        "search for settings": names_of(SearchSettings),
    }
    known = {name for names in groups.values() for name in names}
    evaluation = QuietArgumentParser((EvaluationArguments, DataArguments))
    return {
        "train": {title: described(parser, names) for title, names in groups.items()},
        "others": sorted(set(parser.actions) - known),
        "evaluate": {
            "evaluation": described(evaluation, names_of(EvaluationArguments)),
            "data": described(evaluation, names_of(DataArguments)),
        },
    }


def described(parser: QuietArgumentParser, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Describe settings by what the command line does with them: help, default, kind and choices."""
    found = {}
    for name in names:
        action = parser.actions[name]
        choices = [str(choice) for choice in action.choices or ()]
        kind = getattr(action.type, "__name__", "value").replace("string_to_bool", "true|false").upper()
        entry = {
            "help": " ".join(INHERITED.get(name, str(action.help)).split()),
            "default": json_value(action.default),
            "kind": kind if kind.isidentifier() or "|" in kind else "STR",
            "choices": choices if len(choices) < 10 else [],
        }
        found[name] = {key: value for key, value in entry.items() if value not in ([], None)}
    return found


def json_value(value: Any) -> Any:
    """Return a default as JSON can hold it."""
    value = getattr(value, "value", value)
    return value if isinstance(value, str | int | float | bool | list | None) else str(value)


def write_listing() -> Path:
    """Write the file that the commands read."""
    path = Path(__file__).parents[1] / "cli" / SETTINGS_FILE
    path.write_text(json.dumps(listing(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    print(write_listing())
