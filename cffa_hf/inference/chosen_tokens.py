"""Which patches and words a model chose for its local features (FLFR)."""

from dataclasses import dataclass
from typing import Any

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
    if model.image_refinement is None or model.text_refinement is None:
        raise InputError("This model has no local features (use_flfr is false), so it chooses no patches and words.")
    device, tokenizer = next(model.parameters()).device, processor.tokenizer
    config: Any = model.config
    pixels = load_pixels(image, config.image_size)
    ids = torch.tensor(encode_captions(tokenizer, [caption], config.context_length), device=device)
    with evaluation_mode(model):
        batch = normalise_images(pixels[None].to(device))
        score = float(model.get_image_features(batch)[0] @ model.get_text_features(ids)[0])
        _, patches = model.vision_model(batch)
        chosen, _ = model.image_refinement.select(patches[:, 1:])
        ids, end = model.trim_captions(ids)
        _, attention = model.text_model(ids, end)
        inner = torch.arange(ids.shape[1], device=device)
        inner = ((inner > 0) & (inner < end[:, None])) | ((inner == end[:, None]) & (end[:, None] <= 1))
        places, kept = model.text_refinement.select(attention, inner)
    rows, columns = config.grid_size
    chosen_patches = torch.zeros(rows * columns, dtype=torch.bool)
    chosen_patches[chosen[0].cpu()] = True
    real = set(places[0][kept[0]].tolist()) if kept is not None else set(places[0].tolist())
    words, weights, marks = _words(tokenizer, ids[0].tolist()[: int(end[0])], attention[0].tolist(), real)
    return Selection(
        pixels.permute(1, 2, 0),
        patches[0, 1:].float().cpu().reshape(rows, columns),
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
