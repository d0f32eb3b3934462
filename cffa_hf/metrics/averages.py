"""Rank-k, mAP and mINP: averages over the ranks of the matches."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cffa_hf.errors import InputError
from cffa_hf.metrics.ranking import MatchRanks


def per_query(match_ranks: MatchRanks, ranks: Sequence[int] = (1, 5, 10)) -> dict[str, Tensor]:
    """Return every metric of every evaluated query.

    Args:
        match_ranks: The ranks of the matches.
        ranks: The k of Rank-k; one above the gallery size is allowed.

    Returns:
        `rank{k}` (0 or 100), `mAP` (the query's average precision) and `mINP` (its inverse negative penalty: matches
        divided by the rank of the last match), in percent, float64 `(evaluated,)`, in the order of `evaluated`.

    Raises:
        InputError: If no query has a match, or a k is below 1.

    Example:
        >>> ranks = MatchRanks.from_lists([[1, 3], [2]], query_ids=[1, 2], gallery_size=3)
        >>> per_query(ranks, ranks=(1,))["rank1"].tolist()
        [100.0, 0.0]
    """
    if any(k < 1 for k in ranks):
        raise InputError(f"Rank-k needs k of at least 1, not {list(ranks)}.")
    evaluated, first = _first_ranks(match_ranks)
    counts = match_ranks.match_counts[evaluated]
    last = match_ranks.ranks[match_ranks.offsets[evaluated + 1] - 1]
    owner = torch.repeat_interleave(torch.arange(len(evaluated)), counts)
    position = torch.arange(len(owner)) - (counts.cumsum(0) - counts)[owner] + 1
    precision = position.double() / match_ranks.ranks
    average_precision = torch.zeros(len(evaluated), dtype=torch.float64).index_add_(0, owner, precision) / counts
    values = {f"rank{k}": (first <= k).double() * 100 for k in ranks}
    return {**values, "mAP": average_precision * 100, "mINP": counts.double() / last * 100}


def retrieval_metrics(match_ranks: MatchRanks, ranks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Average the metrics over the queries that have a match.

    Args:
        match_ranks: The ranks of the matches.
        ranks: The k of Rank-k: the share of queries whose first match is among the first k items.

    Returns:
        `rank{k}`, `mAP` and `mINP` in percent, `queries` (those averaged) and `excluded_queries` (without a match).

    Raises:
        InputError: If no query has a match, or a k is below 1.

    Example:
        >>> ranks = MatchRanks.from_lists([[1, 3], [2]], query_ids=[1, 2], gallery_size=3)
        >>> {name: round(value, 1) for name, value in retrieval_metrics(ranks, ranks=(1, 2)).items()}
        {'rank1': 50.0, 'rank2': 100.0, 'mAP': 66.7, 'mINP': 58.3, 'queries': 2, 'excluded_queries': 0}
    """
    metrics: dict[str, float] = {name: float(values.mean()) for name, values in per_query(match_ranks, ranks).items()}
    metrics["queries"] = len(match_ranks.evaluated)
    metrics["excluded_queries"] = match_ranks.excluded_queries
    return metrics


def cumulative_match_curve(match_ranks: MatchRanks, max_rank: int = 50) -> Tensor:
    """Return Rank-1 to Rank-`max_rank` in percent, the cumulative match characteristic, float64 `(max_rank,)`.

    Raises:
        InputError: If no query has a match, or `max_rank` is below 1.

    Example:
        >>> cumulative_match_curve(MatchRanks.from_lists([[1, 3], [2]], query_ids=[1, 2], gallery_size=3), 3).tolist()
        [50.0, 100.0, 100.0]
    """
    if max_rank < 1:
        raise InputError(f"max_rank must be at least 1, not {max_rank}.")
    evaluated, first = _first_ranks(match_ranks)
    hits = torch.bincount(first[first <= max_rank] - 1, minlength=max_rank)
    return hits.cumsum(0).double() / len(evaluated) * 100


def _first_ranks(match_ranks: MatchRanks) -> tuple[Tensor, Tensor]:
    """Return the queries that have a match and the ranks of their first ones."""
    evaluated = match_ranks.evaluated
    if len(evaluated) == 0:
        raise InputError("No query has a match in the gallery; check that both carry identities of the same split.")
    return evaluated, match_ranks.ranks[match_ranks.offsets[evaluated]]
