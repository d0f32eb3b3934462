import pytest
import torch

from cffa_hf.errors import InputError
from cffa_hf.inference.chosen_tokens import select
from tests.tiny import person_rows, tiny_model, tiny_processor

ROWS = person_rows(identities=2)
CAPTION = "A person in a red shirt and green trousers."


@pytest.fixture(scope="module")
def processor():
    return tiny_processor(ROWS)


@pytest.mark.parametrize("fields", [{}, {"stride": 8}, {"select_ratio": 1.0}])
def test_as_many_patches_and_words_as_the_model_keeps(processor, fields):
    model = tiny_model(text={"max_position_embeddings": 24}, **fields).base_model
    chosen = select(model, processor, ROWS[0]["image"], CAPTION)
    config = model.config
    assert chosen.chosen_patches.shape == config.grid_size
    assert int(chosen.chosen_patches.sum()) == config.selected_patches
    assert chosen.pixels.shape == (64, 32, 3)
    assert "".join(chosen.words) == CAPTION.lower().replace(" ", "")
    assert 1 <= sum(chosen.chosen_words) <= min(config.selected_words, len(chosen.words))
    kept, left = chosen.patches[chosen.chosen_patches], chosen.patches[~chosen.chosen_patches]
    assert not left.numel() or kept.min() >= left.max()
    assert 0 < sum(chosen.attention) < 1


def test_the_score_is_the_models_own(processor):
    model = tiny_model().base_model
    chosen = select(model, processor, ROWS[0]["image"], CAPTION)
    assert -1 <= chosen.score <= 1
    assert not model.training
    assert torch.is_grad_enabled()


def test_an_empty_caption_has_no_words(processor):
    assert select(tiny_model().base_model, processor, ROWS[0]["image"], "").words == []


def test_a_model_without_local_features_is_refused(processor):
    with pytest.raises(InputError, match="use_flfr"):
        select(tiny_model(use_flfr=False).base_model, processor, ROWS[0]["image"], CAPTION)
