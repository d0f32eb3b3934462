"""Checkpoints that are whole: which ones a run can go on from."""

import logging
import math
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from cffa_hf.errors import InputError
from cffa_hf.json_files import read_json, read_object
from cffa_hf.names import STATE_FILE

logger = logging.getLogger(__name__)

# What a checkpoint must have of each kind, as its file or folder is called with one device, FSDP or DeepSpeed.
PARTS = {
    "weights": ("model*.safetensors", "adapter_model.safetensors", "pytorch_model*", "global_step*"),
    "optimizer": ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*"),
    "schedule": ("scheduler.pt",),
    "random state": ("rng_state*.pth",),
}
# Of the Trainer's state: it computes with them as they are.
NUMBERS = {"epoch", "max_steps", "num_train_epochs", "logging_steps", "eval_steps", "save_steps", "train_batch_size"}


def flaw_of(folder: str | Path) -> str | None:
    """Find out why training cannot go on from a checkpoint.

    Every file is opened, none is read whole: the head of safetensors files is compared with their size, and archives of
    `torch.save` have their directory at the end.

    Args:
        folder: A `checkpoint-N` of the Trainer.

    Returns:
        What is missing or damaged, or None if the checkpoint is whole.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return "there is no such folder"
    try:
        if not (folder / STATE_FILE).exists():
            return f"it has no {STATE_FILE}"
        state = read_object(folder / STATE_FILE)
    except InputError:
        return f"its {STATE_FILE} cannot be read"
    if not isinstance(state.get("global_step"), int):
        return f"its {STATE_FILE} names no step"
    for name in NUMBERS & state.keys():
        if not (state[name] is None or (isinstance(state[name], (int, float)) and math.isfinite(state[name]))):
            return f"its {STATE_FILE} has something else than a number as {name}"
    try:
        known = TrainerState(**state)
    except TypeError:
        return f"its {STATE_FILE} has a name that no state has"
    if not isinstance(known.train_batch_size, int):
        return f"its {STATE_FILE} names no batch size"
    if not isinstance(known.log_history, list) or not all(isinstance(entry, dict) for entry in known.log_history):
        return f"its {STATE_FILE} has no list of log entries"
    if not isinstance(known.stateful_callbacks, dict) or "TrainerControl" not in known.stateful_callbacks:
        return f"its {STATE_FILE} has lost the state of the callbacks"
    for part, patterns in PARTS.items():
        if not any(any(folder.glob(pattern)) for pattern in patterns):
            return f"it has no {part} ({patterns[0]})"
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not opens(path):
            return f"its {path.relative_to(folder)} is truncated or damaged"
    return missing_shard(folder)


def opens(path: Path) -> bool:
    """Tell whether a file of weights or states is complete; files of other kinds always are."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                return True
        if path.suffix in (".pt", ".pth", ".bin"):
            return zipfile.is_zipfile(path)
        if path.suffix == ".json":
            content = read_json(path)
            return isinstance(content, dict) or path.name not in ("config.json", STATE_FILE)
    except (OSError, ValueError, SafetensorError, zipfile.BadZipFile):
        return False
    return True


def missing_shard(folder: Path) -> str | None:
    """Name a file that an index of weights lists and that is not there."""
    for index in folder.glob("*.index.json"):
        for shard in sorted(set(map(str, dict(read_object(index).get("weight_map") or {}).values()))):
            if not (folder / shard).is_file():
                return f"its {shard} is missing"
    return None


def newest_whole_checkpoint(output_dir: str | Path) -> str | None:
    """Find the checkpoint in a run's folder that was finished last and is whole; damaged ones are named in a warning.

    The time counts before the step: an older run in the same folder may have got further.

    Args:
        output_dir: Folder of the run.

    Returns:
        Path of the checkpoint, or None.
    """
    found = []
    for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = folder.name.rpartition("-")[2]
        if folder.is_dir() and step.isdecimal():
            state = folder / STATE_FILE
            time = state.stat().st_mtime_ns if state.exists() else folder.stat().st_mtime_ns
            found.append((time, int(step), folder))
    for _, _, folder in sorted(found, reverse=True):
        flaw = flaw_of(folder)
        if flaw is None:
            return str(folder)
        logger.warning("%s is passed over: %s", folder, flaw)
    return None


def checkpoint_to_resume(setting: str | bool | None, output_dir: str | Path) -> str | None:
    """Choose where training goes on.

    Args:
        setting: `auto` or `true`: the newest whole checkpoint in `output_dir`, if there is one; `false` or None: start
            anew; anything else: path of a checkpoint.
        output_dir: Folder of the run.

    Returns:
        Path of a whole checkpoint, or None to start anew.

    Raises:
        InputError: If the path that was given is not a whole checkpoint.
    """
    word = str(setting).lower()
    if word in ("none", "false", "no"):
        return None
    if word in ("auto", "true", "yes"):
        newest = newest_whole_checkpoint(output_dir)
        if newest is None:
            logger.warning("no whole checkpoint in %s: training starts anew", output_dir)
        return newest
    flaw = flaw_of(str(setting))
    if flaw is not None:
        newest = newest_whole_checkpoint(output_dir)
        advice = f"take {newest}" if newest else "start anew without resume_from_checkpoint"
        raise InputError(f"training cannot go on from {setting}: {flaw}; {advice}.")
    return str(setting)
