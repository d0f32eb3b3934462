"""Checkpoint of any kind -> training model of this package, with a summary of every weight."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import CLIPModel

from cffa_hf.checkpoints.files import read_state_dict
from cffa_hf.checkpoints.folders import (
    HEADS,
    FolderCheckpoint,
    check_finite,
    check_weights,
    empty_weights,
    read_checkpoint,
)
from cffa_hf.checkpoints.names import TEXT_POSITIONS, VISION_POSITIONS, quote
from cffa_hf.checkpoints.originals import (
    PUBLISHED_DROPOUT,
    PUBLISHED_RATIO,
    SourceCheckpoint,
    read_original,
    square_size,
)
from cffa_hf.configuration_cffa import IMAGE_SIZE, CFFAConfig
from cffa_hf.errors import InputError, explained
from cffa_hf.modeling_cffa import CFFAForPreTraining, clip_to_cffa_config, resize_positions

FILE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".safetensors")
WITHOUT_HEADS = {"use_flfr": False, "use_mlm": False, "use_identity": False}


@dataclass
class Conversion:
    """A model with the weights of a checkpoint, and what became of each of them.

    Attributes:
        model: The training model; its `base_model` is the CFFAModel.
        source: What the weights were read from.
        dropped: Names in the checkpoint -> why they were left out.
        fresh: Names in the model -> why they kept their initial values.
        resized: What was done to the position tables, in words.
    """

    model: CFFAForPreTraining
    source: SourceCheckpoint
    dropped: dict[str, str]
    fresh: dict[str, str]
    resized: list[str]

    @property
    def mapped(self) -> dict[str, str]:
        """Names in the model -> names in the checkpoint, of the weights that were taken over."""
        return {name: origin for name, origin in self.source.origins.items() if origin not in self.dropped}


def is_weights_file(source: str) -> bool:
    """Tell a file of weights, there or not, from a folder or a name on the Hub."""
    path = Path(source)
    return path.is_file() or (path.suffix in FILE_SUFFIXES and not path.is_dir())


def load_source(source: str, **reading: Any) -> SourceCheckpoint:
    """Read a checkpoint of any known kind.

    Args:
        source: A file of weights, a folder or a name on the Hub.
        **reading: For a file, as in `read_original`.

    Raises:
        InputError: If it is not there, damaged, refused, of no known kind, or not finite.
    """
    if is_weights_file(source):
        weights = read_state_dict(source)
        try:
            checkpoint = read_original(weights, **reading)
        except InputError as error:
            raise InputError(f"{source}: {error}") from error
        # Only what is taken over: the mask that some files hold beside it is meant to be infinite.
        check_finite({checkpoint.origins[name]: value for name, value in checkpoint.weights.items()}, source)
        return checkpoint
    return load_pretrained(source)


def load_pretrained(source: str) -> SourceCheckpoint:
    """Read a CLIP or CFFA checkpoint in Hugging Face format, from a folder or the Hub.

    Raises:
        InputError: If it is not there, incomplete, or of another kind.
    """
    found = read_checkpoint(source, ("cffa", "clip"))
    if isinstance(found.config, CFFAConfig):
        return _read_cffa(source, found)
    return _read_clip(source, found)


def _read_cffa(source: str, found: FolderCheckpoint) -> SourceCheckpoint:
    """Read a training checkpoint, or the embedding model of a published one, of this package."""
    config = found.config
    is_training = any(name.startswith("cffa.") for name in found.weights)
    origins = {name if is_training else f"cffa.{name}": name for name in found.weights}
    weights = {name: floats(found.weights[origin]) for name, origin in origins.items()}
    wanted = empty_weights(CFFAForPreTraining, config, found.folder)
    dropped = {}
    for name in [name for name in weights if name not in wanted and name.split(".")[0] in HEADS]:
        dropped[origins.pop(name)] = "switched off in its config.json"
        del weights[name]
    lost_heads = {name for name in wanted if name not in weights and not name.startswith("cffa.")}
    needed = {name: value for name, value in wanted.items() if name not in lost_heads}
    check_weights(needed, weights, source)
    return SourceCheckpoint("CFFA in Hugging Face format", config, weights, origins, dropped)


def _read_clip(source: str, found: FolderCheckpoint) -> SourceCheckpoint:
    """Read a general CLIP; heads that others put on it are dropped."""
    config = found.config
    wanted = empty_weights(CLIPModel, config, found.folder)
    modules = {name.split(".")[0] for name in wanted}
    dropped = {}
    for name in found.weights:
        if name.endswith(("logit_scale", "position_ids")):
            dropped[name] = "not needed to embed"
        elif name.split(".")[0] not in modules:
            dropped[name] = "a head that CFFA does not have"
    wanted = {name: value for name, value in wanted.items() if not name.endswith("logit_scale")}
    weights = {name: floats(value) for name, value in found.weights.items() if name not in dropped}
    check_weights(wanted, weights, source)
    patches = len(weights[VISION_POSITIONS.removeprefix("cffa.")]) - 1
    size = square_size(patches, config.vision_config.patch_size)
    if size is None:
        raise InputError(f"{source} has a table of {patches} + 1 image positions, which is no square grid.")
    return SourceCheckpoint(
        "CLIP in Hugging Face format",
        clip_to_cffa_config(config, size, None, None, PUBLISHED_DROPOUT, WITHOUT_HEADS),
        {f"cffa.{name}": value for name, value in weights.items()},
        {f"cffa.{name}": name for name in weights},
        dropped,
        is_clip=True,
    )


def floats(value: Tensor) -> Tensor:
    """Return floating point numbers as float32, integers as they are."""
    return value.float() if value.is_floating_point() else value


def is_encoder_weight(name: str) -> bool:
    """Tell weights of the two encoders from those of local features and heads, by our names."""
    return name.startswith("cffa.") and not name.startswith(("cffa.image_refinement.", "cffa.text_refinement."))


def adapted_config(
    source: CFFAConfig,
    *,
    image_size: tuple[int, int],
    context_length: int,
    text_attention_dropout: float,
    **fields: Any,
) -> CFFAConfig:
    """Describe a model with the encoders of another one, at another image size and context length.

    Raises:
        InputError: If that makes no model.
    """
    sizes = source.to_dict()
    text = {"max_position_embeddings": context_length, "attention_dropout": text_attention_dropout}
    with explained("these settings make no model", StrictDataclassError, ValueError):
        return CFFAConfig(
            text_config=sizes["text_config"] | text,
            vision_config=sizes["vision_config"] | {"image_size": list(image_size)},
            projection_dim=source.projection_dim,
            **fields,
        )


@torch.no_grad()
def build_model(source: SourceCheckpoint, config: CFFAConfig, *, strict: bool = True) -> Conversion:
    """Make a model and give it the weights of a checkpoint, resizing both position tables where they differ.

    Args:
        source: The checkpoint.
        config: Configuration of the model.
        strict: False: local features and heads that the checkpoint lacks, or has in another size, are newly initialised.

    Raises:
        InputError: If a weight is missing or has another shape than the sizes of the model demand.
    """
    weights, resized = resize_tables(source, config)
    model = CFFAForPreTraining(config)
    wanted = model.state_dict()
    dropped, fresh, fitting = dict(source.dropped), {}, {}
    for name, value in weights.items():
        if name not in wanted:
            dropped[source.origins[name]] = "switched off in the model"
        elif value.shape == wanted[name].shape:
            fitting[name] = value
        else:
            found, right = (" x ".join(map(str, tensor.shape)) or "a number" for tensor in (value, wanted[name]))
            if strict or is_encoder_weight(name):
                raise InputError(
                    f"the checkpoint's {source.origins[name]} is {found}, but its other weights demand {right}."
                )
            dropped[source.origins[name]] = fresh[name] = f"{found} in the checkpoint, {right} in this model"
    fresh |= {name: "not in the checkpoint" for name in wanted if name not in weights}
    needed = [name for name in fresh if strict or is_encoder_weight(name)]
    if needed:
        raise InputError(f"the checkpoint lacks {quote(needed)}.")
    model.load_state_dict(fitting, strict=False)
    return Conversion(model.eval(), source, dropped, fresh, resized)


def resize_tables(source: SourceCheckpoint, config: CFFAConfig) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights with both position tables of the sizes that a model wants, and what was done, in words."""
    weights, resized = dict(source.weights), []
    for name, label, old, new in (
        (VISION_POSITIONS, "image", source.config.grid_size, config.grid_size),
        (TEXT_POSITIONS, "text", (source.config.context_length, 1), (config.context_length, 1)),
    ):
        if old != new and weights[name].ndim == 2 and len(weights[name]) >= old[0] * old[1]:
            weights[name] = resize_positions(weights[name], old, new)
            sizes = [f"{rows} x {columns}" if label == "image" else str(rows) for rows, columns in (old, new)]
            resized.append(f"{label} positions from {sizes[0]} to {sizes[1]}")
    return weights, resized


