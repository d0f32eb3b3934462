"""Qdrant: one collection a gallery, which the server may split and copy over several machines.

Up to `EXACT_ROWS` vectors that meet the filter, all are compared; above, the server's HNSW index proposes candidates. Both
are ranked anew from the stored vectors, so that equal vectors get equal scores.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from cffa_hf.errors import InputError, RunStopped, one_line
from cffa_hf.search.filters import Condition, check_names, to_time
from cffa_hf.search.indexes.addresses import ServerAddress

EXACT_ROWS = 20_000
BATCH = 256
CANDIDATES, SEARCH_WIDTH = 100, 256
PAGE = 10_000


class QdrantIndex:
    """Vectors in float16 with their metadata, in a collection of the gallery's name.

    Metadata have the form in which filters compare: texts, numbers, and times as `filters.to_time` writes them.

    Args:
        address: `http://host:6333` of a server, a folder, or `:memory:`, with the gallery's name. The key of a server is
            taken from the environment, QDRANT_API_KEY.
        width: Of the vectors.
        fingerprint: Of the model that made them.
        exact_rows: Up to so many vectors that meet a filter, all are compared.
        batch_size: Vectors that are sent at once.
        timeout: Of a request, in seconds.

    Raises:
        InputError: If the collection is of another model or width, or the server refuses the key.
        RunStopped: If the server cannot be reached.
    """

    kind = "qdrant"

    def __init__(
        self,
        address: ServerAddress,
        width: int,
        fingerprint: str,
        *,
        exact_rows: int = EXACT_ROWS,
        batch_size: int = BATCH,
        timeout: int = 30,
    ):
        self._client, self._models, self._failures = _connect(address, timeout)
        self.address, self.width, self.exact_rows, self.batch_size = address, width, exact_rows, batch_size
        self._serves = address.full.startswith(("http://", "https://"))
        self._indexed: set[str] = set()
        try:
            with self._explained():
                self._open_collection(fingerprint)
        except BaseException:
            self._client.close()
            raise

    def __len__(self) -> int:
        with self._explained():
            return int(self._client.count(self.address.name, exact=True).count)

    def ids(self) -> np.ndarray:
        """Return the ids of all vectors, ascending: after an interrupted `add`, what is missing shows."""
        found: list[int] = []
        place = None
        with self._explained():
            while True:
                page, place = self._client.scroll(
                    self.address.name, limit=PAGE, offset=place, with_payload=False, with_vectors=False
                )
                found += [int(point.id) for point in page]
                if place is None:
                    return np.array(sorted(found), dtype=np.int64)

    def add(self, ids: np.ndarray, vectors: np.ndarray, metadata: Sequence[Mapping[str, Any]]) -> None:
        """Add vectors in batches, each of which is written when the next is sent; the same call again changes nothing.

        Args:
            ids: `(n,)`, int64.
            vectors: `(n, width)`, float32, unit rows.
            metadata: Of each vector.

        Raises:
            InputError: If shapes differ or a number is not finite.
            RunStopped: If the server is down, slow or full; batches before are written.
        """
        if vectors.shape != (len(ids), self.width) or len(metadata) != len(ids) or not np.isfinite(vectors).all():
            raise InputError(f"Vectors of {len(ids)} images must be finite and ({len(ids)}, {self.width}).")
        check_names({name for row in metadata for name in row})
        rounded = vectors.astype(np.float16).astype(np.float32)
        with self._explained():
            self._index_columns(metadata)
            for start in range(0, len(ids), self.batch_size):
                points = [
                    self._models.PointStruct(
                        id=int(ids[row]), vector=rounded[row].tolist(), payload={"metadata": dict(metadata[row])}
                    )
                    for row in range(start, min(start + self.batch_size, len(ids)))
                ]
                self._client.upsert(self.address.name, points, wait=True)

    def remove(self, ids: np.ndarray) -> None:
        """Make vectors unfindable; ids that are not there are passed over."""
        if len(ids):
            with self._explained():
                chosen = self._models.PointIdsList(points=[int(each) for each in ids])
                self._client.delete(self.address.name, chosen, wait=True)

    def search(
        self, queries: np.ndarray, k: int, conditions: Sequence[Condition] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the best vectors for each query, as `VectorIndex.search` says; above `exact_rows` nearly all of them."""
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        chosen = self._filter(conditions)
        with self._explained():
            count = int(self._client.count(self.address.name, count_filter=chosen, exact=True).count)
            for row, query in enumerate(queries):
                found = self._ranked(np.asarray(query, dtype=np.float32), k, chosen, count)
                if found:
                    ids[row, : len(found)], scores[row, : len(found)] = zip(*found, strict=True)
        return scores, ids

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _ranked(self, query: np.ndarray, k: int, chosen: Any, count: int) -> list[tuple[int, float]]:
        exact = count <= self.exact_rows or not self._serves
        # A local collection always compares all.
        parameters = self._models.SearchParams(exact=exact, hnsw_ef=SEARCH_WIDTH) if self._serves else None
        limit = min(max(CANDIDATES, 4 * k), count)
        while limit:
            points = self._client.query_points(
                self.address.name,
                query=query.tolist(),
                query_filter=chosen,
                search_params=parameters,
                limit=limit,
                with_payload=False,
                with_vectors=True,
            ).points
            found = [(int(point.id), float(np.float32(_dot(point.vector, query)))) for point in points]
            found.sort(key=lambda each: (-each[1], each[0]))
            # A tie that the limit cuts may hide a lower id.
            if len(points) < limit or limit == count or found[k - 1][1] > found[-1][1] or not exact:
                return found[:k]
            limit = min(4 * limit, count)
        return []

    def _filter(self, conditions: Sequence[Condition]) -> Any:
        models = self._models
        check_names(condition.column for condition in conditions)
        needed: list[Any] = []
        for condition in conditions:
            key = f"metadata.{condition.column}"
            if condition.values is not None:
                texts = [value for value in condition.values if isinstance(value, str)]
                numbers = [float(value) for value in condition.values if not isinstance(value, str)]
                either: list[Any] = [
                    models.FieldCondition(key=key, range=models.Range(gte=number, lte=number)) for number in numbers
                ]
                if texts or not numbers:
                    either.append(models.FieldCondition(key=key, match=models.MatchAny(any=texts)))
                needed.append(models.Filter(should=either))
            ends = {name: end for name, end in (("gte", condition.low), ("lte", condition.high)) if end is not None}
            if not ends:
                continue
            if all(isinstance(end, str) and to_time(end) == end for end in ends.values()):
                needed.append(models.FieldCondition(key=key, range=models.DatetimeRange(**ends)))
            elif any(isinstance(end, str) for end in ends.values()):
                raise InputError(
                    f"Qdrant compares no ranges of texts such as those of {condition.column!r}; give the values themselves."
                )
            else:
                needed.append(models.FieldCondition(key=key, range=models.Range(**ends)))
        return models.Filter(must=needed) if needed else None

    def _open_collection(self, fingerprint: str) -> None:
        name, models = self.address.name, self._models
        if not self._client.collection_exists(name):
            self._client.create_collection(
                name,
                vectors_config=models.VectorParams(
                    size=self.width, distance=models.Distance.DOT, datatype=models.Datatype.FLOAT16
                ),
                metadata={"fingerprint": fingerprint},
            )
        config = self._client.get_collection(name).config
        known = (config.params.vectors.size, (config.metadata or {}).get("fingerprint"))
        if known != (self.width, fingerprint):
            raise InputError(
                f"{self.address.public}: the collection {name!r} there holds vectors of another model ({known[0]} "
                "dimensions); open it with that model or choose another name behind the #."
            )

    def _index_columns(self, metadata: Sequence[Mapping[str, Any]]) -> None:
        """Let the server index new columns; a local collection needs no such index."""
        if not self._serves:
            return
        schemas = self._models.PayloadSchemaType
        for row in metadata:
            for column in row.keys() - self._indexed:
                kind = schemas.KEYWORD if isinstance(row[column], str) else schemas.FLOAT
                if kind is schemas.KEYWORD and to_time(row[column]) == row[column]:
                    kind = schemas.DATETIME
                self._client.create_payload_index(self.address.name, f"metadata.{column}", field_schema=kind)
                self._indexed.add(column)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self._failures as error:
            status, where = getattr(error, "status_code", None), self.address.public
            reason = self.address.hide(one_line(error, 200))
            if status in (401, 403):
                raise InputError(f"{where}: the server refuses the key; set QDRANT_API_KEY.") from error
            if status == 404:
                raise InputError(
                    f"{where}: the collection {self.address.name!r} is gone; embed the images again."
                ) from error
            raise RunStopped(
                f"{where}: the server cannot be reached or stopped the request ({reason}); what was written is there, run "
                "the same again when the server is up."
            ) from error


def _connect(address: ServerAddress, timeout: int) -> tuple[Any, Any, tuple[type[Exception], ...]]:
    try:
        from qdrant_client import QdrantClient, models
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
    except ImportError as error:
        raise InputError(
            "A gallery on Qdrant needs its client; install it with pip install 'cffa_hf[qdrant]'."
        ) from error
    if not address.name:
        raise InputError(
            f"{address.public}: the address lacks the gallery's name, as in qdrant:http://host:6333#lobby."
        )
    if address.full.startswith(("http://", "https://")):
        key = os.environ.get("QDRANT_API_KEY")
        client = QdrantClient(url=address.full, api_key=key, timeout=timeout, check_compatibility=False)
    elif address.full == ":memory:":
        client = QdrantClient(":memory:")
    else:
        try:
            client = QdrantClient(path=address.full)
        except RuntimeError as error:
            raise RunStopped(
                f"{address.full}: another program has this collection open ({one_line(error, 120)}); let it end, or run a "
                "server."
            ) from error
    return client, models, (ResponseHandlingException, UnexpectedResponse)


def _dot(vector: Any, query: np.ndarray) -> float:
    return float(np.einsum("j,j->", np.asarray(vector, dtype=np.float16).astype(np.float32), query))
