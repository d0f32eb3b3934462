"""Other people's weights -> CFFA, and where a training run starts from."""

import pickle
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import torch
from torch import Tensor
from transformers import AutoConfig, CLIPConfig, CLIPProcessor, CLIPTokenizer

from cffa_hf.arguments import ModelArguments
from cffa_hf.configuration_cffa import CFFAConfig
from cffa_hf.data.processor import add_mask_token, build_processor, train_tokenizer
from cffa_hf.errors import InputError
from cffa_hf.modeling_cffa import CFFAForPreTraining

# Names of the published implementation that its own forward pass never uses.
UNUSED = ("visul_emb_layer.linear.", "visul_emb_layer.mlp.bns.1.", "texual_emb_layer.mlp.bns.1.")

# First match wins; what stands behind a prefix is kept. Blocks of transformers are renamed by `rename_block`.
PREFIXES = {
    "base_model.visual.transformer.resblocks.": "cffa.vision_model.encoder.layers.",
    "base_model.visual.class_embedding": "cffa.vision_model.embeddings.class_embedding",
    "base_model.visual.conv1.weight": "cffa.vision_model.embeddings.patch_embedding.weight",
    "base_model.visual.positional_embedding": "cffa.vision_model.embeddings.position_embedding.weight",
    "base_model.visual.ln_pre.": "cffa.vision_model.pre_layrnorm.",
    "base_model.visual.ln_post.": "cffa.vision_model.post_layernorm.",
    "base_model.visual.proj": "cffa.visual_projection.weight",
    "base_model.transformer.resblocks.": "cffa.text_model.encoder.layers.",
    "base_model.token_embedding.weight": "cffa.text_model.embeddings.token_embedding.weight",
    "base_model.positional_embedding": "cffa.text_model.embeddings.position_embedding.weight",
    "base_model.ln_final.": "cffa.text_model.final_layer_norm.",
    "base_model.text_projection": "cffa.text_projection.weight",
    "visul_emb_layer.fc.": "cffa.image_refinement.linear.",
    "visul_emb_layer.mlp.layers.0.": "cffa.image_refinement.mlp_in.",
    "visul_emb_layer.mlp.layers.1.": "cffa.image_refinement.mlp_out.",
    "visul_emb_layer.mlp.bns.0.": "cffa.image_refinement.batch_norm.",
    "texual_emb_layer.linear.": "cffa.text_refinement.linear.",
    "texual_emb_layer.mlp.layers.0.": "cffa.text_refinement.mlp_in.",
    "texual_emb_layer.mlp.layers.1.": "cffa.text_refinement.mlp_out.",
    "texual_emb_layer.mlp.bns.0.": "cffa.text_refinement.batch_norm.",
    "classifier.": "identity_classifier.",
    "cross_attn.": "cross_modal.",
    "cross_modal_transformer.resblocks.": "cross_modal.layers.",
    "ln_pre_t.": "cross_modal.text_norm.",
    "ln_pre_i.": "cross_modal.image_norm.",
    "ln_post.": "cross_modal.post_norm.",
    "mlm_head.dense.": "mlm_head.dense.",
    "mlm_head.ln.": "mlm_head.norm.",
    "mlm_head.fc.": "mlm_head.decoder.",
}
BLOCK_PARTS = {
    ".attn.": ".self_attn.",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".c_fc.": ".fc1.",
    ".c_proj.": ".fc2.",
}


@dataclass
class Conversion:
    """A converted checkpoint and the account of it.

    Args:
        model: The training model; its `base_model` is the CFFAModel.
        dropped: Names of weights that the model has no use for.
        fresh: Names of weights that the checkpoint did not have.
    """

    model: CFFAForPreTraining
    dropped: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of a `.pth` or `.pt` file without executing anything in it.

    Raises:
        InputError: If the file is missing, truncated or a pickle that wants more than weights.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist: give the path of a checkpoint file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than weights and is refused, because loading it could run code: save its state dict alone "
            f"(torch.save(model.state_dict(), ...)) and convert that ({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError, BadZipFile, OSError) as error:
        raise InputError(f"{path} cannot be read, it is probably truncated: download it again ({error})") from error
    weights = content.get("model", content.get("state_dict", content)) if isinstance(content, dict) else {}
    weights = {name.removeprefix("module."): value for name, value in weights.items() if isinstance(value, Tensor)}
    if not weights:
        raise InputError(f"{path} holds no weights: expected a state dict, alone or under the key 'model'")
    return weights


def convert_original(
    weights: dict[str, Tensor],
    *,
    image_size: tuple[int, int] = (384, 128),
    stride: int | None = None,
    select_ratio: float = 0.3,
) -> Conversion:
    """Turn a checkpoint of the original CFFA implementation into a training model.

    Sizes, depth and identity count are read from the shapes; what shapes do not tell is an argument.

    Args:
        weights: State dict with the original names.
        image_size: Height and width in pixels.
        stride: Step between patches in pixels; None: the patch size.
        select_ratio: Share of tokens that the local features keep.

    Raises:
        InputError: If a weight is missing, or one is there that nobody knows.
    """
    config = original_config(weights, image_size=image_size, stride=stride, select_ratio=select_ratio)
    model = CFFAForPreTraining(config)
    dropped = [name for name in weights if name.startswith(UNUSED)]
    renamed = rename_weights({name: value for name, value in weights.items() if name not in set(dropped)})
    try:
        fresh, unexpected = model.load_state_dict(renamed, strict=False)
    except RuntimeError as error:
        raise InputError(f"the checkpoint does not fit the sizes read from it: {error}") from error
    if fresh or unexpected:
        raise InputError(
            f"this is not a whole checkpoint of the original CFFA: missing {fresh[:5]}, unknown {unexpected[:5]}"
        )
    return Conversion(model.eval(), dropped=dropped)


