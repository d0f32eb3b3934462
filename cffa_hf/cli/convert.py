"""Other people's weights -> CFFA: `cffa-hf convert`, and where a training run starts from."""

import argparse
import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPProcessor, CLIPTokenizer

from cffa_hf.arguments.parsing import ModelArguments
from cffa_hf.checkpoints.conversion import (
    Conversion,
    account,
    adapted_config,
    build_model,
    convert,
    is_weights_file,
    load_source,
)
from cffa_hf.checkpoints.folders import find_folder
from cffa_hf.checkpoints.saved_processor import check_tokenizer, read_tokenizer
from cffa_hf.configuration_cffa import CFFAConfig
from cffa_hf.errors import InputError
from cffa_hf.files import new_folder, write_text
from cffa_hf.inputs.processor import add_mask_token, build_processor, clip_tokenizer, train_tokenizer
from cffa_hf.modeling_cffa import CFFAForPreTraining

logger = logging.getLogger(__name__)

CLIP_VOCABULARY = 49408


def load_tokenizer(source: str, expected_size: int | None = None) -> CLIPTokenizer:
    """Load CLIP's tokenizer with the mask token in the place of its last merge.

    Args:
        source: CLIP's merges file, or a folder or name on the Hub of a CLIP tokenizer.
        expected_size: Vocabulary of the model it is for; None: any.

    Raises:
        InputError: If there is no tokenizer, it is damaged, or not that of the model.
    """
    is_file = Path(source).is_file()
    tokenizer = add_mask_token(clip_tokenizer(source) if is_file else read_tokenizer(find_folder(source)[0]))
    check_tokenizer(tokenizer, source, expected_size)
    return tokenizer


def vocabulary_size(config: CFFAConfig) -> int:
    """Return the number of token embeddings."""
    text: Any = config.text_config
    return text.vocab_size


@contextmanager
def explained_settings() -> Iterator[None]:
    """Say in one sentence which setting makes no model.

    Raises:
        InputError: In place of the library's own error.
    """
    try:
        yield
    except StrictDataclassError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise InputError(f"these settings make no model: {reason}") from error


@explained_settings()
def starting_model(
    arguments: ModelArguments, captions: Iterable[str], num_identities: int
) -> tuple[CFFAForPreTraining, CLIPProcessor]:
    """Make the model and the processor that a training run starts from.

    Of a checkpoint come the encoders' sizes and, where it has them, the width of the local features and the number of
    cross-modal layers. Image size, stride, context length, select ratio, dropout and which heads there are come from
    the arguments. Position tables are resized, and heads that the checkpoint lacks or that do not fit are left fresh
    and named in the log.

    Args:
        arguments: `init_from` names a checkpoint: a file, a folder or a name on the Hub; None: random weights of the
            sizes given there. `tokenizer` is needed where the checkpoint has none.
        captions: Of the train split; only for random weights, whose tokenizer is trained on them if none is given.
        num_identities: Classes of the identity classifier.

    Raises:
        InputError: If the checkpoint is not there, damaged, or of no kind that is known.
    """
    image_size = (arguments.image_size[0], arguments.image_size[-1])
    fields = {
        "num_identities": num_identities,
        "use_flfr": arguments.use_flfr,
        "use_mlm": arguments.use_mlm,
        "use_identity": arguments.use_identity,
        "cross_modal_layers": arguments.cross_modal_layers,
        "select_ratio": arguments.select_ratio,
        "local_dim": arguments.local_dim,
        "stride": arguments.stride,
    }
    if arguments.init_from is None:
        if arguments.tokenizer is None:
            tokenizer = train_tokenizer(captions, arguments.vocabulary_size)
        else:
            tokenizer = load_tokenizer(arguments.tokenizer)
        model = CFFAForPreTraining(random_config(arguments, image_size, len(tokenizer), fields))
        return model, build_processor(tokenizer, image_size, arguments.context_length)

    origin = arguments.init_from
    if is_weights_file(origin) and arguments.tokenizer is None:
        raise InputError(
            f"init_from: {origin} has no tokenizer with it: set 'tokenizer' to a CLIP tokenizer "
            "(openai/clip-vit-base-patch16, a folder, or CLIP's merges file bpe_simple_vocab_16e6.txt.gz)"
        )
    try:
        source = load_source(origin, likely_size=image_size, select_ratio=arguments.select_ratio, strict=False)
        tokenizer = load_tokenizer(arguments.tokenizer or origin, vocabulary_size(source.config))
        if "cffa.image_refinement.linear.weight" in source.weights:
            fields["local_dim"] = source.config.local_dim
        if "cross_modal.q_proj.weight" in source.weights:
            fields["cross_modal_layers"] = source.config.cross_modal_layers
        config = adapted_config(
            source.config,
            image_size=image_size,
            context_length=arguments.context_length,
            text_attention_dropout=arguments.text_attention_dropout,
            **fields,
        )
        conversion = build_model(source, config, strict=False)
    except InputError as error:
        raise InputError(f"init_from: {error}") from error
    logger.warning("init_from %s: %s", origin, "; ".join(account(conversion)))
    return conversion.model.train(), build_processor(tokenizer, config.image_size, config.context_length)


