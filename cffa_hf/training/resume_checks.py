"""Before training goes on from a checkpoint: are these the weights and the optimizer of the run that goes on?"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.trainer_pt_utils import safe_globals

from cffa_hf.checkpoints.files import read_state_dict
from cffa_hf.checkpoints.folders import check_finite, read_weights, weight_differences
from cffa_hf.errors import InputError
from cffa_hf.training.lora import is_adapted

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
OPTIMIZER = "optimizer.pt"
# Settings of how an optimizer computes, which torch fills in where an older version saved none, and the schedule's own.
NOT_OF_THE_LAYOUT = {"foreach", "fused", "maximize", "differentiable", "capturable", "decoupled_weight_decay"}
NOT_OF_THE_LAYOUT |= {"initial_lr"}


class CannotResume(InputError):
    """Training cannot go on from a checkpoint, because it is of another run."""


def check_model_to_resume(checkpoint: str | Path, model: nn.Module, *, sharded: bool = False) -> None:
    """Compare the weights of a checkpoint with those of the model that is trained.

    The Trainer loads what has a known name and leaves the rest as it is.

    Args:
        checkpoint: Folder of a whole checkpoint.
        model: The training model, perhaps with adapters of PEFT, as it is before a strategy wraps it.
        sharded: Whether FSDP or DeepSpeed load the weights, from files of their own that they compare themselves.

    Raises:
        CannotResume: If a weight is missing, unknown, of another size, or not finite.
    """
    folder = Path(checkpoint)
    adapters = [folder / name for name in ADAPTER_FILES if (folder / name).is_file()]
    wanted = model.state_dict()
    try:
        if is_adapted(model) != bool(adapters) and not sharded:
            trained = "adapters (lora)" if adapters else "whole models (no lora)"
            raise CannotResume(_message(folder, f"its run trained {trained}", "set lora as that run had it"))
        if adapters:
            wanted = _adapter_weights(model)
            found = read_state_dict(adapters[0])
            check_finite(found, folder)
        elif sharded and not list(folder.glob("model*.safetensors")):
            return
        else:
            found = read_weights(folder)
    except CannotResume:
        raise
    except InputError as error:
        raise CannotResume(f"training cannot go on: {error}") from error
    if differences := weight_differences(wanted, found):
        remedy = "take the model's settings of that run"
        raise CannotResume(_message(folder, f"its weights are not those of this model: {differences}", remedy))


def _adapter_weights(model: nn.Module) -> dict[str, Tensor]:
    """Name what PEFT saves of a model."""
    import peft

    return peft.get_peft_model_state_dict(model)


def check_optimizer_to_resume(checkpoint: str | Path, optimizer: Any) -> None:
    """Compare the optimizer of a checkpoint with that of the run, and see that schedule and random state can be read.

    Args:
        checkpoint: Folder of a whole checkpoint; files of FSDP and DeepSpeed are left to them.
        optimizer: Of the run, before its state is loaded.

    Raises:
        CannotResume: If it is another optimizer, has other groups, or a file is damaged or wants more than numbers.
    """
    folder = Path(checkpoint)
    for path in (folder / "scheduler.pt", *folder.glob("rng_state*.pth")):
        if path.is_file():
            _read_state(path)
    if (folder / OPTIMIZER).is_file():
        state = _read_state(folder / OPTIMIZER)
        try:
            difference = _optimizer_difference(state, optimizer)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CannotResume(
                _message(folder, f"its {OPTIMIZER} holds no state", "take another checkpoint")
            ) from error
        if difference:
            remedy = "take optim, precision and the rates of that run"
            raise CannotResume(_message(folder, f"its {OPTIMIZER} is of another optimizer, {difference}", remedy))


def _optimizer_difference(state: dict[str, Any], optimizer: Any) -> str | None:
    """Say how a saved state differs in layout from an optimizer."""
    saved, current = state["param_groups"], optimizer.param_groups
    names, wanted = ([str(group.get("name")) for group in groups] for groups in (saved, current))
    if names != wanted:
        return f"with the groups {', '.join(names)} instead of {', '.join(wanted)}"
    for old, new in zip(saved, current, strict=True):
        if len(old["params"]) != len(new["params"]):
            return f"with {len(old['params'])} instead of {len(new['params'])} weights in {new.get('name')}"
        if lost := sorted((old.keys() ^ new.keys()) - NOT_OF_THE_LAYOUT):
            return f"of which only one has {', '.join(map(str, lost[:3]))}"
        for index, parameter in zip(old["params"], new["params"], strict=True):
            entries = state["state"].get(index, {})
            for name in entries.keys() & {"exp_avg", "exp_avg_sq"}:
                if entries[name].shape != parameter.shape:
                    return f"whose {name} of a weight is {tuple(entries[name].shape)}, not {tuple(parameter.shape)}"
                if entries[name].dtype != parameter.dtype:
                    kinds = [str(kind).removeprefix("torch.") for kind in (entries[name].dtype, parameter.dtype)]
                    return f"whose {name} of a weight is {kinds[0]}, not {kinds[1]}"
    return None


def _read_state(path: Path) -> Any:
    """Read what `torch.save` wrote of an optimizer, a schedule or random generators; nothing in it is executed."""
    try:
        with safe_globals():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged pickle can fail in any way
        # The loader's own explanation ends in advice to switch the protection off.
        problem = f"its {path.name} is damaged, or holds more than numbers"
        raise CannotResume(_message(path.parent, problem, "take another checkpoint")) from error


def _message(folder: Path, problem: str, remedy: str) -> str:
    return f"training cannot go on from {folder}: {problem}; {remedy}, or start anew in another output_dir."
