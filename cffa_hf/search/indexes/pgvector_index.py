"""PostgreSQL with pgvector: one table a gallery, filtered and ranked by the server, shared by several processes.

Up to `EXACT_ROWS` rows that meet the filter, all are compared. Above, an HNSW index proposes candidates, which are ranked
exactly; it goes on until enough rows meet the filter, and where it gives up too early, all are compared after all.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cffa_hf.errors import InputError
from cffa_hf.search.filters import Condition
from cffa_hf.search.indexes.addresses import ServerAddress
from cffa_hf.search.indexes.postgres_errors import Connections, import_psycopg

EXACT_ROWS = 20_000
BATCH = 1000
MOST_DIMENSIONS = 4000  # of an HNSW index on halfvec
FEWEST_CANDIDATES, MOST_CANDIDATES = 200, 1000  # hnsw.ef_search ends at 1000
FEW_VALUES = 16
REGISTER = "cffa_hf_galleries"


class PgvectorIndex:
    """Vectors in float16 with their metadata, in a table `gallery_NAME`; several threads and processes may use it.

    Metadata have the form in which filters compare: texts, numbers, and times as `filters.to_time` writes them.

    Args:
        address: Of the database, with the gallery's name.
        width: Of the vectors.
        fingerprint: Of the model that made them.
        exact_rows: Up to so many rows that meet a filter, all are compared.
        batch_size: Rows that are added in one transaction.
        timeout: Of a search, in seconds.
        connect_timeout: In seconds.

    Raises:
        InputError: If the table is of another model or width, the extension `vector` or a right is missing, or the server
            refuses the password.
        RunStopped: If the server cannot be reached.
    """

    kind = "pgvector"

    def __init__(
        self,
        address: ServerAddress,
        width: int,
        fingerprint: str,
        *,
        exact_rows: int = EXACT_ROWS,
        batch_size: int = BATCH,
        timeout: float = 30.0,
        connect_timeout: int = 10,
    ):
        psycopg, _ = import_psycopg()
        sql = psycopg.sql
        if not address.name:
            raise InputError(
                f"{address.public}: the address lacks the gallery's name, as in postgresql://host/db#lobby."
            )
        if not 0 < width <= MOST_DIMENSIONS:
            raise InputError(f"pgvector takes vectors of 1 to {MOST_DIMENSIONS:,} dimensions, not {width:,}.")
        self.address, self.width, self.exact_rows, self.batch_size = address, width, exact_rows, batch_size
        self._names = {
            "table": sql.Identifier(f"gallery_{address.name}"),
            "sequence": sql.Identifier(f"gallery_{address.name}_ids"),
            "regclass": sql.Literal(f"gallery_{address.name}_ids"),
            "hnsw": sql.Identifier(f"gallery_{address.name}_hnsw"),
            "gin": sql.Identifier(f"gallery_{address.name}_metadata"),
            "register": sql.Identifier(REGISTER),
            "halfvec": sql.SQL("halfvec({})").format(sql.Literal(width)),
        }
        self._connections = Connections(address, connect_timeout, timeout)
        try:
            self._make_extension()
            self._make_table(fingerprint)
        except BaseException:
            self._connections.close()
            raise

    def __len__(self) -> int:
        with self._connections.transaction() as cursor:
            cursor.execute(self._sql("SELECT count(*) FROM {table}"))
            return int(cursor.fetchone()[0])

    def reserve(self, count: int) -> np.ndarray:
        """Return ids that no other process gets, `(count,)`, int64, ascending."""
        with self._connections.transaction(writes=True) as cursor:
            cursor.execute(self._sql("SELECT nextval({regclass}) FROM generate_series(1, %s)"), (count,))
            return np.array(sorted(row[0] for row in cursor.fetchall()), dtype=np.int64)

    def ids(self) -> np.ndarray:
        """Return the ids of all vectors, ascending: after an interrupted `add`, what is missing shows."""
        with self._connections.transaction() as cursor:
            cursor.execute(self._sql("SELECT id FROM {table} ORDER BY id"))
            return np.array([row[0] for row in cursor.fetchall()], dtype=np.int64)

    def add(self, ids: np.ndarray, vectors: np.ndarray, metadata: Sequence[Mapping[str, Any]]) -> None:
        """Add vectors in batches, each committed; after an interruption the same call goes on.

        Args:
            ids: `(n,)`, int64; one that is there already must have the same vector, and gets the new metadata.
            vectors: `(n, width)`, float32, unit rows.
            metadata: Of each vector.

        Raises:
            InputError: If shapes differ, a number is not finite, or an id belongs to another vector.
            RunStopped: If the server is down, slow or full; batches before are committed.
        """
        if vectors.shape != (len(ids), self.width) or len(metadata) != len(ids) or not np.isfinite(vectors).all():
            raise InputError(f"Vectors of {len(ids)} images must be finite and ({len(ids)}, {self.width}).")
        for start in range(0, len(ids), self.batch_size):
            part = slice(start, start + self.batch_size)
            self._add_batch(ids[part], vectors[part], metadata[part])
        with self._connections.transaction(writes=True) as cursor:
            if self._count(cursor, self._sql(""), []) > self.exact_rows:
                cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"{REGISTER}/{self.address.name}",))
                cursor.execute(
                    self._sql("CREATE INDEX IF NOT EXISTS {hnsw} ON {table} USING hnsw (embedding halfvec_ip_ops)")
                )

    def remove(self, ids: np.ndarray) -> None:
        """Make vectors unfindable; ids that are not there are passed over."""
        with self._connections.transaction(writes=True) as cursor:
            cursor.execute(
                self._sql("DELETE FROM {table} WHERE id = ANY(%s::bigint[])"), ([int(each) for each in ids],)
            )

    def search(
        self, queries: np.ndarray, k: int, conditions: Sequence[Condition] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the best vectors for each query, as `VectorIndex.search` says; above `exact_rows` nearly all of them."""
        from pgvector import Vector

        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        where, values = self._where(conditions)
        with self._connections.transaction() as cursor:
            count = self._count(cursor, where, values)
            approximate = count > self.exact_rows and k <= MOST_CANDIDATES // 2
            for row, query in enumerate(queries):
                vector = Vector(np.asarray(query, dtype=np.float32))
                found = self._approximate(cursor, vector, k, where, values) if approximate else []
                if len(found) < min(k, count):
                    found = self._exact(cursor, vector, k, where, values)
                if found:
                    ids[row, : len(found)], scores[row, : len(found)] = zip(*found, strict=True)
        return scores, ids

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def _sql(self, text: str, *, where: Any = None) -> Any:
        from psycopg import sql

        return sql.SQL(text).format(**self._names, where=where or sql.SQL(""))

    def _make_extension(self) -> None:
        with self._connections.transaction(vectors=False) as cursor:
            cursor.execute("SELECT installed_version, true FROM pg_available_extensions WHERE name = 'vector'")
            found = cursor.fetchone()
        if found is None:
            raise InputError(
                f"{self.address.public}: the server has no extension vector; install pgvector (0.8 or later) there."
            )
        if found[0] is None:
            with self._connections.transaction(writes=True, vectors=False) as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (REGISTER,))
                cursor.execute("CREATE EXTENSION IF NOT EXISTS vector")
        elif tuple(int(part) for part in found[0].split(".")[:2]) < (0, 8):
            raise InputError(f"{self.address.public}: pgvector {found[0]} is too old; update it to 0.8 or later.")
        self._connections.close()  # connections from before the extension know no vectors

    def _make_table(self, fingerprint: str) -> None:
        with self._connections.transaction(writes=True) as cursor:
            cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (REGISTER,))
            if not cursor.fetchone()[0]:
                cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (REGISTER,))
                cursor.execute(
                    self._sql(
                        "CREATE TABLE IF NOT EXISTS {register} (name text PRIMARY KEY, width integer NOT NULL, "
                        "fingerprint text NOT NULL)"
                    )
                )
            cursor.execute(self._sql("SELECT width, fingerprint FROM {register} WHERE name = %s"), (self.address.name,))
            known = cursor.fetchone()
            if known is None:
                cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"{REGISTER}/{self.address.name}",))
                for text in TABLE:
                    cursor.execute(self._sql(text))
                cursor.execute(
                    self._sql("INSERT INTO {register} VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"),
                    (self.address.name, self.width, fingerprint),
                )
                cursor.execute(
                    self._sql("SELECT width, fingerprint FROM {register} WHERE name = %s"), (self.address.name,)
                )
                known = cursor.fetchone()
        if known != (self.width, fingerprint):
            raise InputError(
                f"{self.address.public}: the gallery {self.address.name!r} there holds vectors of another model "
                f"({known[0]} dimensions); open it with that model or choose another name behind the #."
            )

    def _add_batch(self, ids: np.ndarray, vectors: np.ndarray, metadata: Sequence[Mapping[str, Any]]) -> None:
        from pgvector import HalfVector
        from psycopg.types.json import Jsonb

        with self._connections.transaction(writes=True) as cursor:
            cursor.execute(
                self._sql(
                    "CREATE TEMPORARY TABLE incoming (id bigint, embedding {halfvec}, metadata jsonb) ON COMMIT DROP"
                )
            )
            with cursor.copy("COPY incoming FROM STDIN WITH (FORMAT BINARY)") as copy:
                copy.set_types(["int8", "halfvec", "jsonb"])
                for number, vector, row in zip(ids, vectors, metadata, strict=True):
                    copy.write_row((int(number), HalfVector(vector), Jsonb(dict(row), dumps=_to_json)))
            cursor.execute(
                self._sql(
                    "INSERT INTO {table} AS known SELECT * FROM incoming ON CONFLICT (id) DO UPDATE "
                    "SET metadata = excluded.metadata WHERE known.metadata <> excluded.metadata"
                )
            )
            cursor.execute(
                self._sql(
                    "SELECT min(id) FROM incoming JOIN {table} AS known USING (id) "
                    "WHERE known.embedding <> incoming.embedding"
                )
            )
            if (taken := cursor.fetchone()[0]) is not None:
                raise InputError(
                    f"{self.address.public}: the id {taken} belongs to another image of the gallery "
                    f"{self.address.name!r}; let the server reserve the ids."
                )

    def _where(self, conditions: Sequence[Condition]) -> tuple[Any, list[Any]]:
        from psycopg import sql
        from psycopg.types.json import Jsonb

        clauses: list[str] = []
        values: list[Any] = []
        for condition in conditions:
            wanted = condition.values
            if wanted is not None and len(wanted) <= FEW_VALUES:  # the index on the metadata answers this form
                clauses.append("(" + " OR ".join(["metadata @> %s"] * len(wanted)) + ")" if wanted else "false")
                values += [Jsonb({condition.column: value}, dumps=_to_json) for value in wanted]
            elif wanted is not None:
                clauses.append("metadata -> %s = ANY(%s)")
                values += [condition.column, [Jsonb(value, dumps=_to_json) for value in wanted]]
            for sign, end in ((">=", condition.low), ("<=", condition.high)):
                if end is None:
                    continue
                clauses.append((TEXT_RANGE if isinstance(end, str) else NUMBER_RANGE) + f" {sign} %s")
                values += [condition.column, condition.column, end if isinstance(end, str) else float(end)]
        return sql.SQL(" WHERE " + " AND ".join(clauses) if clauses else ""), values

    def _count(self, cursor: Any, where: Any, values: list[Any]) -> int:
        """Count the rows that meet a filter, as far as it matters."""
        text = "SELECT count(*) FROM (SELECT 1 FROM {table}{where} LIMIT %s) AS passing"
        cursor.execute(self._sql(text, where=where), (*values, self.exact_rows + 1))
        return int(cursor.fetchone()[0])

    def _exact(self, cursor: Any, vector: Any, k: int, where: Any, values: list[Any]) -> list[tuple[int, float]]:
        # The cast keeps the query in float32 and the HNSW index out.
        text = "SELECT id, -(embedding::vector <#> %s::vector) AS score FROM {table}{where} ORDER BY score DESC, id LIMIT %s"
        cursor.execute(self._sql(text, where=where), (vector, *values, k))
        return list(cursor.fetchall())

    def _approximate(self, cursor: Any, vector: Any, k: int, where: Any, values: list[Any]) -> list[tuple[int, float]]:
        count = min(max(FEWEST_CANDIDATES, 4 * k), MOST_CANDIDATES)
        cursor.execute(
            "SELECT set_config('hnsw.ef_search', %s, true), set_config('hnsw.iterative_scan', 'relaxed_order', true), "
            "set_config('enable_seqscan', 'off', true)",
            (str(count),),
        )
        text = (
            "WITH near AS MATERIALIZED (SELECT id, embedding FROM {table}{where} "
            "ORDER BY embedding <#> %s::{halfvec} LIMIT %s) "
            "SELECT id, -(embedding::vector <#> %s::vector) AS score FROM near ORDER BY score DESC, id LIMIT %s"
        )
        cursor.execute(self._sql(text, where=where), (*values, vector, count, vector, k))
        return list(cursor.fetchall())


TABLE = (
    "CREATE TABLE IF NOT EXISTS {table} (id bigint PRIMARY KEY, embedding {halfvec} NOT NULL, metadata jsonb NOT NULL)",
    "CREATE SEQUENCE IF NOT EXISTS {sequence} MINVALUE 0 START 0",
    "CREATE INDEX IF NOT EXISTS {gin} ON {table} USING gin (metadata jsonb_path_ops)",
)
# A value of another kind meets no range; the collation orders texts by their bytes, as the other indexes do.
NUMBER_RANGE = "CASE jsonb_typeof(metadata -> %s) WHEN 'number' THEN (metadata ->> %s)::float8 END"
TEXT_RANGE = "CASE jsonb_typeof(metadata -> %s) WHEN 'string' THEN metadata ->> %s END COLLATE \"C\""


def _to_json(value: Any) -> str:
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError("Metadata on PostgreSQL are texts and finite numbers.") from error
    if "\\u0000" in text:
        raise InputError("Texts on PostgreSQL cannot hold the character NUL; take it out of the metadata.")
    return text
