"""Tokenizer and processor of a folder: read without running anything, and compared with the model they are for."""

from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, CLIPProcessor, CLIPTokenizer

from cffa_hf.configuration_cffa import CFFAConfig
from cffa_hf.errors import InputError, one_line
from cffa_hf.json_files import read_object

TOKENIZER_CONFIG = "tokenizer_config.json"
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
# The names by which the files may ask for a class; the class itself is never looked up by them.
CLASSES = {
    "tokenizer_class": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "processor_class": ("CLIPProcessor",),
    "image_processor_type": ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil"),
    "feature_extractor_type": ("CLIPFeatureExtractor",),
}


def read_tokenizer(folder: Path) -> CLIPTokenizer:
    """Read the CLIP tokenizer of a folder.

    Raises:
        InputError: If there is none, it is damaged, of another class, or asks for code.
    """
    if not (folder / "tokenizer.json").is_file() and not all(
        (folder / name).is_file() for name in ("vocab.json", "merges.txt")
    ):
        raise InputError(
            f"{folder} has no tokenizer (tokenizer.json, or vocab.json and merges.txt); give a folder that has one."
        )
    _refuse_code(folder, TOKENIZER_CONFIG)
    try:
        return CLIPTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # whatever a damaged file may raise in the library
        raise _unreadable(folder, "tokenizer", error) from error


def read_processor(folder: Path) -> CLIPProcessor:
    """Read the CLIP processor of a folder: its tokenizer, and how it prepares images.

    Raises:
        InputError: If there is none, it is damaged, of another class, or asks for code.
    """
    if not any((folder / name).is_file() for name in PROCESSOR_FILES):
        raise InputError(
            f"{folder} has no processor ({PROCESSOR_FILES[0]}), so images and sentences cannot be prepared; give a "
            "folder that has one."
        )
    tokenizer = read_tokenizer(folder)
    for name in PROCESSOR_FILES:
        _refuse_code(folder, name)
    try:
        images = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        return CLIPProcessor(image_processor=images, tokenizer=tokenizer)
    except Exception as error:  # whatever a damaged file may raise in the library
        raise _unreadable(folder, "processor", error) from error


def check_tokenizer(tokenizer: CLIPTokenizer, source: str | Path, vocabulary_size: int | None = None) -> None:
    """Refuse a tokenizer that is not of a model: its ids would stand for other words there.

    Args:
        tokenizer: With a mask token.
        source: What the message calls it.
        vocabulary_size: Number of token embeddings of the model; None: as many as the tokenizer has.

    Raises:
        InputError: If it has another number of ids, its mask, start and end token are not the last
            three, in this order, or it cannot pad.
    """
    size = len(tokenizer) if vocabulary_size is None else vocabulary_size
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if len(tokenizer) != size or highest != size - 1:
        raise InputError(
            f"{source} has a tokenizer of {len(tokenizer)} ids, but the weights have {size}: "
            "give the tokenizer that they were trained with."
        )
    found = (tokenizer.mask_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    if found != (size - 3, size - 2, size - 1):
        raise InputError(
            f"{source} has a tokenizer whose mask, start and end token have the ids {', '.join(map(str, found))} "
            f"instead of {size - 3}, {size - 2}, {size - 1}: give the tokenizer that the weights were trained with."
        )
    if tokenizer.pad_token_id is None:
        raise InputError(f"{source} has a tokenizer without a padding token: set pad_token to its end token.")


def check_processor(processor: CLIPProcessor, config: CFFAConfig, source: str | Path) -> None:
    """Refuse a processor that is not of a model.

    Raises:
        InputError: If the tokenizer is another one, or cuts captions or sizes images otherwise than the model reads them.
    """
    text: Any = config.text_config
    check_tokenizer(processor.tokenizer, source, text.vocab_size)
    longest = processor.tokenizer.model_max_length
    if longest != config.context_length:
        raise InputError(
            f"{source} has a tokenizer for captions of {longest} tokens, but its model reads {config.context_length}: "
            "give the processor that was saved with the model."
        )
    images: Any = processor.image_processor
    sizes = [images.size] + ([images.crop_size] if images.do_center_crop else [])
    for size in sizes:
        found = {name: value for name, value in dict(size).items() if value is not None}
        height, width = config.image_size
        if found != {"height": height, "width": width} or not images.do_resize:
            told = " x ".join(map(str, found.values())) if "height" in found else str(found)
            raise InputError(
                f"{source} has a processor for images of {told} pixels, but its model reads {height} x {width}: "
                "give the processor that was saved with the model."
            )


def _refuse_code(folder: Path, name: str) -> None:
    """Refuse a file that names code of its own, or another class than CLIP's."""
    if not (folder / name).is_file():
        return
    values = read_object(folder / name)
    parts = [values, *(part for part in values.values() if isinstance(part, dict))]
    for part in parts:
        if part.get("auto_map") is not None:
            raise InputError(
                f"{folder / name} names code of its own (auto_map), and code of a checkpoint is never run; "
                "give a folder with the processor of CLIP."
            )
        for key, known in CLASSES.items():
            if part.get(key) is not None and part[key] not in known:
                raise InputError(
                    f"{folder / name} asks for the class {str(part[key])[:60]!r} instead of {known[0]}; "
                    "give a folder with the processor of CLIP."
                )


def _unreadable(folder: Path, what: str, error: Exception) -> InputError:
    return InputError(f"{folder} has a damaged {what} ({one_line(error, 200)}); get its files again.")
