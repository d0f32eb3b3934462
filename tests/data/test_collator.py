import pickle

import pytest
import torch

from cffa_hf.data.collator import PairCollator, TrainingTransform
from cffa_hf.data.corruption import SpecialTokens
from cffa_hf.inputs.images import normalise_images

SPECIAL = SpecialTokens(start=598, end=599, mask=597, pad=0, vocabulary_size=600)
QUIET = {"caption_corruption": 0.0, "flip_probability": 0.0, "crop_padding": 0, "erasing_probability": 0.0}


def pixels(seed):
    return torch.randint(0, 256, (3, 24, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def sample(seed, words, person_id=41, person_label=0):
    ids = [598, *words, 599]
    return {"pixel_values": pixels(seed), "input_ids": ids, "person_id": person_id, "person_label": person_label}


@pytest.fixture
def batch():
    return PairCollator(0)([sample(i, range(10, 14 + 3 * i), 40 + i, i) for i in range(4)])


def test_the_documented_example():
    batch = PairCollator(pad_token_id=0)([sample(0, [12, 7]), sample(1, [12], 57, 1)])
    assert torch.equal(batch.pop("pixel_values"), torch.stack([pixels(0), pixels(1)]))
    assert {key: value.tolist() for key, value in batch.items()} == {
        "input_ids": [[598, 12, 7, 599], [598, 12, 599, 0]],
        "attention_mask": [[1, 1, 1, 1], [1, 1, 1, 0]],
        "person_ids": [41, 57],
        "person_labels": [0, 1],
    }
    assert {value.dtype for value in batch.values()} == {torch.int64}


def test_evaluation_samples_have_a_part_of_the_keys():
    images = PairCollator(0)([{"pixel_values": pixels(0), "person_id": 3}])
    assert set(images) == {"pixel_values", "person_ids"}
    captions = PairCollator(599)(
        [{"input_ids": [598, 599], "person_id": 3}, {"input_ids": [598, 5, 599], "person_id": 4}]
    )
    assert set(captions) == {"input_ids", "attention_mask", "person_ids"}
    assert captions["input_ids"].tolist() == [[598, 599, 599], [598, 5, 599]]
    assert captions["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]


def test_the_collator_travels_to_workers():
    assert pickle.loads(pickle.dumps(PairCollator(7))) == PairCollator(7)


def test_one_masked_caption_for_all_losses(batch):
    result = TrainingTransform(SPECIAL)(batch, torch.Generator().manual_seed(0))
    assert set(result) == {"pixel_values", "input_ids", "attention_mask", "mlm_labels", "person_labels"}
    assert result["pixel_values"].shape == (4, 3, 24, 8)
    assert result["pixel_values"].dtype == torch.float32
    assert torch.equal(result["person_labels"], batch["person_labels"])
    assert (result["mlm_labels"] != -100).any(dim=1).all()


def test_a_masked_caption_beside_the_unmasked_one(batch):
    shared, separate = (
        TrainingTransform(SPECIAL, share_masked_captions=share)(batch, torch.Generator().manual_seed(3))
        for share in (True, False)
    )
    assert set(separate) - set(shared) == {"masked_input_ids", "masked_attention_mask"}
    assert torch.equal(separate["masked_input_ids"], shared["input_ids"])  # the switch draws no other numbers
    assert torch.equal(separate["masked_attention_mask"], separate["attention_mask"])
    assert torch.equal(separate["mlm_labels"], shared["mlm_labels"])
    chosen = separate["mlm_labels"] != -100
    assert torch.equal(separate["input_ids"][chosen], separate["mlm_labels"][chosen])
    assert torch.equal(separate["input_ids"][~chosen], separate["masked_input_ids"][~chosen])


def test_all_probabilities_can_be_turned_off(batch):
    transform = TrainingTransform(SPECIAL, mlm_probability=0.0, **QUIET)
    result = transform(batch, torch.Generator().manual_seed(0))
    assert torch.equal(result["pixel_values"], normalise_images(batch["pixel_values"]))
    assert torch.equal(result["input_ids"], batch["input_ids"])
    assert torch.equal(result["attention_mask"], batch["attention_mask"])
    assert (result["mlm_labels"] == -100).all()


def test_without_augmentation_the_labels_restore_the_caption(batch):
    result = TrainingTransform(SPECIAL, **QUIET)(batch, torch.Generator().manual_seed(0))
    restored = torch.where(result["mlm_labels"] != -100, result["mlm_labels"], result["input_ids"])
    assert torch.equal(restored, batch["input_ids"])


def test_equal_generators_give_equal_batches_and_nothing_else_changes(batch):
    before = {key: value.clone() for key, value in batch.items()}
    state = torch.get_rng_state()
    transform = TrainingTransform(SPECIAL)
    first, second = (transform(batch, torch.Generator().manual_seed(8)) for _ in range(2))
    for key in first:
        assert torch.equal(first[key], second[key])
    assert all(torch.equal(batch[key], before[key]) for key in batch)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_restored_generator_goes_on_where_it_was(batch):
    transform, generator = TrainingTransform(SPECIAL), torch.Generator().manual_seed(8)
    transform(batch, generator)
    state = generator.get_state()
    expected = transform(batch, generator)
    generator.set_state(state)
    again = transform(batch, generator)
    assert all(torch.equal(again[key], expected[key]) for key in expected)
