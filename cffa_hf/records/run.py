"""The record of a training run, `run.json` beside the weights: what was read, how it was set, where it ran.

It holds no path of the machine, so that it can be published as it is. The model card is made from it.
"""

import dataclasses
import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from transformers import Trainer

from cffa_hf.arguments.data import TrainingDataArguments
from cffa_hf.arguments.model import ModelArguments, RandomWeightsArguments
from cffa_hf.arguments.training import CFFATrainingArguments, CorruptionSettings
from cffa_hf.configuration_cffa import IMAGE_SIZE
from cffa_hf.data.caption_noise import CaptionNoise
from cffa_hf.data.facts import count_split, is_rendered
from cffa_hf.data.seen import SeenData
from cffa_hf.files import write_text
from cffa_hf.losses import LossSettings
from cffa_hf.names import RUN_RECORD, public_name
from cffa_hf.records.environment import PUBLISHED_PRECISION, environment, package_version, precision

# The published recipe where it is not this package's default.
PUBLISHED = {"mal_scale": "batch", "precision": "published", "dataloader_drop_last": False, "vocabulary_size": 49408}
PUBLISHED["image_size"] = list(IMAGE_SIZE)
# Settings that say where things are, how often something is reported, or what the record names elsewhere.
NOT_RECIPE = {
    *("init_from", "tokenizer", "dataset", "dataset_root", "annotation_file", "check_images", "allow_shared_people"),
    *("per_device_eval_batch_size", "eval_strategy", "save_strategy", "save_total_limit", "greater_is_better"),
    *("remove_unused_columns", "ddp_find_unused_parameters", "logging_steps", "hub_strategy", "overwrite_output_dir"),
    *("resume_from_checkpoint", "select_on", "datasets", "eval_dataset", "eval_dataset_root", "stream_failure_limit"),
}
# Of the settings that TrainingArguments brings along, those that change what is learnt.
INHERITED = ("max_steps", "gradient_accumulation_steps", "optim", "adam_beta1", "adam_beta2")


def write_run_record(
    output_dir: str | Path,
    model_args: ModelArguments,
    data_args: TrainingDataArguments,
    training_args: CFFATrainingArguments,
    dataset_dict: DatasetDict,
    trainer: Trainer,
    seen: SeenData | None = None,
    noise: CaptionNoise | None = None,
    order: Mapping[str, Any] | None = None,
) -> None:
    """Write `run.json` after training; only the first process writes.

    Args:
        output_dir: Folder of the run.
        model_args: As the run was started.
        data_args: As the run was started.
        training_args: As the run was started.
        dataset_dict: The data that were read.
        trainer: After `train()`.
        seen: What the run has seen; None: not recorded.
        noise: How the captions of the train split were shuffled; None: they were not.
        order: What the order of the batches depends on, for a stream or several sets.
    """
    if not trainer.is_world_process_zero():
        return
    state = trainer.state
    seconds = [entry["train_runtime"] for entry in state.log_history if "train_runtime" in entry]
    record = {
        "format": 1,
        "package": package_version(),
        "init_from": public_name(model_args.init_from),
        "dataset": dataset_record(data_args, dataset_dict, seen, noise) | dict(order or {}),
        "settings": changed_settings(model_args, data_args, training_args),
        "training": {
            "seed": training_args.seed,
            "epochs": round(state.epoch or 0, 2),
            "steps": state.global_step,
            "pairs_per_step": training_args.train_batch_size
            * training_args.gradient_accumulation_steps
            * training_args.world_size,
            "processes": training_args.world_size,
            "seconds": round(seconds[-1]) if seconds else None,
            "resumed": training_args.resume_from_checkpoint is not None,
            "selected_by": training_args.metric_for_best_model if training_args.load_best_model_at_end else None,
            "selected_on": data_args.select_on if training_args.load_best_model_at_end else None,
            "selected_step": state.best_global_step if training_args.load_best_model_at_end else None,
        },
        "environment": environment(training_args),
    }
    write_text(Path(output_dir) / RUN_RECORD, json.dumps(record, indent=2) + "\n")


def dataset_record(
    data_args: TrainingDataArguments, dataset_dict: DatasetDict, seen: SeenData | None, noise: CaptionNoise | None
) -> dict[str, Any]:
    """Say what was read: names, division, and the counts and fingerprints of the splits."""
    own = seen.datasets[-1] if seen else None
    prints = {split: {"fingerprint": part.fingerprint} for split, part in own.splits.items()} if own else {}
    return {
        "name": public_name(data_args.dataset),
        "evaluated": public_name(data_args.eval_dataset),
        "rendered": is_rendered(data_args.dataset, data_args.dataset_root) or bool(own and own.rendered),
        "division": {**own.division.model_dump(), "sentence": own.division.sentence} if own else None,
        "splits": {split: count_split(rows) | prints.get(split, {}) for split, rows in dataset_dict.items()},
        "caption_noise": noise.record(dataset_dict["train"]) if noise else None,
    }


def changed_settings(
    model_args: ModelArguments, data_args: TrainingDataArguments, training_args: CFFATrainingArguments
) -> list[dict[str, Any]]:
    """List the settings that differ from the published recipe, as `name`, `value`, `published` and `help`."""
    own = {
        *CFFATrainingArguments.__annotations__,
        *LossSettings.__annotations__,
        *CorruptionSettings.__annotations__,
        *INHERITED,
    }
    changes = []
    for arguments in (model_args, data_args, training_args):
        for field in dataclasses.fields(arguments):
            if field.name in NOT_RECIPE or (arguments is training_args and field.name not in own):
                continue
            if field.name in RandomWeightsArguments.__annotations__ and model_args.init_from is not None:
                continue
            default = field.default_factory() if callable(field.default_factory) else field.default
            published, value = plain(PUBLISHED.get(field.name, default)), plain(getattr(arguments, field.name))
            if field.name == "metric_for_best_model":  # the card says in words of which split it is
                value = str(value).replace("eval_test_", "eval_")
            if value != published and not same_scale(field.name, training_args):
                help_text = str(field.metadata.get("help", "")).partition(";")[0]
                help_text = help_text[:1].upper() + help_text[1:]
                if field.name == "precision":
                    value, published, help_text = precision(training_args), PUBLISHED_PRECISION, "Numbers computed with"
                changes.append({"name": field.name, "value": value, "published": published, "help": help_text})
    return changes


def same_scale(name: str, args: CFFATrainingArguments) -> bool:
    """Say whether a scale of MAL other than the published one is the same number, or has no effect, in this run."""
    published = (1000 // args.train_batch_size) / 1000
    return name == "mal_scale" and (args.alignment_loss != "mal" or published == args.temperature)


def plain(value: Any) -> Any:
    """Make a setting's value comparable, JSON and publishable: no path of this machine."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return public_name(value)
    return list(value) if isinstance(value, tuple) else value
