"""`cffa-hf convert`: weights of another implementation become a model of this package."""

import argparse
import json
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer

from cffa_hf.checkpoints.conversion import Conversion, convert, is_weights_file, summary
from cffa_hf.checkpoints.tokenizer import CLIP_VOCABULARY, load_tokenizer, vocabulary_size
from cffa_hf.errors import InputError
from cffa_hf.files import check_free, new_folder, write_text
from cffa_hf.inputs.processor import build_processor


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
    """Convert a checkpoint as the command line says, write the folder and print a summary.

    Raises:
        InputError: If OUT is in use, or as in `convert`.
    """
    out = Path(arguments.out)
    check_free(out)
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

    print("\n".join(summary(conversion)))
    if arguments.verbose:
        for title, names in (
            ("mapped", {name: f"from {origin}" for name, origin in conversion.mapped.items()}),
            ("dropped", conversion.dropped),
            ("newly initialised", conversion.fresh),
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
    """Collect what became of every weight for conversion.json."""
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