def convert(
    source: str,
    *,
    image_size: tuple[int, int] | None = None,
    stride: int | None = None,
    select_ratio: float | None = None,
    activation: str | None = None,
) -> Conversion:
    """Turn a checkpoint of any known kind into a training model of this package.

    A general CLIP is resized to images of persons, and embeds without local features, which it does not have.

    Args:
        source: A file of weights, or a CLIP in Hugging Face format: a folder or a name on the Hub.
        image_size: Height and width in pixels; of a general CLIP the wanted ones, of others those they were trained at.
            None: the published ones, or what fits.
        stride: Step between patches in pixels. None: the patch size, or what fits.
        select_ratio: Share of tokens that local features keep. None: the published one.
        activation: Of the encoders in a file. None: `quick_gelu`.

    Raises:
        InputError: If the source cannot be read, is of no known kind, or contradicts what was given.
    """
    if stride is not None and stride < 1:
        raise InputError(f"stride must be at least 1, got {stride}.")
    if activation is not None and not is_weights_file(source):
        raise InputError(f"activation is for files of weights; the config.json of {source} says which it is.")
    checkpoint = load_source(
        source, image_size=image_size, stride=stride, select_ratio=select_ratio, activation=activation
    )
    config = checkpoint.config
    if checkpoint.is_clip:
        if image_size is None:
            checkpoint.assumed.append("image size {} x {}".format(*IMAGE_SIZE))
        config = adapted_config(
            config,
            image_size=image_size or IMAGE_SIZE,
            stride=stride,
            context_length=config.context_length,
            text_attention_dropout=PUBLISHED_DROPOUT,
            select_ratio=PUBLISHED_RATIO if select_ratio is None else select_ratio,
            **WITHOUT_HEADS,
        )
    elif not is_weights_file(source):
        raise InputError(f"{source} is a model of this package already: there is nothing to convert.")
    try:
        return build_model(checkpoint, config)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def summary(conversion: Conversion) -> list[str]:
    """Say in a few lines what was mapped, resized, assumed, dropped and newly initialised."""
    lines = [f"{conversion.source.kind}, {len(set(conversion.mapped.values()))} weights taken over"]
    if conversion.resized:
        lines.append(f"resized: {', '.join(conversion.resized)}")
    if conversion.source.assumed:
        lines.append(f"assumed: {', '.join(conversion.source.assumed)} (options of cffa-hf convert change it)")
    lines.append(f"dropped: {by_module(conversion.dropped)}")
    lines.append(f"newly initialised: {by_module(conversion.fresh)}")
    return lines


def by_module(names: Mapping[str, str]) -> str:
    """Sum up weights by reason and module: `switched off in the model: classifier (2), mlm_head (6)`."""
    groups: dict[str, dict[str, int]] = {}
    for name, reason in names.items():
        counts = groups.setdefault(reason, {})
        module = name.removeprefix("cffa.").split(".")[0]
        counts[module] = counts.get(module, 0) + 1
    lists = {
        reason: ", ".join(f"{name} ({count})" for name, count in counts.items()) for reason, counts in groups.items()
    }
    return "; ".join(f"{names} - {reason}" for reason, names in lists.items()) or "nothing"
