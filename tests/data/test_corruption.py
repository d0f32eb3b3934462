import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cffa_hf.data.corruption import SpecialTokens, augment_captions, mask_captions, word_positions
from cffa_hf.errors import InputError
from cffa_hf.inputs.processor import train_tokenizer

SPECIAL = SpecialTokens(start=598, end=599, mask=597, pad=0, vocabulary_size=600)
PADDED_BY_END = SpecialTokens(start=998, end=999, mask=997, pad=999, vocabulary_size=1000)
SCATTERED = SpecialTokens(start=3, end=7, mask=4, pad=0, vocabulary_size=12)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def captions_of(lengths, special, seed=0):
    """Captions of the given numbers of words, padded: ids and attention mask."""
    width = max(lengths) + 2
    ordinary = [i for i in range(special.vocabulary_size) if i not in vars(special).values()]
    ids = torch.full((len(lengths), width), special.pad)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        picked = torch.randint(len(ordinary), (length,), generator=generator(seed + row))
        words = [ordinary[i] for i in picked]
        ids[row, : length + 2] = torch.tensor([special.start, *words, special.end])
        mask[row, : length + 2] = 1
    return ids, mask


any_captions = st.tuples(
    st.lists(st.integers(0, 9), min_size=1, max_size=8),
    st.sampled_from([SPECIAL, PADDED_BY_END, SCATTERED]),
    st.integers(0, 2**20),
    st.sampled_from([0.0, 0.2, 0.6, 1.0]),
)


@given(any_captions)
@settings(deadline=None)
def test_augmented_captions_stay_captions(case):
    lengths, special, seed, probability = case
    ids, mask = captions_of(lengths, special)
    before = ids.clone()
    new_ids, new_mask = augment_captions(ids, mask, generator(seed), special_tokens=special, probability=probability)
    assert torch.equal(ids, before)
    assert new_ids.shape == ids.shape
    assert new_mask.dtype == mask.dtype
    for row, length in enumerate(lengths):
        count = int(new_mask[row].sum())
        assert new_mask[row].tolist() == [1] * count + [0] * (ids.shape[1] - count)  # no gap
        assert new_ids[row, 0] == special.start
        assert new_ids[row, count - 1] == special.end
        assert (new_ids[row, count:] == special.pad).all()
        words = new_ids[row, 1 : count - 1]
        assert min(length, 1) <= len(words) <= length
        assert not ({special.start, special.end, special.pad} & set(words.tolist()))


@given(any_captions)
@settings(deadline=None)
def test_masked_captions_and_labels(case):
    lengths, special, seed, probability = case
    ids, mask = captions_of(lengths, special)
    masked, labels = mask_captions(ids, mask, generator(seed), special_tokens=special, probability=probability)
    chosen = labels != -100
    words = word_positions(ids, mask, special)
    assert not (chosen & ~words).any()
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(masked[~chosen], ids[~chosen])
    assert not torch.isin(masked[words], torch.tensor([special.start, special.end, special.pad])).any()
    expected = (words.any(dim=1) if probability else torch.zeros(len(lengths), dtype=torch.bool)).tolist()
    assert chosen.any(dim=1).tolist() == expected
    if probability == 1.0:
        assert torch.equal(chosen, words)


def test_what_is_kept_after_removal_keeps_its_order():
    size = 10**9  # so large that a replacement is never one of the first 50
    special = SpecialTokens(start=size - 2, end=size - 1, mask=size - 3, pad=size - 1, vocabulary_size=size)
    ids = torch.cat([torch.tensor([special.start]), torch.arange(50), torch.tensor([special.end])]).repeat(200, 1)
    new_ids, _ = augment_captions(ids, torch.ones_like(ids), generator(), special_tokens=special, probability=0.5)
    for row in new_ids.tolist():
        untouched = [index for index in row if index < 50]
        assert untouched == sorted(set(untouched))
        assert 10 < len(untouched) < 40


