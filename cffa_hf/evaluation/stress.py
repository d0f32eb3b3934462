"""Robustness: how retrieval suffers when captions or images are disturbed more and more.

Every disturbance has three strengths. What is drawn depends on the number of the caption or image alone, so that each
run disturbs alike, and a stronger one mostly adds to a weaker one.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from cffa_hf.data.pairs import ImageDataset, Sample
from cffa_hf.evaluation.evaluator import RetrievalEmbeddings, RetrievalEvaluator
from cffa_hf.metrics.averages import retrieval_metrics
from cffa_hf.names import METRICS

COLOR_PARAPHRASES = {
    "black": ("jet-black", "ebony"),
    "white": ("ivory", "snow-white"),
    "gray": ("grey", "ash-colored", "silvery"),
    "grey": ("gray", "ash-colored", "silvery"),
    "red": ("crimson", "scarlet"),
    "blue": ("azure", "navy"),
    "green": ("emerald", "olive"),
    "yellow": ("lemon-colored", "golden"),
    "orange": ("tangerine", "amber"),
    "purple": ("violet", "lilac"),
    "pink": ("rose-colored", "salmon-pink"),
    "brown": ("tan", "chestnut"),
    "blond": ("fair", "golden"),
    "blonde": ("fair", "golden"),
    "beige": ("sand-colored", "cream"),
}
_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def misspell(caption: str, share: float, rng: random.Random) -> str:
    """Put one slip of the keyboard into a share of the words of at least three letters."""
    return _change_words(caption, share, rng, lambda word: _slip(word, rng) if len(word) >= 3 else word)


def drop_words(caption: str, share: float, rng: random.Random) -> str:
    """Leave out a share of the words; one always stays."""
    kept = _change_words(caption, share, rng, lambda word: "")
    return kept or caption.split()[0]


def paraphrase_colors(caption: str, share: float, rng: random.Random) -> str:
    """Say a share of the colours in another word."""

    def other(match: re.Match[str]) -> str:
        draw, choice = rng.random(), rng.choice(COLOR_PARAPHRASES[match.group().lower()])
        return choice if draw < share else match.group()

    return re.sub(rf"\b({'|'.join(COLOR_PARAPHRASES)})\b", other, caption, flags=re.IGNORECASE)


def blur(image: Tensor, strength: float, rng: random.Random) -> Tensor:
    """Blur with a Gaussian whose deviation is `strength` of the height; image `(3, height, width)`, uint8."""
    sigma = strength * image.shape[1]
    reach = min(max(1, round(3 * sigma)), min(image.shape[1:]) - 1)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    pixels = F.pad(image[:, None].float(), (reach,) * 4, mode="reflect")
    pixels = F.conv2d(F.conv2d(pixels, kernel[None, None, None]), kernel[None, None, :, None])
    return pixels[:, 0].round().clamp(0, 255).to(torch.uint8)


def darken(image: Tensor, strength: float, rng: random.Random) -> Tensor:
    """Take away a share of the light, and add the noise of a sensor in the dark; image `(3, height, width)`, uint8."""
    generator = torch.Generator().manual_seed(rng.getrandbits(62))
    noise = torch.randn(image.shape, generator=generator) * 12 * strength
    return (image * (1 - strength) + noise).round().clamp(0, 255).to(torch.uint8)


def occlude(image: Tensor, strength: float, rng: random.Random) -> Tensor:
    """Hide a share of the area behind a gray rectangle at a random place; image `(3, height, width)`, uint8."""
    height, width = image.shape[1:]
    high, wide = (max(1, round(side * strength**0.5)) for side in (height, width))
    top, left = round(rng.random() * (height - high)), round(rng.random() * (width - wide))
    result = image.clone()
    result[:, top : top + high, left : left + wide] = 127
    return result


def lower_resolution(image: Tensor, strength: float, rng: random.Random) -> Tensor:
    """Scale down by `strength` and up again; image `(3, height, width)`, uint8."""
    small = [max(1, round(side / strength)) for side in image.shape[1:]]
    pixels = F.interpolate(image[None].float(), size=small, mode="area")
    pixels = F.interpolate(pixels, size=image.shape[1:], mode="bilinear", align_corners=False)
    return pixels[0].round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Disturbance:
    """One way to disturb, at three strengths.

    Attributes:
        name: As tables show it.
        change: From caption or image, strength and source of randomness to the disturbed one.
        strengths: Weak to strong, as `change` takes them.
        unit: Says a strength in words.
    """

    name: str
    change: Callable[..., Any]
    strengths: tuple[float, float, float]
    unit: str

    def label(self, strength: float) -> str:
        """Say one strength in words."""
        return self.unit.format(strength)


CAPTION_DISTURBANCES = (
    Disturbance("typos", misspell, (0.1, 0.2, 0.4), "{:.0%} of words"),
    Disturbance("dropped words", drop_words, (0.1, 0.2, 0.4), "{:.0%} of words"),
    Disturbance("paraphrased colors", paraphrase_colors, (0.33, 0.67, 1.0), "{:.0%} of colors"),
)
IMAGE_DISTURBANCES = (
    Disturbance("blurred", blur, (0.01, 0.02, 0.04), "deviation {:.0%} of height"),
    Disturbance("dark", darken, (0.5, 0.7, 0.85), "{:.0%} of light lost"),
    Disturbance("occluded", occlude, (0.1, 0.2, 0.4), "{:.0%} of area"),
    Disturbance("low resolution", lower_resolution, (2, 4, 8), "1/{:.0f} of pixels a side"),
)


class DisturbedImages(Dataset[Sample]):
    """The images of a split, each disturbed as it is read.

    Args:
        images: The undisturbed ones.
        change: A disturbance's.
        strength: Its strength.
    """

    def __init__(self, images: ImageDataset, change: Callable[..., Tensor], strength: float):
        self.images, self.change, self.strength = images, change, strength

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        sample = self.images[index]
        rng = random.Random(index)
        return {**sample, "pixel_values": self.change(sample["pixel_values"], self.strength, rng)}


def stress(
    model: nn.Module, rows: datasets.Dataset, evaluator: RetrievalEvaluator, embeddings: RetrievalEmbeddings
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Evaluate under every disturbance, in captions against unchanged images, or in images against unchanged captions.

    Args:
        model: Any with `get_image_features` and `get_text_features`.
        rows: The split.
        evaluator: Of the split.
        embeddings: Of the undisturbed split.

    Returns:
        Text-to-image metrics, percent, by "captions" or "images", name of the disturbance, and strength in words.
    """
    results: dict[str, dict[str, dict[str, dict[str, float]]]] = {"captions": {}, "images": {}}
    for disturbance in CAPTION_DISTURBANCES:
        strengths = results["captions"].setdefault(disturbance.name, {})
        for strength in disturbance.strengths:
            texts = disturb_captions(rows["captions"][:], disturbance.change, strength)
            disturbed = datasets.Dataset.from_dict({"captions": texts, "person_id": rows["person_id"][:]})
            captions = evaluator.caption_dataset(disturbed)
            text = evaluator.embed_captions(model, captions, f"captions, {disturbance.name}")
            strengths[disturbance.label(strength)] = _metrics(replace(embeddings, text=text))
    for disturbance in IMAGE_DISTURBANCES:
        strengths = results["images"].setdefault(disturbance.name, {})
        for strength in disturbance.strengths:
            images = DisturbedImages(evaluator.images, disturbance.change, strength)
            image = evaluator.embed_images(model, images, f"images, {disturbance.name}")
            strengths[disturbance.label(strength)] = _metrics(replace(embeddings, image=image))
    return results


