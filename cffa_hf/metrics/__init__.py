"""Numbers from ranks; no model is known here.

Read ranking.py, averages.py, reranking.py, significance.py: the ranks of the matches are found and averaged, scores are changed
before that, and it is said how sure a number or a difference is.
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
