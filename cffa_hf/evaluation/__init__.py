"""Evaluation of a checkpoint on one split: embed, rank, analyse.

Read split.py (loaded and divided as the checkpoint's training did), evaluator.py (embeds and ranks), callback.py
(reports during a training); ranked_queries.py (single queries), slices.py (groups of captions)
and stress.py (disturbed captions and images).
"""

from cffa_hf.evaluation.callback import RetrievalEvaluationCallback
from cffa_hf.evaluation.evaluator import RetrievalEmbeddings, RetrievalEvaluator
from cffa_hf.evaluation.split import EvaluationSplit, load_split

__all__ = [
    "EvaluationSplit",
    "RetrievalEmbeddings",
    "RetrievalEvaluationCallback",
    "RetrievalEvaluator",
    "load_split",
]
