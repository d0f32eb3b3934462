import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cffa_hf.evaluation.evaluator import RetrievalEvaluator
from cffa_hf.evaluation.stress import (
    CAPTION_DISTURBANCES,
    COLOR_PARAPHRASES,
    IMAGE_DISTURBANCES,
    disturb_captions,
    drop_words,
    misspell,
    paraphrase_colors,
    stress,
)
from tests.tiny import person_rows, tiny_model, tiny_processor

CAPTION = "A woman with long black hair wears a red coat, blue jeans and carries a white bag in her left hand."
SENTENCES = st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1), min_size=1)


@given(SENTENCES.map(" ".join), st.sampled_from(CAPTION_DISTURBANCES), st.floats(0, 1))
def test_a_disturbed_caption_is_a_caption_and_always_the_same(caption, disturbance, share):
    first = disturbance.change(caption, share, random.Random(3))
    assert first.strip()
    assert first == disturbance.change(caption, share, random.Random(3))


@given(st.sampled_from(CAPTION_DISTURBANCES), st.integers())
def test_nothing_is_disturbed_by_nothing(disturbance, seed):
    assert disturbance.change(CAPTION, 0.0, random.Random(seed)) == CAPTION


def test_a_share_of_the_words_is_disturbed():
    words = CAPTION.split()
    misspelt = misspell(CAPTION, 0.4, random.Random(1)).split()
    assert len(misspelt) == len(words)
    assert 4 <= sum(a != b for a, b in zip(words, misspelt, strict=True)) <= round(0.4 * len(words))
    dropped = drop_words(CAPTION, 0.4, random.Random(1)).split()
    assert len(dropped) == len(words) - round(0.4 * len(words))
    remaining = iter(words)
    assert all(word in remaining for word in dropped)
    assert drop_words("coat", 1.0, random.Random(0)) == "coat"


def test_a_stronger_disturbance_holds_the_weaker_one():
    weak, strong = (set(enumerate(misspell(CAPTION, share, random.Random(5)).split())) for share in (0.2, 0.4))
    words = set(enumerate(CAPTION.split()))
    assert weak - words < strong - words


def test_colors_are_paraphrased_and_nothing_else():
    changed = paraphrase_colors(CAPTION, 1.0, random.Random(0))
    for color in ("black", "red", "blue", "white"):
        assert f" {color} " not in changed
        assert any(f" {other} " in changed for other in COLOR_PARAPHRASES[color])
    assert paraphrase_colors("A bored man, redder than colored greens.", 1.0, random.Random(0)).startswith(
        "A bored man"
    )


@pytest.mark.parametrize("disturbance", IMAGE_DISTURBANCES, ids=lambda item: item.name)
def test_images_are_disturbed_more_and_more(disturbance):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 96, 32), generator=generator, dtype=torch.uint8)
    distances = []
    for strength in disturbance.strengths:
        result = disturbance.change(image, strength, random.Random(2))
        assert result.shape == image.shape
        assert result.dtype == torch.uint8
        assert torch.equal(result, disturbance.change(image, strength, random.Random(2)))
        distances.append((result.float() - image.float()).abs().mean().item())
    assert 0 < distances[0] < distances[1] < distances[2]


def test_blur_and_low_resolution_keep_a_plain_image():
    image = torch.full((3, 64, 32), 80, dtype=torch.uint8)
    for disturbance in IMAGE_DISTURBANCES:
        if disturbance.name in ("blurred", "low resolution"):
            assert torch.equal(disturbance.change(image, disturbance.strengths[2], random.Random(0)), image)


def test_each_caption_has_its_own_draws():
    disturbed = disturb_captions([[CAPTION, CAPTION], [CAPTION]], misspell, 0.4)
    assert len({text for texts in disturbed for text in texts}) == 3


def test_the_whole_table():
    rows = person_rows(identities=4)
    processor, model = tiny_processor(rows), tiny_model().base_model
    evaluator = RetrievalEvaluator(rows, processor, progress=False)
    embeddings = evaluator.embed(model)
    results = stress(model, rows, evaluator, embeddings)
    assert list(results["captions"]) == ["typos", "dropped words", "paraphrased colors"]
    assert list(results["images"]) == ["blurred", "dark", "occluded", "low resolution"]
    for disturbances in results.values():
        for strengths in disturbances.values():
            assert len(strengths) == 3
            assert all(0 <= value <= 100 for metrics in strengths.values() for value in metrics.values())
    assert results == stress(model, rows, evaluator, embeddings)
