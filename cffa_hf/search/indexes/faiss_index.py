"""FAISS within the process: one bit a dimension in memory finds candidates, float16 vectors on disk rank them.

The index is one list of RaBitQ codes that is scanned whole: sentences lie off the distribution of images, so that
partitions lose what they are asked for (with an eighth of the lists, an eighth of the best ten). Vectors that came after the
index was built are compared exactly until it is built again.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cffa_hf.errors import InputError, one_line
from cffa_hf.search.filters import Condition
from cffa_hf.search.indexes.exact import rank_candidates, search_rows
from cffa_hf.search.items import Items

FACTORY = "IVF1,RaBitQfs"
CODES = "index.faiss"
TRAINED_ON, BLOCK = 50_000, 50_000
FEW = 20_000  # images below which exact search is as fast
FEW_FILTERED = 50_000  # rows that pass a filter, below which they are all compared
CANDIDATES = (200, 400, 800, 1600)
GOAL = 0.99  # recall@10 that is enough


class FaissIndex:
    """Finds candidates by their codes and ranks them by their vectors.

    Args:
        items: Holds the vectors.
        codes: What `build_codes` returned or `read_codes` read.
        candidates: Ranked for each query; more find more.
    """

    kind = "faiss"

    def __init__(self, items: Items, codes: Any, candidates: int = CANDIDATES[0]):
        self.items, self.codes, self.candidates = items, codes, candidates

    def __len__(self) -> int:
        return len(self.items)

    @property
    def covered(self) -> int:
        """Return how many rows have codes; those behind them are compared exactly."""
        return int(self.codes.ntotal)

    def add(self, ids: np.ndarray, vectors: np.ndarray, metadata: Sequence[Mapping[str, Any]]) -> None:
        """Do nothing: rows without codes are compared exactly."""

    def remove(self, ids: np.ndarray) -> None:
        """Do nothing: what the table no longer holds cannot be found."""

    def search(
        self, queries: np.ndarray, k: int, conditions: Sequence[Condition] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the best vectors for each query, as `VectorIndex.search` says; nearly all of them."""
        faiss = import_faiss()
        mask, vectors = self.items.mask(conditions), self.items.vectors
        # Another thread may add images meanwhile.
        rows = len(vectors) if mask is None else min(len(mask), len(vectors))
        if mask is not None and int(mask.sum()) <= FEW_FILTERED:
            return search_rows(vectors, queries, k, np.flatnonzero(mask[:rows]))
        count = min(max(self.candidates, 4 * k), self.covered)
        parameters = faiss.SearchParametersIVF(nprobe=1)
        if mask is not None:
            # The best of a part of the gallery are further from the query and closer to each other.
            count = min(4 * count, self.covered)
            bits = np.packbits(mask[: self.covered], bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)
            parameters = faiss.SearchParametersIVF(nprobe=1, sel=selector)
        _, near = self.codes.search(np.ascontiguousarray(queries, dtype=np.float32), count, params=parameters)
        late = np.arange(self.covered, rows)
        if mask is not None:
            late = late[mask[self.covered : rows]]
        candidates = [row[row >= 0] for row in near]
        if len(late):
            _, newest = search_rows(vectors, queries, k, late)
            candidates = [np.concatenate([old, new[new >= 0]]) for old, new in zip(candidates, newest, strict=True)]
        return rank_candidates(vectors, queries, candidates, k)

    def close(self) -> None:
        """Let go of the codes."""
        self.codes = None


def build_codes(items: Items, *, seed: int = 0) -> Any:
    """Make the codes of all vectors, a block at a time.

    Args:
        items: Holds the vectors, at least one.
        seed: Draws those that the codes are fitted to.

    Raises:
        InputError: If FAISS is not installed.
    """
    faiss = import_faiss()
    codes = faiss.index_factory(items.width, FACTORY, faiss.METRIC_INNER_PRODUCT)
    drawn = np.random.default_rng(seed).permutation(items.rows)[:TRAINED_ON]
    codes.train(items.vectors[np.sort(drawn)].astype(np.float32))
    for start in range(0, items.rows, BLOCK):
        codes.add(items.vectors[start : start + BLOCK].astype(np.float32))
    return codes


def read_codes(path: Path, items: Items) -> Any:
    """Read codes from a file into memory: 0.1 s for a million.

    Args:
        path: The file.
        items: That it belongs to.

    Raises:
        InputError: If FAISS is not installed, or the file is damaged or of another gallery.
    """
    faiss = import_faiss()
    try:
        codes = faiss.read_index(str(path))  # memory-mapped, it would lie in memory twice: FAISS copies these lists
    except RuntimeError as error:
        raise InputError(
            f"{path}: no index can be read from there ({one_line(error, 120)}); index the images again."
        ) from error
    if codes.d != items.width or codes.ntotal > items.rows:
        raise InputError(f"{path}: this index is of other vectors than those beside it; index the images again.")
    return codes


def import_faiss() -> Any:
    """Import FAISS.

    Raises:
        InputError: If it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise InputError(
            "A gallery of this size is searched with FAISS: install it with pip install 'cffa_hf[search]', or take the "
            "exact index."
        ) from error
    return faiss


def choose_candidates(
    items: Items, codes: Any, queries: np.ndarray, k: int = 10, goal: float = GOAL
) -> tuple[int, float]:
    """Take as many candidates as it needs to find what exact search finds.

    Args:
        items: Holds the vectors.
        codes: Of them.
        queries: `(q, width)`, like those to come.
        k: Of recall@k.
        goal: Recall that is enough.

    Returns:
        Candidates for each query, and the recall@k with them: the share of the k best that are found.
    """
    _, exact = search_rows(items.vectors, queries, k)
    for candidates in CANDIDATES:
        _, found = FaissIndex(items, codes, candidates).search(queries, k)
        recall = recall_of(found, exact)
        if recall >= goal:
            break
    return candidates, recall


def recall_of(found: np.ndarray, exact: np.ndarray) -> float:
    """Return the share of the ids in `exact` `(q, k)` that are in `found` `(q, k)`."""
    hits = sum(len(set(one.tolist()) & set(other.tolist()) - {-1}) for one, other in zip(found, exact, strict=True))
    return hits / max(1, int((exact >= 0).sum()))


def stand_in_queries(items: Items, count: int = 64, seed: int = 0) -> np.ndarray:
    """Make queries where no sentences are at hand: off the images, as sentences are.

    Half of a query is an image of the gallery (a cosine of 0.5). The other half lies across it: in equal parts towards
    another image, since other people share attributes, and in a random direction, since sentences are no images. Of
    the demo model's sentences 55% of what their best image does not explain lies within the 64 directions that hold
    97% of the images' variance, and their cosine with it is 0.76, so these are the harder ones to find for.

    Args:
        items: Holds the vectors.
        count: How many queries at most.
        seed: Draws them.

    Returns:
        Unit rows `(q, width)`, float32.
    """
    rng = np.random.default_rng(seed)
    vectors = items.vectors[np.sort(rng.permutation(items.rows)[:count])].astype(np.float32)
    others = items.vectors[rng.permutation(items.rows)[:count]].astype(np.float32)
    noise = rng.standard_normal(vectors.shape, dtype=np.float32)
    across = _across(_across(others, vectors) + _across(noise, vectors), vectors)
    return _unit(0.5 * vectors + np.sqrt(0.75) * across)


def _across(rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return the part of each row that lies across a unit vector, as a unit row."""
    return _unit(rows - (rows * vectors).sum(axis=1, keepdims=True) * vectors)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
