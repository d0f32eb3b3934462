"""Strict opening of a CFFA model with its processor: exactly the weights of its config, no code but this package's."""

import logging as standard_logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPProcessor, PreTrainedModel
from transformers.utils import logging

from cffa_hf.checkpoints.folders import HEADS, check_finite, check_weights, empty_weights, read_checkpoint
from cffa_hf.checkpoints.saved_processor import check_processor, read_processor
from cffa_hf.errors import InputError, one_line
from cffa_hf.modeling_cffa import CFFAForPreTraining, CFFAModel

PREFIX = f"{CFFAForPreTraining.base_model_prefix}."
"""Stands before the names of the embedding model's weights in a training checkpoint."""


@dataclass
class OpenedModel:
    """A model and its processor, on the CPU and in evaluation mode.

    Attributes:
        folder: Where its files lie.
        commit: Commit on the Hub; None for a folder of this machine.
        model: The embedding model, or the training model where that was asked for.
        processor: Its processor.
    """

    folder: Path
    commit: str | None
    model: CFFAModel | CFFAForPreTraining
    processor: CLIPProcessor


def open_model(name: str | Path, *, heads: bool = False) -> OpenedModel:
    """Open a published model or a training checkpoint.

    Every weight must be there, known, finite and of the size that the config says. Only where the embedding model is
    opened out of a training checkpoint, the heads of the training are left out. Nothing in the folder is executed: files of
    code, and settings that name some, are ignored in `config.json` and refused elsewhere.

    Args:
        name: Folder, or name on the Hub.
        heads: Open the training model of a training checkpoint, with its cross-modal layers.

    Raises:
        InputError: If there is no such model, or model and processor are incomplete or do not belong together.
    """
    try:
        return _open(name, heads)
    except InputError as error:
        if str(name) in str(error):
            raise
        raise InputError(f"{name}: {error}") from error  # of the Hub, whose files lie elsewhere


def _open(name: str | Path, heads: bool) -> OpenedModel:
    checkpoint = read_checkpoint(name)
    folder, config, weights = checkpoint.folder, checkpoint.config, checkpoint.weights
    is_training = any(weight.startswith(PREFIX) for weight in weights)
    wanted = empty_weights(CFFAForPreTraining if heads else CFFAModel, config, folder)
    if is_training and not heads:
        wanted = {PREFIX + weight: value for weight, value in wanted.items()}
        weights = {weight: value for weight, value in weights.items() if weight.split(".")[0] not in HEADS}
    check_weights(wanted, weights, folder)
    if is_training and not heads:
        weights = {weight.removeprefix(PREFIX): value for weight, value in weights.items()}
    model_class = CFFAForPreTraining if heads else CFFAModel
    model = _assemble(model_class, config, weights, folder)
    processor = read_processor(folder)
    check_processor(processor, model.config, folder)
    return OpenedModel(folder, checkpoint.commit, model, processor)


def _assemble(
    model_class: type[PreTrainedModel], config: object, weights: dict[str, Tensor], folder: Path
) -> CFFAModel | CFFAForPreTraining:
    """Build a model of weights that fit, in the type of number that its config names, or else that of the weights."""
    dtype = getattr(config, "dtype", None)
    floats = [value.dtype for value in weights.values() if value.is_floating_point()]
    dtype = dtype if isinstance(dtype, torch.dtype) else floats[0]
    weights = {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}
    if any(kept != dtype for kept in floats):
        check_finite(weights, folder)  # a number may be too large for the type
    try:
        with quiet_loading():
            model = model_class.from_pretrained(
                None, config=config, state_dict=weights, dtype=dtype, trust_remote_code=False
            )
    # For instance attention that needs a package that is not installed.
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise InputError(f"{folder}: no CFFA model can be loaded from there ({one_line(error, 300)}).") from error
    model.config.name_or_path = str(folder)
    return model


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep the loader from reporting on weights that were checked before."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(standard_logging.ERROR)
    try:
        with without_bars():
            yield
    finally:
        logging.set_verbosity(verbosity)


@contextmanager
def without_bars() -> Iterator[None]:
    """Load or save weights without the bar of transformers, which says nothing about one file."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
