"""The `evaluate` metric for person retrieval, a thin wrapper round `cffa_hf.metrics`."""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
import torch

from cffa_hf.metrics import MatchRanks, retrieval_metrics
from cffa_hf.metrics import match_ranks as rank_matches

DESCRIPTION = """\
Rank-1/5/10 (any k), mAP and mINP of person retrieval, in percent. Rank-k is the share of queries with at least one
match among the first k gallery items, mAP the mean of the queries' average precisions, mINP the mean of (matches / rank
of the last match). Equal scores count against the system. Queries without a match are left out and counted.
"""

INPUTS_DESCRIPTION = """
Default configuration `match_ranks`:
    match_ranks: for every query the 1-based ranks of its matches in the gallery; an empty list where it has none.
Configuration `embeddings`:
    query_embeddings, query_ids: one vector and one identity for every query.
    gallery_embeddings, gallery_ids: the same for the gallery, given to `compute`.
Both:
    ranks: the k of Rank-k, by default (1, 5, 10).
Returns:
    rank{k}, mAP and mINP in percent, queries and excluded_queries.
Example:
    >>> metric = evaluate.load("cffa_hf/person_retrieval")
    >>> metric.compute(match_ranks=[[1, 2], [3], []])["rank1"]
    50.0
"""

FEATURES = {
    "match_ranks": {"match_ranks": datasets.Sequence(datasets.Value("int64"))},
    "embeddings": {
        "query_embeddings": datasets.Sequence(datasets.Value("float32")),
        "query_ids": datasets.Value("int64"),
    },
}


@evaluate.utils.file_utils.add_start_docstrings(DESCRIPTION, INPUTS_DESCRIPTION)
class PersonRetrieval(evaluate.Metric):
    """Compute Rank-k, mAP and mINP from match ranks, or from embeddings."""

    def _info(self) -> evaluate.MetricInfo:
        name = "match_ranks" if self.config_name == "default" else self.config_name
        if name not in FEATURES:
            raise ValueError(f"person_retrieval has the configurations {', '.join(FEATURES)}, not {name}.")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS_DESCRIPTION,
            features=datasets.Features(FEATURES[name]),
        )

    def _compute(self, *, ranks: Sequence[int] = (1, 5, 10), **inputs) -> dict[str, float]:
        compute = metrics_from_embeddings if "query_embeddings" in inputs else metrics_from_match_ranks
        return compute(**inputs, ranks=ranks)


def metrics_from_match_ranks(
    match_ranks: Sequence[Sequence[int]], ranks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Compute the metrics from one list of 1-based ranks per query; `MatchRanks.tolist` gives such lists."""
    last = max((place for places in match_ranks for place in places), default=0)
    return retrieval_metrics(MatchRanks.from_lists(match_ranks, range(len(match_ranks)), last), ranks)


def metrics_from_embeddings(
    query_embeddings: Sequence[Sequence[float]],
    query_ids: Sequence[int],
    gallery_embeddings: Sequence[Sequence[float]],
    gallery_ids: Sequence[int],
    ranks: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
    """Compute the metrics from embeddings, by dot product, and identities."""
    queries, gallery = (
        part if isinstance(part, torch.Tensor) else torch.from_numpy(np.asarray(part, dtype=np.float32))
        for part in (query_embeddings, gallery_embeddings)
    )
    return retrieval_metrics(rank_matches(queries, gallery, query_ids, gallery_ids), ranks)
