"""Which patches and words a model chose for its local features (FLFR)."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import CLIPProcessor

from cffa_hf.errors import InputError
from cffa_hf.inference.modes import evaluation_mode
from cffa_hf.inputs.images import ImageSource, load_pixels, normalise_images
from cffa_hf.inputs.processor import encode_captions
from cffa_hf.modeling_cffa import CFFAModel

WORD_END = "</w>"


@dataclass(frozen=True)
class Selection:
    """What was chosen of a pair of image and caption.

    Attributes:
        pixels: the image as the model sees it, `(height, width, 3)`, uint8.
        patches: attention of the CLS token to every patch, `(rows, columns)`.
        chosen_patches: which patches were chosen, bool `(rows, columns)`.
        patch_size: side of a patch in pixels.
        stride: step from one patch to the next in pixels.
        words: the words of the caption.
        attention: attention of the end-of-text token to each word, the sum over its pieces.
        chosen_words: whether a word, or a piece of it, was chosen.
        score: of image and caption.
    """

    pixels: Tensor
    patches: Tensor
    chosen_patches: Tensor
    patch_size: int
    stride: int
    words: list[str]
    attention: list[float]
    chosen_words: list[bool]
    score: float


def select(model: CFFAModel, processor: CLIPProcessor, image: ImageSource, caption: str) -> Selection:
    """Run a pair through a model and keep what its refinement chose.

    Raises:
        InputError: if the model has no local features.
    """
    device, tokenizer = next(model.parameters()).device, processor.tokenizer
    config, encoder = cast(Any, model.config), cast(Any, model)
    if not config.use_flfr:
        raise InputError("This model has no local features (use_flfr is false), so it chooses no patches and words.")
    pixels = load_pixels(image, config.image_size)
    ids = torch.tensor(encode_captions(tokenizer, [caption], config.context_length), device=device)
    with evaluation_mode(model):
        images = encoder.encode_images(normalise_images(pixels[None].to(device)))
        captions = encoder.encode_captions(ids)
        score = float(images.embeds()[0] @ captions.embeds()[0])
    rows, columns = config.grid_size
    chosen_patches = torch.zeros(rows * columns, dtype=torch.bool)
    chosen_patches[images.chosen.positions[0].cpu()] = True
    end = int(captions.mask[0].sum()) - 1
    real = set(captions.chosen.positions[captions.chosen.kept].tolist())
    words, weights, marks = _words(tokenizer, ids[0, :end].tolist(), captions.saliency[0].tolist(), real)
    return Selection(
        pixels.permute(1, 2, 0),
        images.saliency[0, 1:].float().cpu().reshape(rows, columns),
        chosen_patches.reshape(rows, columns),
        config.vision_config.patch_size,
        config.stride,
        words,
        weights,
        marks,
        score,
    )


def _words(tokenizer: Any, ids: list[int], attention: list[float], chosen: set[int]) -> tuple[list, list, list]:
    """Join the pieces of words: texts, attention and whether they were chosen; start and end are left out."""
    words: list[str] = []
    weights: list[float] = []
    marks: list[bool] = []
    pieces: list[int] = []
    for place in range(1, len(ids)):
        pieces.append(place)
        if tokenizer.convert_ids_to_tokens(ids[place]).endswith(WORD_END) or place == len(ids) - 1:
            words.append(tokenizer.decode([ids[piece] for piece in pieces]).strip())
            weights.append(sum(attention[piece] for piece in pieces))
            marks.append(any(piece in chosen for piece in pieces))
            pieces = []
    return words, weights, marks