def random_config(
    arguments: ModelArguments, image_size: tuple[int, int], vocabulary_size: int, fields: dict[str, Any]
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
    return CFFAConfig(text_config=text, vision_config=vision, projection_dim=arguments.projection_dim, **fields)


def add_parser(subparsers: Any) -> None:
    """Add `convert` to the command `cffa-hf`."""
    text = "turn a checkpoint of CLIP, open_clip, IRRA, RDE or CFFA into a model of this package"
    parser = subparsers.add_parser("convert", help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("source", metavar="SOURCE", help="file of weights, or folder or Hub name of a CLIP model")
    parser.add_argument("out", metavar="OUT", help="new folder for the model, its processor and conversion.json")
    parser.add_argument(
        "--image-size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="height and width in pixels: of a general CLIP the wanted ones, of others those of its training "
        "(default: 384 128, or a square if only that fits)",
    )
    parser.add_argument(
        "--stride", type=int, metavar="S", help="step between patches (default: patch size, or what fits)"
    )
    parser.add_argument(
        "--select-ratio", type=float, metavar="R", help="share of tokens in local features (default: 0.3)"
    )
    parser.add_argument(
        "--activation",
        choices=["quick_gelu", "gelu"],
        help="of the encoders in a file (default: quick_gelu; models that open_clip trained itself mostly have gelu)",
    )
    parser.add_argument(
        "--vocabulary",
        metavar="merges.txt.gz",
        help="CLIP's bpe_simple_vocab_16e6.txt.gz, or a folder or Hub name of a CLIP tokenizer, for the processor",
    )
    parser.add_argument("--verbose", action="store_true", help="print the name of every weight")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Convert a checkpoint as the command line says, write the folder and print the account.

    Raises:
        InputError: If OUT is in use, or as in `convert`.
    """
    out = Path(arguments.out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InputError(f"{out} exists and is not empty: give a new folder")
    image_size = tuple(arguments.image_size) if arguments.image_size else None
    conversion = convert(
        arguments.source,
        image_size=image_size,
        stride=arguments.stride,
        select_ratio=arguments.select_ratio,
        activation=arguments.activation,
    )
    tokenizer, reason = processor_tokenizer(arguments, vocabulary_size(conversion.model.config))
    model: Any = conversion.model.base_model
    config = conversion.model.config
    heads = [name for name in conversion.mapped if not name.startswith("cffa.")]
    conversion.dropped |= {conversion.source.origins[name]: "training head, not needed to embed" for name in heads}
    with new_folder(out) as folder:
        model.save_pretrained(folder)
        if tokenizer is not None:
            build_processor(tokenizer, config.image_size, config.context_length).save_pretrained(folder)
        write_text(folder / "conversion.json", json.dumps(record(arguments, conversion), indent=2) + "\n")

    print("\n".join(account(conversion)))
    if arguments.verbose:
        for title, names in (
            ("mapped", {name: f"from {origin}" for name, origin in conversion.mapped.items()}),
            ("dropped", conversion.dropped),
            ("left fresh", conversion.fresh),
        ):
            print("\n".join([f"{title}:", *(f"  {name}: {note}" for name, note in names.items())]))
    print(
        "model: images {} x {}, patches {} x {}".format(*config.image_size, *config.grid_size)
        + f", {config.context_length} tokens, embedding of {config.embedding_dim}"
    )
    written = "model and processor" if tokenizer is not None else f"the model only, no processor ({reason})"
    print(f"wrote {written}, and conversion.json with all names: {out}")


def processor_tokenizer(arguments: argparse.Namespace, vocabulary_size: int) -> tuple[CLIPTokenizer | None, str]:
    """Find the tokenizer for a converted model, or say why there is none."""
    if arguments.vocabulary is not None:
        return load_tokenizer(arguments.vocabulary, vocabulary_size), ""
    if is_weights_file(arguments.source):
        if vocabulary_size != CLIP_VOCABULARY:
            return None, f"its vocabulary of {vocabulary_size} ids is not CLIP's of {CLIP_VOCABULARY}"
        return None, "the file has no tokenizer; --vocabulary bpe_simple_vocab_16e6.txt.gz would give it one"
    try:
        return load_tokenizer(arguments.source, vocabulary_size), ""
    except InputError as error:
        return None, str(error)


def record(arguments: argparse.Namespace, conversion: Conversion) -> dict[str, Any]:
    """Collect the whole account of a conversion for conversion.json."""
    config = conversion.model.config
    local = Path(arguments.source).exists()
    return {
        "source": Path(arguments.source).name if local else arguments.source,
        "kind": conversion.source.kind,
        "image_size": list(config.image_size),
        "grid_size": list(config.grid_size),
        "stride": config.stride,
        "select_ratio": config.select_ratio,
        "context_length": config.context_length,
        "embedding_dim": config.embedding_dim,
        "assumed": conversion.source.assumed,
        "resized": conversion.resized,
        "mapped": conversion.mapped,
        "dropped": conversion.dropped,
        "fresh": conversion.fresh,
    }
