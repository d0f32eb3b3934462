"""The record of a training run, `run.json` beside the weights: what was read, how it was set, where it ran.

It holds no path of the machine, so that it can be published as it is. The model card is made from it.
"""

import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from transformers import Trainer

from cffa_hf.arguments.parsing import CFFATrainingArguments, CorruptionSettings, DataArguments, ModelArguments
from cffa_hf.data.annotations import ANNOTATION_FORMATS, DEMO_MARKER
from cffa_hf.data.seen import SeenData
from cffa_hf.files import write_text
from cffa_hf.losses import LossSettings
from cffa_hf.version import VERSION

RUN_RECORD = "run.json"

# The published recipe where it is not this package's default.
PUBLISHED = {"mal_scale": "batch", "precision": "published", "vocabulary_size": 49408}
PUBLISHED_PRECISION = "float16 weights, updated in place"
# Settings that say where things are, how often something is reported, or what the record names elsewhere.
NOT_RECIPE = {
    *("init_from", "tokenizer", "dataset", "dataset_root", "annotation_file", "check_images", "allow_shared_people"),
    *("per_device_eval_batch_size", "eval_strategy", "save_strategy", "save_total_limit", "greater_is_better"),
    *("remove_unused_columns", "ddp_find_unused_parameters", "logging_steps", "hub_strategy", "overwrite_output_dir"),
}
# Of the settings that TrainingArguments brings along, those that change what is learnt.
INHERITED = ("max_steps", "gradient_accumulation_steps", "optim", "adam_beta1", "adam_beta2")


def write_run_record(
    output_dir: str | Path,
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: CFFATrainingArguments,
    dataset_dict: DatasetDict,
    trainer: Trainer,
    seen: SeenData | None = None,
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
    """
    if not trainer.is_world_process_zero():
        return
    state = trainer.state
    seconds = [entry["train_runtime"] for entry in state.log_history if "train_runtime" in entry]
    own = seen.datasets[-1] if seen else None
    record = {
        "format": 1,
        "package": package_version(),
        "init_from": public_name(model_args.init_from),
        "dataset": {
            "name": public_name(data_args.dataset),
            "rendered": is_rendered(data_args.dataset, data_args.dataset_root),
            "division": {**own.division.model_dump(), "sentence": own.division.sentence} if own else None,
            "splits": {
                split: count_split(rows) | ({"fingerprint": own.splits[split].fingerprint} if own else {})
                for split, rows in dataset_dict.items()
            },
        },
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
            "selected_step": state.best_global_step if training_args.load_best_model_at_end else None,
        },
        "environment": environment(training_args),
    }
    write_text(Path(output_dir) / RUN_RECORD, json.dumps(record, indent=2) + "\n")


def public_name(source: str | None) -> str | None:
    """Name a data set or checkpoint: as it is called on the Hub, or the last part of a path on this machine."""
    if source is None:
        return None
    is_path = os.path.exists(os.path.expanduser(source)) or source.startswith((".", "~")) or os.path.isabs(source)
    return os.path.basename(os.path.abspath(os.path.expanduser(source))) if is_path else source


def hub_name(name: str | None) -> str | None:
    """Return a recorded name if it is one on the Hub (`owner/name`), None otherwise."""
    return name if name and re.fullmatch(r"[\w.-]+/[\w.-]+", name) else None


def is_rendered(dataset: str | None, root: str | None) -> bool:
    """Say whether a data set, as a config names it, is rendered demo data, people who do not exist."""
    spec = ANNOTATION_FORMATS.get((dataset or "").lower().replace("-", "_"))
    folder = Path(root or "").expanduser()
    folders = [folder / spec.folder, folder] if spec else [folder / Path(dataset or "").expanduser()]
    return any((folder / DEMO_MARKER).is_file() for folder in folders)


def count_split(rows: Dataset) -> dict[str, int]:
    """Count the identities, images and captions of a split in the dataset form."""
    return {
        "identities": len(set(rows["person_id"])),
        "images": len(rows),
        "captions": sum(len(captions) for captions in rows["captions"]),
    }


def changed_settings(
    model_args: ModelArguments, data_args: DataArguments, training_args: CFFATrainingArguments
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
            help_text = str(field.metadata.get("help", ""))
            if help_text.startswith("Only for random weights") and model_args.init_from is not None:
                continue
            default = field.default_factory() if callable(field.default_factory) else field.default
            published, value = plain(PUBLISHED.get(field.name, default)), plain(getattr(arguments, field.name))
            if value != published and not same_scale(field.name, training_args):
                help_text = help_text.partition(";")[0].removeprefix("Only for random weights: ")
                help_text = help_text[:1].upper() + help_text[1:]
                if field.name == "precision":
                    value, published, help_text = precision(training_args), PUBLISHED_PRECISION, "Numbers computed with"
                changes.append({"name": field.name, "value": value, "published": published, "help": help_text})
    return changes


def same_scale(name: str, args: CFFATrainingArguments) -> bool:
    """Say whether a scale of MAL other than the published one is the same number, or of no account, in this run."""
    published = (1000 // args.train_batch_size) / 1000
    return name == "mal_scale" and (args.alignment_loss != "mal" or published == args.temperature)


def plain(value: Any) -> Any:
    """Make a setting's value comparable, JSON and fit to be published: no path of this machine."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return public_name(value)
    return list(value) if isinstance(value, tuple) else value


def package_version() -> dict[str, Any]:
    """Name the version of this package and, as far as it can be found out, its git commit."""
    version: dict[str, Any] = {"version": VERSION, "commit": None, "uncommitted_changes": None}
    try:
        source = json.loads(importlib.metadata.distribution("cffa_hf").read_text("direct_url.json") or "{}")
        version["commit"] = source.get("vcs_info", {}).get("commit_id")
    except importlib.metadata.PackageNotFoundError:
        pass
    folder = Path(__file__).resolve().parents[1]
    if version["commit"] is None and (folder / ".git").exists():
        try:
            git = ["git", "-C", str(folder)]
            options: dict[str, Any] = {"capture_output": True, "text": True, "check": True, "timeout": 20}
            version["commit"] = subprocess.run([*git, "rev-parse", "HEAD"], **options).stdout.strip()
            changed = subprocess.run([*git, "status", "--porcelain", "--", "cffa_hf"], **options).stdout
            version["uncommitted_changes"] = bool(changed.strip())
        except (OSError, subprocess.SubprocessError):
            pass
    return version


def environment(args: CFFATrainingArguments) -> dict[str, str]:
    """Name the device, the precision and the versions of what computed."""
    if args.device.type == "cuda":
        device, count = torch.cuda.get_device_name(args.device), args.world_size
        device = f"{count} x {device}" if count > 1 else device
    else:
        device = f"{args.device.type.upper()}, {os.cpu_count()} cores, {torch.get_num_threads()} in use"
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "datasets", "accelerate")}
    return {
        "device": device,
        "precision": precision(args),
        "system": platform.system(),
        "python": platform.python_version(),
        **versions,
    }


