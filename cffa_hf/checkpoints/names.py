"""Names of weights in other implementations, and ours."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from cffa_hf.errors import InputError

VISION_POSITIONS = "cffa.vision_model.embeddings.position_embedding.weight"
TEXT_POSITIONS = "cffa.text_model.embeddings.position_embedding.weight"

# What stands before the names of the vision and of the text encoder.
LAYOUTS = {
    "IRRA": ("base_model.", "base_model."),
    "CLIP": ("", ""),
    "CLIP with its own text module": ("", "text."),
}
VISION_NAMES = {
    "visual.class_embedding": "cffa.vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "cffa.vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": VISION_POSITIONS,
    "visual.ln_pre.weight": "cffa.vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "cffa.vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "cffa.vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "cffa.vision_model.post_layernorm.bias",
    "visual.proj": "cffa.visual_projection.weight",
}
TEXT_NAMES = {
    "token_embedding.weight": "cffa.text_model.embeddings.token_embedding.weight",
    "positional_embedding": TEXT_POSITIONS,
    "ln_final.weight": "cffa.text_model.final_layer_norm.weight",
    "ln_final.bias": "cffa.text_model.final_layer_norm.bias",
    "text_projection": "cffa.text_projection.weight",
}
BLOCK_MODULES = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
REFINEMENT_MODULES = {
    "visul_emb_layer.fc": "cffa.image_refinement.linear",
    "visul_emb_layer.mlp.layers.0": "cffa.image_refinement.mlp_in",
    "visul_emb_layer.mlp.layers.1": "cffa.image_refinement.mlp_out",
    "visul_emb_layer.mlp.bns.0": "cffa.image_refinement.batch_norm",
    "texual_emb_layer.linear": "cffa.text_refinement.linear",
    "texual_emb_layer.mlp.layers.0": "cffa.text_refinement.mlp_in",
    "texual_emb_layer.mlp.layers.1": "cffa.text_refinement.mlp_out",
    "texual_emb_layer.mlp.bns.0": "cffa.text_refinement.batch_norm",
}
REASONING_MODULES = {
    "cross_attn.out_proj": "cross_modal.out_proj",
    "ln_pre_t": "cross_modal.text_norm",
    "ln_pre_i": "cross_modal.image_norm",
    "ln_post": "cross_modal.post_norm",
    "mlm_head.dense": "mlm_head.dense",
    "mlm_head.ln": "mlm_head.norm",
    "mlm_head.fc": "mlm_head.decoder",
}
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
UNUSED_MODULES = ("visul_emb_layer.linear", "visul_emb_layer.mlp.bns.1", "texual_emb_layer.mlp.bns.1")
CLIP_EXTRAS = ("logit_scale", "logit_bias", "input_resolution", "context_length", "vocab_size", "attn_mask")


def find_layout(weights: Mapping[str, Tensor]) -> tuple[str, str]:
    """Tell what stands before the names of the vision and of the text encoder.

    Raises:
        InputError: If it is none of the known layouts.
    """
    for vision, text in LAYOUTS.values():
        if f"{vision}visual.conv1.weight" in weights and f"{text}token_embedding.weight" in weights:
            return vision, text
    raise InputError(
        "this is no checkpoint of a known kind: expected 'visual.conv1.weight' and 'token_embedding.weight', as CLIP's "
        "vision transformers have them (OpenAI, open_clip), or both with 'base_model.' before them (CFFA, IRRA, RDE), "
        f"but found {quote(weights)}; of a model in Hugging Face format, give the folder."
    )


def name_table(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Name every weight that a checkpoint of this kind and depth must have: its name there -> ours.

    A fused query, key and value weight has one name here, ending in `in_proj_weight` or `in_proj_bias`.
    """
    vision, text = find_layout(weights)
    table = {vision + name: target for name, target in VISION_NAMES.items()}
    table |= {text + name: target for name, target in TEXT_NAMES.items()}
    for source, target in (
        (f"{vision}visual.transformer.resblocks", "cffa.vision_model.encoder.layers"),
        (f"{text}transformer.resblocks", "cffa.text_model.encoder.layers"),
    ):
        table |= block_names(source, target, max(1, count_blocks(weights, source)))
    if vision:
        refinement = module_names(REFINEMENT_MODULES)
        blocks = count_blocks(weights, "cross_modal_transformer.resblocks")
        reasoning = module_names(REASONING_MODULES)
        reasoning |= {f"cross_attn.in_proj_{kind}": f"cross_modal.in_proj_{kind}" for kind in ("weight", "bias")}
        reasoning |= block_names("cross_modal_transformer.resblocks", "cross_modal.layers", blocks)
        for part in (refinement, reasoning, module_names({"classifier": "identity_classifier"})):
            if any(name in weights for name in part):
                table |= part
    return table