def original_config(
    weights: dict[str, Tensor], *, image_size: tuple[int, int], stride: int | None, select_ratio: float
) -> CFFAConfig:
    """Read the sizes of an original checkpoint from the shapes of its weights."""
    try:
        vocabulary, text_width = weights["base_model.token_embedding.weight"].shape
        vision_width, _, patch, _ = weights["base_model.visual.conv1.weight"].shape
        text = {
            "vocab_size": vocabulary,
            "hidden_size": text_width,
            "intermediate_size": 4 * text_width,
            "num_hidden_layers": count_blocks(weights, "base_model.transformer.resblocks."),
            "num_attention_heads": text_width // 64,
            "max_position_embeddings": weights["base_model.positional_embedding"].shape[0],
            "attention_dropout": 0.05,
        }
        vision = {
            "hidden_size": vision_width,
            "intermediate_size": 4 * vision_width,
            "num_hidden_layers": count_blocks(weights, "base_model.visual.transformer.resblocks."),
            "num_attention_heads": vision_width // 64,
            "patch_size": patch,
            "image_size": list(image_size),
        }
        return CFFAConfig(
            text_config=text,
            vision_config=vision,
            projection_dim=weights["base_model.text_projection"].shape[1],
            stride=stride,
            select_ratio=select_ratio,
            local_dim=weights["visul_emb_layer.fc.weight"].shape[0],
            num_identities=weights["classifier.weight"].shape[0],
            cross_modal_layers=count_blocks(weights, "cross_modal_transformer.resblocks."),
        )
    except KeyError as error:
        raise InputError(f"this is not a checkpoint of the original CFFA: it has no weight {error}") from error


def count_blocks(weights: dict[str, Tensor], prefix: str) -> int:
    """Count the transformer blocks below a prefix."""
    return len({name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)})


def rename_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give original weights our names; fused query-key-value weights are split and projections transposed."""
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
        target = PREFIXES[prefix] + name[len(prefix) :] if prefix else name
        if prefix and "layers." in target:
            for old, new in BLOCK_PARTS.items():
                target = target.replace(old, new)
        if target.endswith(("visual_projection.weight", "text_projection.weight")):
            value = value.T
        if "in_proj_" in target:
            stem, kind = target.split("in_proj_")
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                renamed[f"{stem}{part}_proj.{kind}"] = piece.clone()
        else:
            renamed[target] = value.contiguous()
    return renamed


def starting_model(
    arguments: ModelArguments, captions: Iterable[str], num_identities: int
) -> tuple[CFFAForPreTraining, CLIPProcessor]:
    """Make the model and the processor that a training run starts from.

    Args:
        arguments: `init_from` names a CLIP or CFFA checkpoint; None: random weights of the sizes given there.
        captions: Of the train split; only for random weights, whose tokenizer is trained on them.
        num_identities: Classes of the identity classifier.

    Raises:
        InputError: If the checkpoint is not there, or of no kind that is known.
    """
    image_size = (arguments.image_size[0], arguments.image_size[-1])
    heads = {
        "num_identities": num_identities,
        "use_flfr": arguments.use_flfr,
        "use_mlm": arguments.use_mlm,
        "use_identity": arguments.use_identity,
        "cross_modal_layers": arguments.cross_modal_layers,
        "select_ratio": arguments.select_ratio,
        "local_dim": arguments.local_dim,
    }
    if arguments.init_from is None:
        tokenizer = train_tokenizer(captions, arguments.vocabulary_size)
        model = CFFAForPreTraining(random_config(arguments, image_size, len(tokenizer), heads))
        return model, build_processor(tokenizer, image_size, arguments.context_length)
    source = arguments.init_from
    try:
        config = AutoConfig.from_pretrained(source)
        tokenizer = add_mask_token(CLIPTokenizer.from_pretrained(source))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"init_from: {source} cannot be loaded as a checkpoint with its tokenizer: {reason}"
        ) from error
    if isinstance(config, CLIPConfig):
        model = CFFAForPreTraining.from_clip_pretrained(
            source,
            image_size=image_size,
            stride=arguments.stride,
            context_length=arguments.context_length,
            text_attention_dropout=arguments.text_attention_dropout,
            **heads,
        )
    elif isinstance(config, CFFAConfig):
        model = CFFAForPreTraining.from_pretrained(
            source, dtype=torch.float32, num_identities=num_identities, ignore_mismatched_sizes=True
        )
    else:
        raise InputError(f"init_from: {source} holds a {config.model_type} model; CLIP or CFFA weights are needed")
    return model, build_processor(tokenizer, model.config.image_size, model.config.context_length)


def random_config(
    arguments: ModelArguments, image_size: tuple[int, int], vocabulary_size: int, heads: dict[str, object]
) -> CFFAConfig:
    """Describe a small CLIP-shaped model that starts from random weights."""
    sizes = {
        "hidden_size": arguments.hidden_size,
        "intermediate_size": 4 * arguments.hidden_size,
        "num_hidden_layers": arguments.num_layers,
        "num_attention_heads": max(1, arguments.hidden_size // 64),
    }
    text = {
        **sizes,
        "vocab_size": vocabulary_size,
        "max_position_embeddings": arguments.context_length,
        "attention_dropout": arguments.text_attention_dropout,
    }
    vision = {**sizes, "patch_size": arguments.patch_size, "image_size": list(image_size)}
    return CFFAConfig(
        text_config=text,
        vision_config=vision,
        projection_dim=arguments.projection_dim,
        stride=arguments.stride,
        **heads,
    )
