"""Which server an address means, and how it comes to hold what a gallery holds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from cffa_hf.errors import InputError
from cffa_hf.search.indexes.addresses import parse_address
from cffa_hf.search.indexes.pgvector_index import PgvectorIndex
from cffa_hf.search.indexes.qdrant_index import QdrantIndex

BATCH = 1000
POSTGRES, QDRANT = ("postgresql://", "postgres://"), "qdrant:"


class Rows(Protocol):
    """The table of images of a gallery, as far as it is sent to a server."""

    @property
    def vectors(self) -> np.ndarray:
        """Return the vectors `(rows, width)`, one row an id."""
        ...

    def get(self, ids: Sequence[int]) -> Mapping[int, tuple[str, Mapping[str, Any]]]:
        """Return path and metadata of images by id."""
        ...


def is_address(index: str) -> bool:
    """Return whether the name of an index is the address of a server."""
    return index.startswith((*POSTGRES, QDRANT))


def connect_index(address: str, width: int, fingerprint: str, *, name: str = "") -> PgvectorIndex | QdrantIndex:
    """Open the gallery of an address, or make it if it is not there.

    Args:
        address: `postgresql://user@host/database#name`, `qdrant:http://host:6333#name`, `qdrant:FOLDER#name` or
            `qdrant::memory:#name`.
        width: Of the vectors.
        fingerprint: Of the model that made them.
        name: Of the gallery on the server, where the address has none.

    Raises:
        InputError: If it is no such address, or what is there belongs to another model.
        RunStopped: If the server cannot be reached.
    """
    if address.startswith(POSTGRES):
        place = parse_address(address)
        return PgvectorIndex(replace(place, name=place.name or name), width, fingerprint)
    if address.startswith(QDRANT):
        place = parse_address(address.removeprefix(QDRANT))
        return QdrantIndex(replace(place, name=place.name or name), width, fingerprint)
    raise InputError("The address of a server begins with postgresql:// or qdrant: and ends with #name.")


def recorded_address(index: PgvectorIndex | QdrantIndex) -> str:
    """Return the address under which an index is found again, without password: this may be written down."""
    prefix = QDRANT if isinstance(index, QdrantIndex) else ""
    return f"{prefix}{index.address.public}#{index.address.name}"


def synchronise(index: PgvectorIndex | QdrantIndex, rows: Rows, ids: np.ndarray) -> None:
    """Let a server hold what a gallery holds: what is missing is added, what the gallery no longer has is removed.

    An interrupted one goes on where it stopped. The gallery on the server must be this gallery's alone.

    Args:
        index: On the server.
        rows: The gallery's own table.
        ids: Of the images that the gallery holds, int64.

    Raises:
        RunStopped: If the server is down, slow or full.
    """
    there = index.ids()
    gone = np.setdiff1d(there, ids)
    if len(gone):
        index.remove(gone)
    missing = np.setdiff1d(ids, there)
    for start in range(0, len(missing), BATCH):
        part = missing[start : start + BATCH]
        known = rows.get(part.tolist())
        index.add(part, rows.vectors[part].astype(np.float32), [known[number][1] for number in part.tolist()])
