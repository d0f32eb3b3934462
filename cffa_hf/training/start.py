"""Where a training run starts from: somebody's weights, or random ones."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from datasets import Dataset
from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPProcessor

from cffa_hf.arguments.model import ModelArguments
from cffa_hf.checkpoints.conversion import adapted_config, build_model, is_weights_file, load_source, summary
from cffa_hf.checkpoints.tokenizer import load_tokenizer, vocabulary_size
from cffa_hf.configuration_cffa import IMAGE_SIZE, CFFAConfig
from cffa_hf.data.facts import count_split
from cffa_hf.errors import InputError, one_line
from cffa_hf.inputs.processor import build_processor, train_tokenizer
from cffa_hf.modeling_cffa import CFFAForPreTraining

logger = logging.getLogger(__name__)


@contextmanager
def explained_settings() -> Iterator[None]:
    """Say in one sentence which setting makes no model.

    Raises:
        InputError: In place of the library's own error.
    """
    try:
        yield
    except StrictDataclassError as error:
        raise InputError(f"these settings make no model: {one_line(error.__cause__ or error)}.") from error


@explained_settings()
def starting_model(
    arguments: ModelArguments, captions: Iterable[str], num_identities: int
) -> tuple[CFFAForPreTraining, CLIPProcessor]:
    """Make the model and the processor that a training run starts from.

    Of a checkpoint come the encoders' sizes and, where it has them, the width of the local features and the number of
    cross-modal layers; unless it is a general CLIP, the image size too, if the arguments leave it open. Image size
    otherwise, stride, context length, select ratio, dropout and which heads there are come from the arguments. Position
    tables are resized, and heads that the checkpoint lacks or that do not fit are left fresh and named in the log.

    Args:
        arguments: `init_from` names a checkpoint: a file, a folder or a name on the Hub; None: random weights of the
            sizes given there. `tokenizer` is needed where the checkpoint has none.
        captions: Of the train split; only for random weights, whose tokenizer is trained on them if none is given.
        num_identities: Classes of the identity classifier.

    Raises:
        InputError: If the checkpoint is not there, damaged, or of no kind that is known.
    """
    wanted = arguments.image_size
    image_size = None if wanted is None else (wanted[0], wanted[-1])
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
        config = random_config(arguments, image_size or IMAGE_SIZE, len(tokenizer), fields)
        return CFFAForPreTraining(config), build_processor(tokenizer, config.image_size, arguments.context_length)
    return model_of_checkpoint(arguments, arguments.init_from, image_size, fields)


def model_of_checkpoint(
    arguments: ModelArguments, origin: str, image_size: tuple[int, int] | None, fields: dict[str, Any]
) -> tuple[CFFAForPreTraining, CLIPProcessor]:
    """Make the model and the processor out of a checkpoint.

    Args:
        arguments: Of the run.
        origin: A file, a folder or a name on the Hub.
        image_size: Height and width in pixels; None: those of the checkpoint, unless it is a general CLIP.
        fields: Of the model's configuration, as the arguments say; what the checkpoint has of its own wins.

    Raises:
        InputError: As `starting_model`.
    """
    if is_weights_file(origin) and arguments.tokenizer is None:
        raise InputError(
            f"init_from: {origin} has no tokenizer with it: set 'tokenizer' to a CLIP tokenizer "
            "(openai/clip-vit-base-patch16, a folder, or CLIP's merges file bpe_simple_vocab_16e6.txt.gz)."
        )
    try:
        source = load_source(
            origin, likely_size=image_size or IMAGE_SIZE, select_ratio=arguments.select_ratio, strict=False
        )
        tokenizer = load_tokenizer(arguments.tokenizer or origin, vocabulary_size(source.config))
        if "cffa.image_refinement.linear.weight" in source.weights:
            fields["local_dim"] = source.config.local_dim
        if "cross_modal.q_proj.weight" in source.weights:
            fields["cross_modal_layers"] = source.config.cross_modal_layers
        config = adapted_config(
            source.config,
            image_size=image_size or (IMAGE_SIZE if source.is_clip else source.config.image_size),
            context_length=arguments.context_length,
            text_attention_dropout=arguments.text_attention_dropout,
            **fields,
        )
        conversion = build_model(source, config, strict=False)
    except InputError as error:
        raise InputError(f"init_from: {error}") from error
    logger.warning("init_from %s: %s", origin, "; ".join(summary(conversion)))
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


def model_for(train: Dataset, **settings: Any) -> tuple[CFFAForPreTraining, CLIPProcessor]:
    """Make the model and the processor for a train split: what `starting_model` does, from the split itself.

    Args:
        train: A split in the dataset form, as `load_person_dataset` gives it.
        **settings: Fields of ModelArguments: `init_from` (a CLIP or CFFA checkpoint; None: random weights), `image_size` ...

    Raises:
        InputError: As `starting_model`, or for a setting that there is not.
    """
    try:
        arguments = ModelArguments(**settings)
    except (TypeError, ValueError) as error:
        raise InputError(f"model_for: {one_line(error)}.") from error
    captions = (caption for captions in train["captions"] for caption in captions)
    return starting_model(arguments, captions, count_split(train)["identities"])
