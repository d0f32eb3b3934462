"""Intervals and paired tests behave as their definitions say."""

import pytest
import torch

from cffa_hf.errors import InputError
from cffa_hf.metrics.averages import retrieval_metrics
from cffa_hf.metrics.ranking import MatchRanks, match_ranks
from cffa_hf.metrics.significance import bootstrap_confidence, paired_test

METRICS = ["rank1", "rank5", "rank10", "mAP", "mINP"]


def system(noise, seed=0, identities=40):
    """Rank four captions of every identity against two images of each; more noise, worse ranks."""
    generator = torch.Generator().manual_seed(seed)
    people = torch.nn.functional.normalize(torch.randn(identities, 16, generator=generator))
    gallery_ids, query_ids = torch.arange(2 * identities) % identities, torch.arange(4 * identities) % identities
    query = people[query_ids] + noise * torch.randn(len(query_ids), 16, generator=generator)
    gallery = people[gallery_ids] + 0.1 * torch.randn(len(gallery_ids), 16, generator=generator)
    return match_ranks(query, gallery, query_ids, gallery_ids)


@pytest.mark.parametrize("by_identity", [True, False])
def test_interval_contains_the_value_and_follows_the_seed(by_identity):
    ranks = system(0.3)
    metrics = retrieval_metrics(ranks)
    intervals = bootstrap_confidence(ranks, by_identity=by_identity)
    assert list(intervals) == METRICS
    for name, interval in intervals.items():
        assert interval.value == pytest.approx(metrics[name])
        assert 0 <= interval.low < interval.value < interval.high <= 100
    assert bootstrap_confidence(ranks, by_identity=by_identity) == intervals
    assert bootstrap_confidence(ranks, by_identity=by_identity, seed=1) != intervals
    narrow = bootstrap_confidence(ranks, by_identity=by_identity, level=50)
    assert narrow["mAP"].high - narrow["mAP"].low < intervals["mAP"].high - intervals["mAP"].low


def test_interval_of_single_queries_has_the_width_of_a_proportion():
    # Half of 400 independent queries hit: the standard error is 50 / sqrt(400) = 2.5 points.
    ranks = MatchRanks.from_lists([[1], [99]] * 200, range(400), gallery_size=99)
    interval = bootstrap_confidence(ranks, samples=4000, by_identity=False)["rank1"]
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 2.5, rel=0.1)
    assert bootstrap_confidence(ranks, samples=4000)["rank1"] == interval  # every query its own identity


def test_identities_are_drawn_whole():
    # Ten copies of every query bring no information: the interval of 40 identities, not that of 400 queries.
    copies = MatchRanks.from_lists([[1], [99]] * 200, [i % 40 for i in range(400)], gallery_size=99)
    interval = bootstrap_confidence(copies, samples=4000)["rank1"]
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 50 / 40**0.5, rel=0.1)


def test_queries_without_a_match_do_not_count():
    lists, ids = [[1], [9], [2, 3]] * 10, list(range(30))
    without = MatchRanks.from_lists(lists, ids, gallery_size=9)
    with_empty = MatchRanks.from_lists([*lists, [], []], [*ids, 77, 78], gallery_size=9)
    assert bootstrap_confidence(with_empty) == bootstrap_confidence(without)


def test_one_identity_has_an_interval_of_a_point():
    interval = bootstrap_confidence(MatchRanks.from_lists([[1], [2]], [5, 5], gallery_size=2))["rank1"]
    assert (interval.low, interval.value, interval.high) == (50, 50, 50)


def test_equal_systems():
    for result in paired_test(system(0.3), system(0.3), samples=500).values():
        assert (result.difference, result.low, result.high, result.p_value) == (0, 0, 0, 1)


@pytest.mark.parametrize("by_identity", [True, False])
def test_a_better_system_is_found_and_the_test_is_antisymmetric(by_identity):
    bad, good = system(0.6), system(0.2)
    forward = paired_test(bad, good, samples=1000, by_identity=by_identity)
    backward = paired_test(good, bad, samples=1000, by_identity=by_identity)
    for name in METRICS:
        expected = retrieval_metrics(good)[name] - retrieval_metrics(bad)[name]
        assert forward[name].difference == pytest.approx(expected)
        assert 0 < forward[name].low < expected < forward[name].high
        assert forward[name].p_value == pytest.approx(1 / 1001, rel=1e-6)
        assert backward[name].difference == pytest.approx(-expected)
        assert backward[name].p_value == forward[name].p_value
    assert paired_test(bad, good, samples=1000, by_identity=by_identity) == forward


def test_p_value_equals_all_exchanges():
    # Three of four identities differ, in the same direction: 2 of the 8 sign patterns reach the observed difference.
    first = MatchRanks.from_lists([[2], [2], [2], [1]], range(4), gallery_size=2)
    second = MatchRanks.from_lists([[1], [1], [1], [1]], range(4), gallery_size=2)
    assert paired_test(first, second, samples=20_000)["rank1"].p_value == pytest.approx(2 / 8, abs=0.02)


def test_p_values_of_equally_good_systems_are_spread_evenly():
    generator = torch.Generator().manual_seed(0)
    p_values = []
    for _ in range(100):
        places = torch.randint(1, 20, (2, 60, 1), generator=generator).tolist()
        first, second = (MatchRanks.from_lists(lists, range(60), gallery_size=20) for lists in places)
        p_values.append(paired_test(first, second, samples=200)["mAP"].p_value)
    below = sum(p <= 0.1 for p in p_values) / 100
    assert 0.02 < below < 0.2


def test_bad_input_is_explained():
    ranks = system(0.3)
    with pytest.raises(InputError, match="same queries"):
        paired_test(ranks, system(0.3, identities=39))
    with pytest.raises(InputError, match="samples"):
        bootstrap_confidence(ranks, samples=0)
    with pytest.raises(InputError, match="level"):
        bootstrap_confidence(ranks, level=100)
