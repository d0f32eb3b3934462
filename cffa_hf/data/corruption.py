"""Random changes to captions, as pure functions on padded ids: augmentation, and masking for language modelling.

All draws come from the given generator, on its device, and are then moved to the ids: equal generators give equal
results on any device. A word token is one that the attention mask admits and that is neither the start nor the end.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cffa_hf.errors import InputError

IGNORED_LABEL = -100
"""The label of positions without a target: what `torch.nn.functional.cross_entropy` leaves out by default."""


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the special tokens, and the size of the vocabulary.

    `pad` may equal one of the others (CLIP pads with the end token).
    """

    start: int
    end: int
    mask: int
    pad: int
    vocabulary_size: int

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase) -> "SpecialTokens":
        """Read the ids from a tokenizer that has a start, end, mask and padding token.

        Raises:
            InputError: One of them is missing.
        """
        ids = {
            "start": tokenizer.bos_token_id,
            "end": tokenizer.eos_token_id,
            "mask": tokenizer.mask_token_id,
            "pad": tokenizer.pad_token_id,
        }
        if missing := [name for name, index in ids.items() if index is None]:
            raise InputError(
                f"The tokenizer {tokenizer.name_or_path!r} has no {' and no '.join(missing)} token; "
                "prepare it with cffa_hf.inputs.processor.add_mask_token."
            )
        return cls(**ids, vocabulary_size=len(tokenizer))


def augment_captions(
    input_ids: Tensor,
    attention_mask: Tensor,
    generator: torch.Generator,
    *,
    special_tokens: SpecialTokens,
    probability: float = 0.2,
) -> tuple[Tensor, Tensor]:
    """Change word tokens at random: of those chosen, 60% are masked, 20% replaced, 20% removed.

    A removed token leaves no gap: what follows moves up, and the row is padded again. A caption keeps at least one
    word.

    Args:
        input_ids: `(batch, length)`, padded on the right.
        attention_mask: `(batch, length)`, 1 for tokens and 0 for padding.
        generator: Source of all draws.
        special_tokens: Ids that are never changed and never drawn.
        probability: Of each word token to be chosen, in [0, 1].

    Returns:
        New ids and attention mask of the same shape and types.
    """
    words = word_positions(input_ids, attention_mask, special_tokens)
    chosen = words & (_uniform(input_ids, generator) < probability)
    fate = _uniform(input_ids, generator)
    masked, removed = chosen & (fate < 0.6), chosen & (fate >= 0.8)
    replaced = chosen & ~masked & ~removed
    ids = torch.where(replaced, _ordinary_ids(input_ids, generator, special_tokens), input_ids)
    ids = ids.masked_fill(masked, special_tokens.mask)

    emptied = ~(words & ~removed).any(dim=1, keepdim=True)
    removed = removed & ~(emptied & _first(words))
    kept = attention_mask.bool() & ~removed
    order = kept.logical_not().to(torch.uint8).argsort(dim=1, stable=True)  # kept tokens first, in their order
    kept = kept.gather(1, order)
    return ids.gather(1, order).masked_fill(~kept, special_tokens.pad), kept.to(attention_mask.dtype)


def mask_captions(
    input_ids: Tensor,
    attention_mask: Tensor,
    generator: torch.Generator,
    *,
    special_tokens: SpecialTokens,
    probability: float = 0.15,
) -> tuple[Tensor, Tensor]:
    """Choose word tokens to be predicted: of those chosen, 80% are masked, 10% replaced at random, 10% kept.

    At least one is chosen in each caption. Tokens that are the mask already hide nothing and are not chosen: a caption
    that has no other word gets no label.

    Args:
        input_ids: `(batch, length)`, padded on the right.
        attention_mask: `(batch, length)`, 1 for tokens and 0 for padding.
        generator: Source of all draws.
        special_tokens: Ids that are never changed and never drawn.
        probability: Of each word token to be chosen, in [0, 1]; 0 masks nothing at all.

    Returns:
        The masked ids, and the labels: the ids before masking where one was chosen, -100 elsewhere. Both
        `(batch, length)` and int64.
    """
    words = word_positions(input_ids, attention_mask, special_tokens) & (input_ids != special_tokens.mask)
    draws = _uniform(input_ids, generator).masked_fill(~words, 2.0)
    threshold = draws.amin(dim=1, keepdim=True).clamp(max=1.0) if probability > 0 else 0.0
    chosen = (draws < probability) | (words & (draws <= threshold))
    fate = _uniform(input_ids, generator)
    masked, replaced = chosen & (fate < 0.8), chosen & (fate >= 0.9)
    ids = torch.where(replaced, _ordinary_ids(input_ids, generator, special_tokens), input_ids)
    return ids.masked_fill(masked, special_tokens.mask), input_ids.masked_fill(~chosen, IGNORED_LABEL)


def word_positions(input_ids: Tensor, attention_mask: Tensor, special_tokens: SpecialTokens) -> Tensor:
    """Mark the word tokens: `(batch, length)`, bool."""
    return attention_mask.bool() & (input_ids != special_tokens.start) & (input_ids != special_tokens.end)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, device=generator.device).to(like.device)


def _ordinary_ids(like: Tensor, generator: torch.Generator, special_tokens: SpecialTokens) -> Tensor:
    """Draw ids uniformly from the vocabulary without its special tokens."""
    special = sorted({special_tokens.start, special_tokens.end, special_tokens.mask, special_tokens.pad})
    high = special_tokens.vocabulary_size - len(special)
    ids = torch.randint(high, like.shape, generator=generator, device=generator.device)
    for index in special:  # step over each special id, from the lowest up
        ids += ids >= index
    return ids.to(like.device)


def _first(positions: Tensor) -> Tensor:
    """Keep the first marked position of each row, if it has one."""
    return positions & (positions.cumsum(dim=1) == 1)
