"""Reading of state dicts of other implementations: kind, sizes, and the weights under our names."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from cffa_hf.checkpoints.names import (
    count_blocks,
    find_layout,
    kind_of,
    name_table,
    our_names,
    quote,
    reason_to_drop,
    rename_weights,
)
from cffa_hf.configuration_cffa import IMAGE_SIZE, CFFAConfig
from cffa_hf.errors import InputError, explained

PUBLISHED_RATIO = 0.3
PUBLISHED_DROPOUT = 0.05

# Everywhere else a vision head has 64 channels; these are the widths of open_clip's H/14, g/14 and bigG/14.
VISION_HEAD_CHANNELS = {1280: 80, 1408: 88, 1664: 104}


@dataclass
class SourceCheckpoint:
    """A checkpoint of whatever origin, as weights of CFFAForPreTraining and the configuration they were trained with.

    Attributes:
        kind: What it is, for the summary.
        config: Its sizes. Parts that it does not have are switched off.
        weights: By our names, float32.
        origins: Our name -> name in the checkpoint.
        dropped: Name in the checkpoint -> why it has no place here.
        assumed: What the shapes do not tell and no argument said.
        is_clip: Whether it is a general CLIP, whose positions are yet to be resized to images of persons.
    """

    kind: str
    config: CFFAConfig
    weights: dict[str, Tensor]
    origins: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    is_clip: bool = False


def read_original(
    weights: Mapping[str, Tensor],
    *,
    image_size: tuple[int, int] | None = None,
    likely_size: tuple[int, int] | None = None,
    stride: int | None = None,
    select_ratio: float | None = None,
    activation: str | None = None,
    strict: bool = True,
) -> SourceCheckpoint:
    """Read a state dict with the names of OpenAI's CLIP, open_clip, IRRA, RDE or CFFA.

    Args:
        weights: The state dict.
        image_size: Height and width that it was trained at; of a general CLIP only if it is neither a square nor the
            published one. None: the published one or a square, whichever fits.
        likely_size: Tried after the published one.
        stride: Step between its patches in pixels; not used for a general CLIP. None: whichever fits, first of all the
            patch size.
        select_ratio: Share of tokens that its local features keep. None: the published one.
        activation: Of its encoders. None: `quick_gelu`, as published; open_clip's own models have `gelu`.
        strict: False: heads behind the encoders may lack weights or be unknown.

    Raises:
        InputError: If a weight is missing or unknown, or the position table fits no image size.
    """
    vision, _ = find_layout(weights)
    if not vision:
        image_size, likely_size, stride = None, image_size or likely_size, None
    table = name_table(weights)
    dropped = {name: reason for name in weights if name not in table and (reason := reason_to_drop(name))}
    unknown = [name for name in weights if name not in table and name not in dropped]
    missing = [name for name in table if name not in weights]
    if not strict:
        heads = [name for name in unknown if vision and not name.startswith(vision)]
        dropped |= dict.fromkeys(heads, "a head that CFFA does not have")
        unknown = [name for name in unknown if name not in dropped]
        missing = [name for name in missing if not vision or name.startswith(vision)]
    if missing or unknown:
        problems = [f"it lacks {quote(missing)}"] if missing else []
        problems += [f"it has the unknown {quote(unknown)}"] if unknown else []
        raise InputError(f"this is no complete checkpoint of {kind_of(table)}: {' and '.join(problems)}.")

    assumed = []
    config, position_note = read_config(weights, image_size, likely_size, stride, select_ratio, activation)
    if position_note:
        assumed.append(position_note)
    if select_ratio is None and config.use_flfr:
        assumed.append(f"select ratio {PUBLISHED_RATIO}")
    if activation is None:
        assumed.append("activation quick_gelu")
    present = {name: weights[name] for name in table if name in weights}
    origins = {ours: name for name in present for ours in our_names(table[name])}
    return SourceCheckpoint(
        kind_of(table), config, rename_weights(present, table), origins, dropped, assumed, is_clip=not vision
    )


def read_config(
    weights: Mapping[str, Tensor],
    image_size: tuple[int, int] | None,
    likely_size: tuple[int, int] | None,
    stride: int | None,
    select_ratio: float | None,
    activation: str | None,
) -> tuple[CFFAConfig, str | None]:
    """Read the sizes from the shapes; arguments as in `read_original`.

    Returns:
        The configuration, and what had to be assumed about the image size.
    """
    vision, text = find_layout(weights)

    shape = partial(shape_of, weights)
    vision_width, _, patch, _ = shape(f"{vision}visual.conv1.weight", 4)
    vocabulary, text_width = shape(f"{text}token_embedding.weight", 2)
    patches = shape(f"{vision}visual.positional_embedding", 2)[0] - 1
    activation = activation or "quick_gelu"
    if vision:
        candidates = [IMAGE_SIZE, likely_size, square_size(patches, patch)]
    else:
        candidates = [square_size(patches, patch), IMAGE_SIZE, likely_size]
    sizes = [image_size] if image_size else [size for size in candidates if size]
    found_size, found_stride = fit_positions(patches, patch, sizes, stride)
    note = None
    if image_size is None and vision:
        note = f"image size {found_size[0]} x {found_size[1]} with stride {found_stride}"
    with explained("these sizes make no model", StrictDataclassError, ValueError):
        config = CFFAConfig(
            text_config={
                "vocab_size": vocabulary,
                "hidden_size": text_width,
                "intermediate_size": shape(f"{text}transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
                "num_hidden_layers": count_blocks(weights, f"{text}transformer.resblocks"),
                "num_attention_heads": max(1, text_width // 64),
                "max_position_embeddings": shape(f"{text}positional_embedding", 2)[0],
                "attention_dropout": PUBLISHED_DROPOUT,
                "hidden_act": activation,
            },
            vision_config={
                "hidden_size": vision_width,
                "intermediate_size": shape(f"{vision}visual.transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
                "num_hidden_layers": count_blocks(weights, f"{vision}visual.transformer.resblocks"),
                "num_attention_heads": max(1, vision_width // VISION_HEAD_CHANNELS.get(vision_width, 64)),
                "patch_size": patch,
                "image_size": list(found_size),
                "hidden_act": activation,
            },
            projection_dim=shape(f"{text}text_projection", 2)[1],
            stride=found_stride,
            select_ratio=PUBLISHED_RATIO if select_ratio is None else select_ratio,
            **head_fields(weights),
        )
    return config, note


def shape_of(weights: Mapping[str, Tensor], name: str, dimensions: int) -> torch.Size:
    """Return the shape of a weight from which a size is read.

    Raises:
        InputError: If it is not there, or has not so many dimensions.
    """
    if name not in weights:
        raise InputError(f"the checkpoint lacks {name}, from which a size is read.")
    if weights[name].ndim != dimensions:
        raise InputError(
            f"the checkpoint's {name} is {tuple(weights[name].shape)}, but must have {dimensions} dimensions."
        )
    return weights[name].shape


def head_fields(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read from the weights which heads there are, and their sizes."""
    fields: dict[str, Any] = {"use_flfr": False, "use_mlm": False, "use_identity": False}
    table = name_table(weights)
    if "visul_emb_layer.fc.weight" in table:
        fields |= {"use_flfr": True, "local_dim": shape_of(weights, "visul_emb_layer.fc.weight", 2)[0]}
    if "cross_attn.in_proj_weight" in table:
        blocks = count_blocks(weights, "cross_modal_transformer.resblocks")
        fields |= {"use_mlm": True, "cross_modal_layers": blocks}
    if "classifier.weight" in table:
        fields |= {"use_identity": True, "num_identities": shape_of(weights, "classifier.weight", 2)[0]}
    return fields


