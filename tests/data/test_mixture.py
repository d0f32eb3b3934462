"""Several sets: identities apart, shares kept in every batch, the same order each time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cffa_hf.data.mixture import Mixture, MixtureSampler, join_sets
from cffa_hf.errors import InputError
from tests.tiny import person_rows


def test_identities_of_different_sets_are_different():
    parts = {"one": person_rows(3, 2, first_id=40), "two": person_rows(4, 1, first_id=41)}
    rows, mixture = join_sets(parts, {"one": 1, "two": 2.5})
    ids = rows["person_id"][:]
    assert ids == [0, 0, 1, 1, 2, 2, 3, 4, 5, 6]
    assert rows.column_names == parts["one"].column_names
    assert rows["captions"][:] == parts["one"]["captions"][:] + parts["two"]["captions"][:]
    assert mixture == Mixture(("one", "two"), (6, 4), (1.0, 2.5))
    assert mixture.sets_of(np.array([0, 5, 6, 9])).tolist() == [0, 0, 1, 1]
    assert mixture.record == {"one": 1.0, "two": 2.5}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(2, 60), st.floats(0.5, 3)), min_size=1, max_size=4), st.integers(0, 5))
def test_every_set_has_its_share_of_every_stretch(sets, epoch):
    numbers = np.repeat(np.arange(len(sets)), [pairs for pairs, _ in sets])
    sampler = MixtureSampler(numbers, [weight for _, weight in sets], seed=3)
    sampler.set_epoch(epoch)
    drawn = np.array(list(sampler))
    assert len(drawn) == len(sampler)
    assert list(sampler) == drawn.tolist()
    for number, draws in enumerate(sampler.draws):
        assert (numbers[drawn] == number).sum() == draws
        share = np.cumsum(numbers[drawn] == number) - np.arange(1, len(drawn) + 1) * draws / len(drawn)
        assert np.abs(share).max() <= len(sets) + 1


def test_a_set_is_gone_through_before_a_pair_comes_again():
    sampler = MixtureSampler(np.repeat([0, 1], [10, 4]), [0.5, 2], seed=1)
    order = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        order.append(list(sampler))
    for first in (0, 2):
        assert sorted(pair for pair in order[first] + order[first + 1] if pair < 10) == list(range(10))
    for epoch in order:
        assert sorted(pair for pair in epoch if pair >= 10) == [10, 10, 11, 11, 12, 12, 13, 13]
    assert len({tuple(epoch) for epoch in order}) == 4


def test_a_set_that_never_comes_is_refused():
    with pytest.raises(InputError, match="number 2 of datasets is drawn less than once"):
        MixtureSampler(np.array([0, 0, 1]), [1, 0.1])