def precision(args: CFFATrainingArguments) -> str:
    """Name the numbers that were computed with."""
    autocast = "bfloat16" if args.bf16 else "float16" if args.fp16 else None
    return f"float32 weights, {autocast} autocast" if autocast else "float32"


def draw_training_curves(log_history: list[dict[str, float]], path: Path) -> bool:
    """Draw loss terms and validation metrics over the epochs into a PNG.

    Args:
        log_history: That of `trainer_state.json`.
        path: The picture's path.

    Returns:
        Whether there was anything to draw.
    """
    losses = {
        "loss": ("sum", "#1b1f24", 2.0),
        "loss_alignment_global": ("alignment, global", "#0b6bcb", 1.3),
        "loss_alignment_local": ("alignment, local", "#1a9c6b", 1.3),
        "loss_identity": ("identity", "#c2410c", 1.3),
        "loss_mlm": ("masked words", "#8250df", 1.3),
    }
    metrics = {
        "eval_rank1": ("Rank-1, text to image", "#0b6bcb", "-"),
        "eval_mAP": ("mAP, text to image", "#1a9c6b", "-"),
        "eval_image_to_text_rank1": ("Rank-1, image to text", "#0b6bcb", ":"),
    }
    trained = {name: points(log_history, name) for name in losses}
    measured = {name: points(log_history, name) for name in metrics}
    panels = [series for series in (trained, measured) if any(series.values())]
    if not panels:
        return False
    figure = Figure(figsize=(5.2 * len(panels), 3.5), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    for column, series in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), column + 1)
        for name, line in series.items():
            if line and series is trained:
                label, color, width = losses[name]
                axes.plot(*zip(*line, strict=True), label=label, color=color, linewidth=width)
            elif line:
                label, color, style = metrics[name]
                axes.plot(*zip(*line, strict=True), style, label=label, color=color, marker="o", markersize=3)
        axes.set_title("Training loss, weighted terms" if series is trained else "Validation, percent", fontsize=11)
        axes.set_xlabel("epoch")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Software": None})
    return True


def points(log_history: list[dict[str, float]], name: str) -> list[tuple[float, float]]:
    """Collect (epoch, value) of one logged name."""
    return [(entry["epoch"], entry[name]) for entry in log_history if name in entry and "epoch" in entry]
