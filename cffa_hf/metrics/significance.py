"""Confidence intervals of the metrics and a paired test between two systems, by resampling queries.

Queries of one identity are not independent: the captions of one image, and the images of one person, are easy or hard
together. So identities are drawn, with all their queries, unless `by_identity` is false; intervals from single queries
claim more than the data support.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cffa_hf.errors import InputError
from cffa_hf.metrics.averages import per_query
from cffa_hf.metrics.ranking import MatchRanks

DRAWS_AT_ONCE = 2**22  # bounds the memory of one batch of resamples


@dataclass(frozen=True)
class ConfidenceInterval:
    """Hold a metric and its bootstrap interval, in percent."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """Hold the difference between two systems on the same queries.

    Attributes:
        difference: Metric of the second system minus the first, in percentage points.
        low: Lower end of the paired bootstrap interval.
        high: Upper end of it.
        p_value: Two-sided, from random exchanges of the two systems; small values speak against equal systems.
    """

    difference: float
    low: float
    high: float
    p_value: float


def bootstrap_confidence(
    match_ranks: MatchRanks,
    ranks: Sequence[int] = (1, 5, 10),
    *,
    samples: int = 1000,
    seed: int = 0,
    level: float = 95.0,
    by_identity: bool = True,
) -> dict[str, ConfidenceInterval]:
    """Estimate a percentile bootstrap interval of every metric.

    The interval covers the choice of queries; gallery, training seed and checkpoint are taken as given.

    Args:
        match_ranks: The ranks of the matches.
        ranks: The k of Rank-k.
        samples: Number of resamples.
        seed: Seed of the draws; equal seeds give equal intervals.
        level: Coverage in percent.
        by_identity: Draw identities with all their queries, not single queries.

    Raises:
        InputError: If no query has a match, or `samples` or `level` is out of range.

    Example:
        >>> ranks = MatchRanks.from_lists([[1], [2], [1], [1]], query_ids=[0, 0, 1, 1], gallery_size=5)
        >>> bootstrap_confidence(ranks, ranks=(1,))["rank1"]
        ConfidenceInterval(value=75.0, low=50.0, high=100.0)
    """
    _check(samples, level)
    values = per_query(match_ranks, ranks)
    sums, sizes = _group_sums(match_ranks, torch.stack(list(values.values()), dim=1), by_identity)
    low, high = _bootstrap(sums, sizes, samples, seed, level)
    point = sums.sum(dim=0) / sizes.sum()
    return {name: ConfidenceInterval(float(point[i]), float(low[i]), float(high[i])) for i, name in enumerate(values)}


def paired_test(
    first: MatchRanks,
    second: MatchRanks,
    ranks: Sequence[int] = (1, 5, 10),
    *,
    samples: int = 10_000,
    seed: int = 0,
    level: float = 95.0,
    by_identity: bool = True,
) -> dict[str, PairedDifference]:
    """Compare two systems on the same queries and gallery.

    The interval is the paired bootstrap's. The p value is that of a sign-flip permutation test: if the systems are
    equal, the two results of an identity could as well be exchanged. It is at least 1 / (samples + 1).

    Args:
        first: Ranks of one system.
        second: Ranks of the other; a positive difference means that it is better.
        ranks: The k of Rank-k.
        samples: Number of resamples and of permutations.
        seed: Seed of the draws.
        level: Coverage of the interval in percent.
        by_identity: Draw and exchange identities with all their queries, not single queries.

    Raises:
        InputError: If the two do not rank the same queries in the same gallery.

    Example:
        >>> ids = [0, 0, 1, 1]
        >>> first, second = (MatchRanks.from_lists(lists, ids, 5) for lists in ([[1], [2], [1], [3]], [[1], [1], [1], [1]]))
        >>> result = paired_test(first, second, ranks=(1,))["rank1"]
        >>> result.difference, round(result.p_value, 1)
        (50.0, 0.5)
    """
    _check(samples, level)
    same = (
        torch.equal(first.query_ids, second.query_ids)
        and torch.equal(first.offsets, second.offsets)
        and first.gallery_size == second.gallery_size
    )
    if not same:
        raise InputError(
            "A paired test needs two results for the same queries, in the same order, and the same gallery."
        )
    one, two = per_query(first, ranks), per_query(second, ranks)
    differences = torch.stack([two[name] - one[name] for name in one], dim=1)
    sums, sizes = _group_sums(first, differences, by_identity)
    low, high = _bootstrap(sums, sizes, samples, seed, level)
    p_values = _sign_flip(sums, samples, seed)
    point = sums.sum(dim=0) / sizes.sum()
    return {
        name: PairedDifference(float(point[i]), float(low[i]), float(high[i]), float(p_values[i]))
        for i, name in enumerate(one)
    }


def _check(samples: int, level: float) -> None:
    if samples < 1:
        raise InputError(f"samples must be at least 1, not {samples}.")
    if not 0 < level < 100:
        raise InputError(f"level is a coverage in percent between 0 and 100, not {level}.")


def _group_sums(match_ranks: MatchRanks, values: Tensor, by_identity: bool) -> tuple[Tensor, Tensor]:
    """Sum the values `(evaluated, metrics)` over the unit of resampling; return the sums and the units' sizes."""
    if not by_identity:
        return values, torch.ones(len(values), dtype=torch.float64)
    identities, group = match_ranks.query_ids[match_ranks.evaluated].unique(return_inverse=True)
    sums = torch.zeros(len(identities), values.shape[1], dtype=torch.float64).index_add_(0, group, values)
    return sums, torch.bincount(group).double()


def _bootstrap(sums: Tensor, sizes: Tensor, samples: int, seed: int, level: float) -> tuple[Tensor, Tensor]:
    """Return both ends of the interval of the mean over resampled units, `(metrics,)` each."""
    units = len(sums)

    def draw(count: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(units, (count, units), generator=generator)
        times = torch.zeros(count, units, dtype=torch.float64)
        times.scatter_add_(1, chosen, torch.ones((), dtype=torch.float64).expand_as(chosen))
        return (times @ sums) / (times @ sizes)[:, None]

    means = _in_batches(draw, samples, units, seed)
    tail = (100 - level) / 200
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=0)
    return low, high


def _sign_flip(sums: Tensor, samples: int, seed: int) -> Tensor:
    """Return the share of random exchanges whose difference is at least as large as the observed one, `(metrics,)`."""
    units = len(sums)

    def draw(count: int, generator: torch.Generator) -> Tensor:
        signs = torch.randint(2, (count, units), generator=generator).double() * 2 - 1
        return (signs @ sums).abs()

    observed = sums.sum(dim=0).abs()
    # An exchange that gives the observed difference again must count, whatever the order of the summation.
    reached = _in_batches(draw, samples, units, seed) >= observed - 1e-9 * (1 + sums.abs().sum(dim=0))
    return (1 + reached.sum(dim=0)) / (1 + samples)


def _in_batches(draw: Callable[[int, torch.Generator], Tensor], samples: int, units: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    batch = max(1, DRAWS_AT_ONCE // units)
    return torch.cat([draw(min(batch, samples - start), generator) for start in range(0, samples, batch)])