def disturb_captions(
    captions: Sequence[Sequence[str]], change: Callable[[str, float, random.Random], str], strength: float
) -> list[list[str]]:
    """Disturb the captions of every row."""
    first = np.cumsum([0, *map(len, captions)]).tolist()
    return [
        [change(text, strength, random.Random(start + place)) for place, text in enumerate(texts)]
        for start, texts in zip(first, captions, strict=False)
    ]


def _metrics(embeddings: RetrievalEmbeddings) -> dict[str, float]:
    metrics = retrieval_metrics(embeddings.text_to_image())
    return {name: metrics[name] for name in METRICS}


def _change_words(caption: str, share: float, rng: random.Random, change: Callable[[str], str]) -> str:
    """Change a share of the words, drawn independently of the share, so that a greater share holds a smaller one."""
    words = caption.split()
    order = sorted(range(len(words)), key=lambda _: rng.random())
    for place in order[: round(share * len(words))]:
        words[place] = change(words[place])
    return " ".join(word for word in words if word)


def _slip(word: str, rng: random.Random) -> str:
    """Swap two letters, lose one, double one, or hit the key beside one."""
    place, kind = rng.randrange(len(word) - 1), rng.randrange(4)
    if kind == 0:
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    if kind == 1:
        return word[:place] + word[place + 1 :]
    if kind == 2:
        return word[: place + 1] + word[place:]
    row = next((keys for keys in _KEYBOARD if word[place].lower() in keys), None)
    if row is None:
        return word[:place] + word[place + 1 :]
    position = row.index(word[place].lower())
    return word[:place] + row[position - 1 if position else 1] + word[place + 1 :]
