"""Sentences that are searched for: blank ones are refused, of too long ones it is said what the model does not read."""

import warnings
from collections.abc import Sequence

from transformers import CLIPTokenizer

from cffa_hf.errors import InputError
from cffa_hf.inputs.processor import encode_captions

LONGEST = 20_000  # characters


def check_sentences(tokenizer: CLIPTokenizer, sentences: Sequence[str]) -> None:
    """Refuse blank sentences, and warn of those that are cut.

    Args:
        tokenizer: Of the model.
        sentences: At least one.

    Raises:
        InputError: If there is none, or one is blank or beyond all measure.
    """
    if not sentences or not all(sentence.strip() for sentence in sentences):
        raise InputError("The sentence is blank; describe the person to look for.")
    longest = tokenizer.model_max_length
    for sentence in sentences:
        if len(sentence) > LONGEST:
            raise InputError(f"The sentence has {len(sentence):,} characters; {LONGEST:,} are the most that are read.")
        if len(sentence) < longest - 1:  # a token has a character at least
            continue
        ids = encode_captions(tokenizer, [sentence], LONGEST)[0]
        if len(ids) > longest:
            unread = tokenizer.decode(ids[longest - 1 : -1])
            warnings.warn(
                f"The sentence is too long for the model, which does not read its end: {unread[:200]!r}.", stacklevel=4
            )