def module_names(modules: Mapping[str, str]) -> dict[str, str]:
    """Name the weights and biases of modules, and the statistics of those that are batch norms."""
    table = {}
    for source, target in modules.items():
        for kind in ("weight", "bias", *(BUFFERS if ".bns." in source else ())):
            table[f"{source}.{kind}"] = f"{target}.{kind}"
    return table


def block_names(source: str, target: str, count: int) -> dict[str, str]:
    """Name the weights of transformer blocks."""
    table: dict[str, str] = {}
    for index in range(count):
        table |= module_names(
            {f"{source}.{index}.{old}": f"{target}.{index}.{new}" for old, new in BLOCK_MODULES.items()}
        )
        for kind in ("weight", "bias"):
            table[f"{source}.{index}.attn.in_proj_{kind}"] = f"{target}.{index}.self_attn.in_proj_{kind}"
    return table


def count_blocks(weights: Iterable[str], prefix: str) -> int:
    """Count transformer blocks by the highest number behind a prefix.

    Raises:
        InputError: If that number is absurdly high.
    """
    numbers = {name[len(prefix) + 1 :].split(".")[0] for name in weights if name.startswith(f"{prefix}.")}
    count = max((int(number) + 1 for number in numbers if number.isdecimal()), default=0)
    if count > 1000:
        raise InputError(f"the checkpoint names {count} blocks below '{prefix}': it is damaged.")
    return count


def rename_weights(weights: Mapping[str, Tensor], table: Mapping[str, str]) -> dict[str, Tensor]:
    """Give weights our names; fused query-key-value weights are split, projections transposed, float16 made float32.

    Args:
        weights: By their names in the checkpoint, all of them in the table.
        table: As `name_table` makes it.

    Raises:
        InputError: If a fused weight cannot be split.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        target = table[name]
        value = value.float() if value.is_floating_point() else value
        if "in_proj_" in target and (value.ndim == 0 or len(value) % 3):
            raise InputError(
                f"the checkpoint's {name}, {tuple(value.shape)}, cannot be split into query, key and value."
            )
        if target in ("cffa.visual_projection.weight", "cffa.text_projection.weight"):
            value = value.T if value.ndim == 2 else value
        pieces = value.chunk(3) if "in_proj_" in target else [value]
        renamed |= {ours: piece.contiguous() for ours, piece in zip(our_names(target), pieces, strict=True)}
    return renamed


def our_names(target: str) -> list[str]:
    """Name the weights that one entry of the table stands for: three if it is fused, itself if not."""
    stem, fused, kind = target.partition("in_proj_")
    return [f"{stem}{part}_proj.{kind}" for part in "qkv"] if fused else [target]


def kind_of(table: Mapping[str, str]) -> str:
    """Say whose checkpoint a table of names describes."""
    if "visual.conv1.weight" in table:
        return "CLIP (OpenAI or open_clip)"
    if "visul_emb_layer.fc.weight" in table:
        return "CFFA" if "cross_attn.in_proj_weight" in table else "RDE"
    return "IRRA" if {"cross_attn.in_proj_weight", "classifier.weight"} & set(table) else "CLIP in IRRA's layout"


def reason_to_drop(name: str) -> str | None:
    """Say why a weight that has no place in our model is not needed; None if it is."""
    if name.rpartition(".")[0] in UNUSED_MODULES:
        return "never used by the published model"
    if name.rpartition(".")[2] in CLIP_EXTRAS:
        return "not needed to embed"
    return None


def quote(names: Iterable[str], most: int = 5) -> str:
    """List the first names, control characters spelt out, and say how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(str(name)[:200]) for name in names[:most]) + more