def square_size(patches: int, patch: int) -> tuple[int, int] | None:
    """Return the square image that has so many patches, None if there is none."""
    side = round(patches**0.5) if patches > 0 else 0
    return (side * patch, side * patch) if side and side * side == patches else None


def fit_positions(
    patches: int, patch: int, sizes: Iterable[tuple[int, int]], stride: int | None
) -> tuple[tuple[int, int], int]:
    """Find the image size and the stride that make a given number of patches.

    Args:
        patches: Rows of the position table, less the CLS token's.
        patch: Patch size in pixels.
        sizes: Image sizes, the first that fits is taken.
        stride: None: the patch size, or else the only smaller one that fits.

    Raises:
        InputError: If nothing fits, or several strides do.
    """
    tried = []
    for height, width in sizes:
        grids = {
            step: ((height - patch) // step + 1) * ((width - patch) // step + 1)
            for step in ([stride] if stride else range(patch, 0, -1))
            if min(height, width) >= patch
        }
        fitting = [step for step, count in grids.items() if count == patches]
        if fitting and (len(fitting) == 1 or fitting[0] == patch):
            return (height, width), fitting[0]
        if fitting:
            raise InputError(
                f"strides of {', '.join(map(str, fitting))} pixels all make the {patches} patches of the position "
                f"table at {height} x {width}: say which one it is (stride)."
            )
        tried.append(f"{height} x {width}")
    square = square_size(patches, patch)
    hint = f"; a square of {square[0]} x {square[1]} would fit" if square else ""
    steps = f"a stride of {stride}" if stride else "any stride"
    raise InputError(
        f"the position table has {patches} + 1 rows, but images of {' or '.join(tried)} in patches of {patch} pixels "
        f"never make {patches} patches with {steps}: tell the size that it was trained at (image_size){hint}."
    )
