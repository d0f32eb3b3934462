"""What every index can do."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from cffa_hf.search.filters import Condition


class VectorIndex(Protocol):
    """Vectors by id, found by their dot product with a query.

    Attributes:
        kind: "exact", "faiss", "pgvector" or "qdrant".
    """

    kind: str

    def __len__(self) -> int:
        """Return how many vectors can be found."""
        ...

    def add(self, ids: np.ndarray, vectors: np.ndarray, metadata: Sequence[Mapping[str, Any]]) -> None:
        """Make vectors findable.

        Args:
            ids: `(n,)`, int64, not there yet.
            vectors: `(n, width)`, float32, unit rows.
            metadata: Of each vector, for filters.
        """
        ...

    def remove(self, ids: np.ndarray) -> None:
        """Make vectors unfindable; ids that are not there are passed over."""
        ...

    def search(
        self, queries: np.ndarray, k: int, conditions: Sequence[Condition] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the best vectors for each query.

        Args:
            queries: `(q, width)`, float32, unit rows.
            k: How many, at least 1.
            conditions: All of which the metadata of a vector must meet.

        Returns:
            Scores `(q, k)`, float32, best first, and ids `(q, k)`, int64; of equal scores the lower id comes first. Where
            fewer vectors meet the conditions, -inf and -1.
        """
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...
