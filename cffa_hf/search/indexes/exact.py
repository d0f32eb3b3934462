"""Exact search: every vector is compared with every query. Best up to some 20,000 vectors, and the measure of all others."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from cffa_hf.search.filters import Condition
from cffa_hf.search.items import Items

BLOCK = 8192
SLACK = 2e-3  # twice what a product of float16 numbers, summed in float32 and rounded, may be off


class ExactIndex:
    """Compares every vector of a table of images with the queries.

    Args:
        items: Holds the vectors; what it holds can be found.
    """

    kind = "exact"

    def __init__(self, items: Items):
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def add(self, ids: np.ndarray, vectors: np.ndarray, metadata: Sequence[Mapping[str, Any]]) -> None:
        """Do nothing: what the table holds can be found."""

    def remove(self, ids: np.ndarray) -> None:
        """Do nothing: what the table no longer holds cannot be found."""

    def search(
        self, queries: np.ndarray, k: int, conditions: Sequence[Condition] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the best vectors for each query, as `VectorIndex.search` says."""
        mask = self.items.mask(conditions)
        rows = None if mask is None else np.flatnonzero(mask)
        return search_rows(self.items.vectors, queries, k, rows)

    def close(self) -> None:
        """Do nothing: the gallery closes the table."""


def search_rows(
    vectors: np.ndarray, queries: np.ndarray, k: int, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the best of some rows for each query, exactly.

    Args:
        vectors: `(n, width)`, float16.
        queries: `(q, width)`, float32.
        k: How many.
        rows: That may be found, ascending; None: all.

    Returns:
        Scores and rows, `(q, k)`, as `VectorIndex.search` says.
    """
    total = len(vectors) if rows is None else len(rows)
    # In float16, without a copy in float32, one query takes a tenth of the time; what is near the best is ranked anew.
    wanted = torch.from_numpy(np.asarray(queries, dtype=np.float16)).T
    wanted = wanted[:, 0] if wanted.shape[1] == 1 else wanted
    found: list[list[np.ndarray]] = [[] for _ in range(len(queries))]
    bounds = np.full(len(queries), -np.inf, dtype=np.float32)
    for start in range(0, total, BLOCK):
        part = slice(start, min(start + BLOCK, total))
        numbers = np.arange(part.start, part.stop) if rows is None else rows[part]
        block = torch.from_numpy(vectors[part] if rows is None else vectors[numbers])
        scores = (block @ wanted).float().reshape(len(block), -1).T.numpy()
        if scores.shape[1] > k:
            best = np.partition(scores, scores.shape[1] - k, axis=1)[:, -k]
            bounds = np.maximum(bounds, best - SLACK)
        for query, row in enumerate(scores):
            found[query].append(numbers[~(row < bounds[query])])  # NaN too: that shows damage
    return rank_candidates(vectors, queries, [np.concatenate(each) if each else np.empty(0, int) for each in found], k)


def rank_candidates(
    vectors: np.ndarray, queries: np.ndarray, candidates: Sequence[np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Score candidates anew, each row by itself, so that equal vectors get equal scores in every index.

    Args:
        vectors: `(n, width)`, float16.
        queries: `(q, width)`, float32.
        candidates: Rows for each query, without repetition.
        k: How many to keep.

    Returns:
        Scores and rows, `(q, k)`, as `VectorIndex.search` says.
    """
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    ids = np.full((len(queries), k), -1, dtype=np.int64)
    for query, rows in enumerate(candidates):
        rows = np.sort(rows)
        exact = np.empty(len(rows), dtype=np.float32)
        for start in range(0, len(rows), BLOCK):
            part = rows[start : start + BLOCK]
            exact[start : start + BLOCK] = np.einsum("ij,j->i", vectors[part].astype(np.float32), queries[query])
        order = np.argsort(-exact, kind="stable")[:k]
        scores[query, : len(order)], ids[query, : len(order)] = exact[order], rows[order]
    return scores, ids