def test_a_caption_keeps_one_word_of_its_own():
    ids = torch.tensor([[598, 10, 599]]).repeat(2000, 1)
    new_ids, new_mask = augment_captions(
        ids, torch.ones_like(ids), generator(), special_tokens=SPECIAL, probability=1.0
    )
    assert new_mask.all()
    kept = new_ids[:, 1]
    assert (kept == 10).float().mean().item() == pytest.approx(0.2, abs=0.03)  # those that would have been removed
    assert (kept == SPECIAL.mask).float().mean().item() == pytest.approx(0.6, abs=0.03)


def test_proportions_of_the_augmentation():
    ids, mask = captions_of([40] * 2000, SPECIAL)
    new_ids, new_mask = augment_captions(ids, mask, generator(1), special_tokens=SPECIAL)
    total = 40 * 2000
    removed = total - int(word_positions(new_ids, new_mask, SPECIAL).sum())
    masked = int((new_ids == SPECIAL.mask).sum())
    assert removed / total == pytest.approx(0.04, abs=0.003)
    assert masked / total == pytest.approx(0.12, abs=0.005)
    whole = new_mask.sum(dim=1) == 42  # rows without removal keep their positions
    changed = (new_ids != ids) & (new_ids != SPECIAL.mask)
    assert int(changed[whole].sum()) / int(whole.sum()) / 40 == pytest.approx(0.04 / 0.96, abs=0.006)


def test_proportions_of_the_masking():
    ids, mask = captions_of([40] * 2000, SPECIAL)
    masked, labels = mask_captions(ids, mask, generator(1), special_tokens=SPECIAL)
    chosen = labels != -100
    number = int(chosen.sum())
    assert number / (40 * 2000) == pytest.approx(0.15, abs=0.005)
    assert int((masked == SPECIAL.mask).sum()) / number == pytest.approx(0.8, abs=0.01)
    assert int((chosen & (masked == ids)).sum()) / number == pytest.approx(0.1, abs=0.01)


def test_random_ids_are_all_ordinary_ids_and_no_other():
    ids, mask = captions_of([30] * 300, SCATTERED)
    drawn = set()
    for seed in range(3):
        masked, labels = mask_captions(ids, mask, generator(seed), special_tokens=SCATTERED, probability=1.0)
        drawn |= set(masked[(labels != -100) & (masked != SCATTERED.mask) & (masked != ids)].tolist())
    assert drawn == set(range(12)) - {0, 3, 4, 7}


def test_a_mask_that_is_there_already_is_never_the_answer():
    ids = torch.tensor([[598, 597, 12, 597, 599], [598, 597, 597, 597, 599]])
    for seed in range(20):
        _, labels = mask_captions(ids, torch.ones_like(ids), generator(seed), special_tokens=SPECIAL)
        assert labels.tolist() == [[-100, -100, 12, -100, -100], [-100] * 5]


def test_short_captions_have_one_choice_spread_over_their_words():
    ids = torch.tensor([[598, 10, 11, 12, 599]]).repeat(3000, 1)
    _, labels = mask_captions(ids, torch.ones_like(ids), generator(), special_tokens=SPECIAL, probability=1e-9)
    chosen = labels != -100
    assert (chosen.sum(dim=1) == 1).all()
    assert chosen.float().mean(dim=0)[1:4].tolist() == pytest.approx([1 / 3] * 3, abs=0.03)


def test_equal_generators_give_equal_captions_and_the_global_state_stays():
    ids, mask = captions_of([5, 9, 0], SPECIAL)
    state = torch.get_rng_state()
    for function in (augment_captions, mask_captions):
        first, second = (function(ids, mask, generator(5), special_tokens=SPECIAL) for _ in range(2))
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_special_tokens_of_a_tokenizer():
    tokenizer = train_tokenizer(["a red coat"], 600)
    size = len(tokenizer)
    assert SpecialTokens.from_tokenizer(tokenizer) == SpecialTokens(size - 2, size - 1, size - 3, size - 1, size)
    tokenizer.mask_token = None
    with pytest.raises(InputError, match="no mask token"):
        SpecialTokens.from_tokenizer(tokenizer)
