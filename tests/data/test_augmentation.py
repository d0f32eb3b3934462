from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from cffa_hf.data import augmentation
from cffa_hf.data.augmentation import augment_images
from cffa_hf.inputs.images import normalise_images
from cffa_hf.inputs.processor import build_processor, train_tokenizer


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_pixels(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(99))


def every_flip_and_crop(pixels, padding):
    """The slow, obvious way with PIL: {bytes of the result: (flipped, top, left)} for one image."""
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    width, height = image.size
    results = {}
    for flipped in (False, True):
        bordered = ImageOps.expand(ImageOps.mirror(image) if flipped else image, padding, fill=0)
        for top in range(2 * padding + 1):
            for left in range(2 * padding + 1):
                crop = bordered.crop((left, top, left + width, top + height))
                results[np.asarray(crop).transpose(2, 0, 1).tobytes()] = (flipped, top, left)
    return results


def denormalised(images: torch.Tensor) -> np.ndarray:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return ((images * std + mean) * 255).round().to(torch.uint8).numpy()


def test_flips_and_crops_are_those_of_the_slow_way_and_all_occur():
    pixels = random_pixels(3, 7, 5)
    expected = every_flip_and_crop(pixels, 2)
    assert len(expected) == 50
    batch = pixels.expand(5000, 3, 7, 5)
    raw = augment_images(batch, generator(), padding=2, erasing_probability=0.0)
    images = denormalised(raw)
    found = Counter(expected[image.tobytes()] for image in images)  # KeyError: an image that the slow way cannot make
    assert len(found) == 50
    assert max(found.values()) < 2 * min(found.values())


def test_each_image_keeps_its_place_in_the_batch():
    pixels = random_pixels(6, 3, 9, 4)
    raw = augment_images(pixels, generator(3), padding=1, erasing_probability=0.0)
    for image, augmented in zip(pixels, denormalised(raw), strict=True):
        assert augmented.tobytes() in every_flip_and_crop(image, 1)


def test_without_probabilities_it_is_the_normalisation():
    pixels = random_pixels(3, 3, 8, 6)
    plain = augment_images(pixels, generator(), flip_probability=0.0, padding=0, erasing_probability=0.0)
    assert torch.equal(plain, normalise_images(pixels))
    flipped = augment_images(pixels, generator(), flip_probability=1.0, padding=0, erasing_probability=0.0)
    assert torch.equal(flipped, normalise_images(pixels.flip(3)))


def test_normalisation_equals_the_processors():
    pixels = random_pixels(2, 3, 96, 32)
    processor = build_processor(train_tokenizer(["a coat"], 600), (96, 32)).image_processor
    expected = processor(list(pixels.permute(0, 2, 3, 1).numpy()), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(normalise_images(pixels), expected, atol=1e-6, rtol=0)


def test_erased_rectangles():
    height, width = 96, 32
    pixels = torch.full((1500, 3, height, width), 255, dtype=torch.uint8)  # white is never 0 after normalisation
    images = augment_images(pixels, generator(), flip_probability=0.0, padding=0)
    erased = images == 0
    assert torch.equal(images[~erased], normalise_images(pixels)[~erased])
    assert torch.equal(erased[:, 0], erased[:, 1])
    assert torch.equal(erased[:, 0], erased[:, 2])
    shares, ratios = [], []
    for area in erased[:, 0]:
        if area.any():
            rows, columns = area.any(dim=1).sum().item(), area.any(dim=0).sum().item()
            assert area.sum().item() == rows * columns  # one full rectangle
            shares.append(rows * columns / (height * width))
            ratios.append(rows / columns)
    assert len(shares) / len(pixels) == pytest.approx(0.5, abs=0.05)
    assert 0.015 < min(shares) < 0.04
    assert 0.36 < max(shares) < 0.41
    assert np.mean(shares) == pytest.approx(0.2, abs=0.03)
    assert 0.25 < min(ratios) < 0.4
    assert 2.5 < max(ratios) < 3.7
    cover = erased[:, 0].float().mean(dim=0)
    assert cover[0].sum() > 0
    assert cover[-1].sum() > 0
    assert cover[:, 0].sum() > 0
    assert cover[:, -1].sum() > 0


def test_an_image_too_small_for_any_rectangle_is_left_whole(monkeypatch):
    monkeypatch.setattr(augmentation, "ERASING_AREA", (0.9, 1.0))
    pixels = random_pixels(20, 3, 1, 1)
    images = augment_images(pixels, generator(), padding=0, erasing_probability=1.0)
    assert torch.equal(images, normalise_images(pixels))


def test_equal_generators_give_equal_images_and_the_global_state_stays():
    pixels = random_pixels(8, 3, 24, 8)
    before, state = pixels.clone(), torch.get_rng_state()
    first, second, other = (augment_images(pixels, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(pixels, before)
    assert torch.equal(torch.get_rng_state(), state)
