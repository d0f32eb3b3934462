"""Retrieval metrics from ranks or embeddings, independent of any model.

Read ranking.py (ranks of the matches), averages.py (Rank-k, mAP, mINP), reranking.py (k-reciprocal re-ranking of the scores),
significance.py (confidence intervals and a paired test).
"""

from cffa_hf.metrics.averages import cumulative_match_curve, per_query, retrieval_metrics
from cffa_hf.metrics.ranking import MatchRanks, match_ranks, match_ranks_from_scores
from cffa_hf.metrics.reranking import KReciprocalReranking
from cffa_hf.metrics.significance import ConfidenceInterval, PairedDifference, bootstrap_confidence, paired_test

__all__ = [
    "ConfidenceInterval",
    "KReciprocalReranking",
    "MatchRanks",
    "PairedDifference",
    "bootstrap_confidence",
    "cumulative_match_curve",
    "match_ranks",
    "match_ranks_from_scores",
    "paired_test",
    "per_query",
    "retrieval_metrics",
]
