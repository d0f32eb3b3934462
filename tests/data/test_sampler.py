from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cffa_hf.data.sampler import IdentitySampler, ShuffleSampler
from cffa_hf.errors import InputError


def batches(sampler, size):
    indices = list(sampler)
    assert len(indices) == len(sampler)
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def test_shuffle_yields_every_pair_once_in_an_order_of_its_own_each_epoch():
    sampler = ShuffleSampler(50, seed=3)
    first, again = list(sampler), list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert first == again
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert first != list(ShuffleSampler(50, seed=4))
    resumed = ShuffleSampler(50, seed=3)
    resumed.set_epoch(1)
    assert list(resumed) == second


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 15), min_size=3, max_size=30),
    captions=st.integers(1, 5),
    identities=st.integers(1, 3),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 3),
)
def test_identity_batches(counts, captions, identities, seed, epoch):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    sampler = IdentitySampler(labels, captions * identities, captions, seed)
    sampler.set_epoch(epoch)
    drawn = batches(sampler, captions * identities)
    assert len(drawn) >= 1
    for batch in drawn:
        # P identities, K captions each
        assert sorted(Counter(labels[batch].tolist()).values()) == [captions] * identities
    uses = Counter(index for batch in drawn for index in batch)
    for index, times in uses.items():
        if counts[labels[index]] >= captions:  # enough captions: none is repeated
            assert times == 1
    again = IdentitySampler(labels, captions * identities, captions, seed)
    again.set_epoch(epoch)
    assert list(again) == [index for batch in drawn for index in batch]


def plain_identity_order(labels, batch_size, captions, seed, epoch):
    """What IdentitySampler says, with a list for each identity and a loop over batches: slow, and easy to read."""
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    per_batch = batch_size // captions
    groups = np.array([max(1, len(own) // captions) for own in members])
    batches = int(groups.sum()) // per_batch
    while np.minimum(groups, batches).sum() < per_batch * batches:
        batches -= 1
    groups = np.minimum(groups, batches)
    generator = np.random.default_rng([seed, epoch])
    for dropped in generator.permutation(np.repeat(np.arange(len(groups)), groups))[batches * per_batch :]:
        groups[dropped] -= 1
    identities = generator.permutation(len(groups))
    dealt = np.repeat(identities, groups[identities]).reshape(per_batch, batches)
    draws = []
    for own, count in zip(members, groups, strict=True):
        shuffled = generator.permutation(own)
        wanted = count * captions
        shuffled = np.resize(shuffled, wanted) if len(shuffled) < wanted else shuffled[:wanted]
        draws.append(iter(shuffled.reshape(count, captions).tolist()))
    order = []
    for batch in generator.permutation(batches):
        for identity in generator.permutation(dealt[:, batch]):
            order += next(draws[identity])
    return order


@settings(max_examples=100, deadline=None)
@given(
    counts=st.lists(st.one_of(st.integers(1, 3), st.integers(1, 40)), min_size=4, max_size=40),
    captions=st.integers(1, 5),
    identities=st.integers(1, 4),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 3),
)
def test_the_order_is_that_of_the_plain_way(counts, captions, identities, seed, epoch):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)) * 7, counts))
    sampler = IdentitySampler(labels, captions * identities, captions, seed)
    sampler.set_epoch(epoch)
    assert list(sampler) == plain_identity_order(labels, captions * identities, captions, seed, epoch)


def test_a_shuffle_longer_than_what_is_handed_out_at_once_is_the_same_permutation():
    sampler = ShuffleSampler(150_000, seed=2)
    sampler.set_epoch(1)
    assert list(sampler) == np.random.default_rng([2, 1]).permutation(150_000).tolist()


def test_as_many_identity_batches_as_possible():
    # One identity with many captions cannot fill batches alone.
    assert len(IdentitySampler(np.repeat([0, 1, 2], [40, 4, 4]), 8, 4)) == 2 * 8
    assert len(IdentitySampler(np.repeat(np.arange(8), 8), 8, 4)) == 8 * 8


def test_every_caption_comes_up_over_the_epochs():
    labels = np.repeat(np.arange(6), 5)
    sampler = IdentitySampler(labels, 4, 2)
    seen = set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        seen |= set(sampler)
    assert seen == set(range(30))


def test_impossible_batches_are_refused():
    with pytest.raises(InputError, match="no multiple of captions_per_identity 4"):
        IdentitySampler(np.arange(30), 10, 4)
    with pytest.raises(InputError, match="needs 4 identities, but the train split has 3"):
        IdentitySampler(np.repeat([0, 1, 2], 9), 16, 4)
