"""The tokenizer that belongs to the weights of another implementation."""

from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer

from cffa_hf.checkpoints.folders import find_folder
from cffa_hf.checkpoints.saved_processor import check_tokenizer, read_tokenizer
from cffa_hf.configuration_cffa import CFFAConfig
from cffa_hf.inputs.processor import add_mask_token, clip_tokenizer

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
