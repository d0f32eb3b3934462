"""`cffa-hf convert`: weights of another implementation become a model of this package."""

import argparse
import json
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer

from cffa_hf.checkpoints.conversion import Conversion, convert, is_weights_file, summary
from cffa_hf.checkpoints.opening import without_bars
from cffa_hf.checkpoints.tokenizer import CLIP_VOCABULARY, load_tokenizer, vocabulary_size
from cffa_hf.errors import InputError, visible
from cffa_hf.files import check_free, new_folder, write_text
from cffa_hf.inputs.processor import build_processor


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
        with without_bars():
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
            print("\n".join([f"{title}:", *(visible(f"  {name}: {note}") for name, note in names.items())]))
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
