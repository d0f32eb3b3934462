"""What a gallery holds: a table of images (SQLite) and their vectors (float16, memory-mapped), appended batch by batch.

A batch is there when its transaction is committed: vectors behind those of the table are left-overs of an interrupted
run and are written over. An image keeps its id for ever; its vector stands in the row of that id.
"""

import json
import os
import sqlite3
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cffa_hf.errors import InputError, RunStopped, one_line
from cffa_hf.search.filters import KINDS, Condition, check_names, kind_of, to_value
from cffa_hf.search.results import ColumnSummary

TABLE, VECTORS = "items.sqlite", "vectors.float16"
SCHEMA = """
CREATE TABLE IF NOT EXISTS items(
    id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, size INTEGER, modified INTEGER, digest TEXT
);
CREATE TABLE IF NOT EXISTS blocks(first INTEGER NOT NULL, rows INTEGER NOT NULL, checksum INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS columns(name TEXT PRIMARY KEY, kind TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS counter(name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT OR IGNORE INTO counter VALUES ('rows', 0);
CREATE TABLE IF NOT EXISTS refused(path TEXT PRIMARY KEY, size INTEGER, modified INTEGER, reason TEXT NOT NULL);
"""
MASKS = 8
BLOCK = 256  # rows that share a checksum
SAMPLED = 16  # blocks whose checksums are compared when a gallery is opened


@dataclass(frozen=True)
class FileState:
    """By what a changed file is known.

    Attributes:
        size: In bytes.
        modified: Time of its last change, in nanoseconds.
        digest: Of its content.
    """

    size: int | None = None
    modified: int | None = None
    digest: str | None = None


class Items:
    """Images with vectors and metadata; several threads may read.

    Args:
        folder: Where they lie; None: in memory.
        width: Of the vectors.
        create: Make the files if they are not there.

    Raises:
        InputError: If the files are missing or damaged.
    """

    def __init__(self, folder: Path | None, width: int, *, create: bool = False):
        self.folder, self.width = folder, width
        self._lock = threading.RLock()
        self._memory = np.empty((0, width), dtype=np.float16)
        self._masks: dict[tuple[Condition, ...], np.ndarray] = {}
        if folder is not None and not create and not (folder / TABLE).is_file():
            raise InputError(f"{folder}: the table of images {TABLE} is missing; embed the images again.")
        try:
            self._base = sqlite3.connect(
                ":memory:" if folder is None else folder / TABLE, check_same_thread=False, isolation_level=None
            )
            self._base.execute("PRAGMA trusted_schema = OFF")
            self._base.execute("PRAGMA synchronous = FULL")
            if folder is None or create:
                self._base.executescript(SCHEMA)
            self.kinds = dict(self._base.execute("SELECT name, kind FROM columns ORDER BY name").fetchall())
            self.rows = self._base.execute("SELECT value FROM counter WHERE name = 'rows'").fetchone()[0]
            self.count = self._base.execute("SELECT count(*) FROM items").fetchone()[0]
        except (sqlite3.Error, TypeError) as error:
            raise self._damaged(error) from error
        if not set(self.kinds.values()) <= set(KINDS) or not isinstance(self.rows, int) or self.count > self.rows:
            raise InputError(f"{folder}: the table of images says what cannot be; embed the images again.")
        check_names(self.kinds)
        self._map()
        self._compare(SAMPLED)

    def __len__(self) -> int:
        return self.count

    @property
    def vectors(self) -> np.ndarray:
        """Return the vectors `(rows, width)`, float16, one row an id, also of images that were removed."""
        return self._vectors

    def append(
        self,
        paths: Sequence[str],
        vectors: np.ndarray,
        metadata: Sequence[Mapping[str, Any]],
        states: Sequence[FileState] | None = None,
        refused: Sequence[tuple[str, FileState, str]] = (),
    ) -> list[int]:
        """Add images in one transaction.

        Args:
            paths: Of the images; one that is there is replaced and gets a new id.
            vectors: `(images, width)`, unit rows.
            metadata: Of each image.
            states: Of their files.
            refused: Files that cannot be read: path, state and reason.

        Returns:
            Their ids.

        Raises:
            InputError: If a column has a name or a value that cannot be stored.
            RunStopped: If the disk is full.
        """
        if vectors.shape != (len(paths), self.width) or not np.isfinite(vectors).all():
            raise InputError(f"Vectors of {len(paths)} images must be finite and ({len(paths)}, {self.width}).")
        states = states or [FileState()] * len(paths)
        with self._lock:
            self._make_columns(metadata)
            first = self.rows
            stored = np.ascontiguousarray(vectors, dtype=np.float16)
            self._write_vectors(stored, first)
            names = list(self.kinds)
            fields = ", ".join(["id", "path", "size", "modified", "digest", *map(_quoted, names)])
            marks = ", ".join("?" * (5 + len(names)))
            with self._transaction():
                replaced = self._base.executemany("DELETE FROM items WHERE path = ?", [(path,) for path in paths])
                self._base.executemany(
                    f"INSERT INTO items ({fields}) VALUES ({marks})",
                    [
                        (first + place, path, state.size, state.modified, state.digest, *self._values(row, names))
                        for place, (path, state, row) in enumerate(zip(paths, states, metadata, strict=True))
                    ],
                )
                self._base.execute("UPDATE counter SET value = ? WHERE name = 'rows'", (first + len(paths),))
                self._base.executemany("INSERT INTO blocks VALUES (?, ?, ?)", _checksums(stored, first))
                self._base.executemany("DELETE FROM refused WHERE path = ?", [(path,) for path in paths])
                self._base.executemany(
                    "INSERT OR REPLACE INTO refused VALUES (?, ?, ?, ?)",
                    [(path, state.size, state.modified, reason) for path, state, reason in refused],
                )
            self._changed(first + len(paths), self.count + len(paths) - max(0, replaced.rowcount))
            return list(range(first, first + len(paths)))

    def remove(self, ids: Sequence[int]) -> None:
        """Remove images; ids that are not there are passed over."""
        with self._lock:
            with self._transaction():
                removed = self._base.executemany("DELETE FROM items WHERE id = ?", [(int(each),) for each in ids])
            self._changed(self.rows, self.count - max(0, removed.rowcount))

    def declare(self, metadata: Sequence[Mapping[str, Any]]) -> None:
        """Make the columns of images that are to come, by all their values, and refuse a value that cannot be stored.

        Raises:
            InputError: Names the column.
        """
        with self._lock:
            self._make_columns(metadata)
            for row in metadata:
                self._values(row, [name for name in row if name in self.kinds])

    def check(self) -> None:
        """Compare all vectors with the checksums of the table, and the table with itself; this reads everything.

        Raises:
            InputError: If something is damaged.
        """
        if (found := self._rows("PRAGMA integrity_check(1)")) != [("ok",)]:
            raise self._damaged(ValueError(str(found[0][0])))
        self._compare(None)

    def touch(self, path: str, state: FileState) -> None:
        """Note that a file was written again with the same content."""
        with self._lock, self._transaction():
            self._base.execute(
                "UPDATE items SET size = ?, modified = ? WHERE path = ?", (state.size, state.modified, path)
            )

    def annotate(self, metadata: Mapping[int, Mapping[str, Any]]) -> None:
        """Write columns of images that are there, by id; columns that are not named stay."""
        with self._lock:
            self._make_columns(list(metadata.values()))
            with self._transaction():
                for number, row in metadata.items():
                    names = [name for name in row if name in self.kinds]
                    if names:
                        setting = ", ".join(f"{_quoted(name)} = ?" for name in names)
                        self._base.execute(
                            f"UPDATE items SET {setting} WHERE id = ?", (*self._values(row, names), number)
                        )
            self._masks.clear()

    def forget_refused(self, paths: Sequence[str]) -> None:
        """Forget files that could not be read and are gone."""
        with self._lock, self._transaction():
            self._base.executemany("DELETE FROM refused WHERE path = ?", [(path,) for path in paths])

    def get(self, ids: Sequence[int]) -> dict[int, tuple[str, dict[str, Any]]]:
        """Return path and metadata of images by id; those that are not there are missing."""
        names = list(self.kinds)
        fields = ", ".join(["id", "path", *map(_quoted, names)])
        found: dict[int, tuple[str, dict[str, Any]]] = {}
        for start in range(0, len(ids), 500):
            part = [int(each) for each in ids[start : start + 500]]
            query = f"SELECT {fields} FROM items WHERE id IN ({', '.join('?' * len(part))})"
            for number, path, *values in self._rows(query, part):
                if not isinstance(path, str):
                    raise self._damaged(ValueError(f"the path of image {number} is no text"))
                found[number] = (
                    path,
                    {name: value for name, value in zip(names, values, strict=True) if value is not None},
                )
        return found

    def ids_of(self, paths: Sequence[str]) -> dict[str, int]:
        """Return the ids of images by path; those that are not there are missing."""
        found: dict[str, int] = {}
        for path in paths:
            found.update((path, number) for (number,) in self._rows("SELECT id FROM items WHERE path = ?", (path,)))
        return found

    def files(self) -> dict[str, tuple[int, FileState]]:
        """Return id and state of the file of every image, by path."""
        rows = self._rows("SELECT path, id, size, modified, digest FROM items WHERE typeof(path) = 'text'")
        return {path: (number, FileState(*state)) for path, number, *state in rows}

    def refused(self) -> dict[str, tuple[FileState, str]]:
        """Return state and reason of the files that could not be read, by path."""
        rows = self._rows("SELECT path, size, modified, reason FROM refused ORDER BY path")
        return {path: (FileState(size, modified), reason) for path, size, modified, reason in rows}

    def mask(self, conditions: Sequence[Condition] = ()) -> np.ndarray | None:
        """Return which rows of `vectors` may be found, bool `(rows,)`; None: all of them."""
        key = tuple(conditions)
        with self._lock:
            if not key and self.count == self.rows:
                return None
            if key not in self._masks:
                clauses: list[str] = []
                values: list[Any] = []
                for condition in conditions:
                    column = _quoted(condition.column)
                    if condition.values is not None:
                        clauses.append(f"{column} IN ({', '.join('?' * len(condition.values))})")
                        values += condition.values
                    for sign, end in ((">=", condition.low), ("<=", condition.high)):
                        if end is not None:
                            clauses.append(f"{column} {sign} ?")
                            values.append(end)
                where = f" WHERE {' AND '.join(clauses)}" if clauses else ""
                mask = np.zeros(self.rows, dtype=bool)
                mask[[number for (number,) in self._rows(f"SELECT id FROM items{where}", values)]] = True
                if len(self._masks) >= MASKS:
                    del self._masks[next(iter(self._masks))]
                self._masks[key] = mask
            return self._masks[key]

    def columns(self) -> dict[str, ColumnSummary]:
        """Return what each column holds."""
        summaries = {}
        for name, kind in self.kinds.items():
            column = _quoted(name)
            if kind == "text":
                query = f"SELECT DISTINCT {column} FROM items WHERE {column} IS NOT NULL ORDER BY 1 LIMIT 1001"
                values = tuple(value for (value,) in self._rows(query))
                summaries[name] = ColumnSummary(name, kind, values if len(values) <= 1000 else None)
            else:
                ((low, high),) = self._rows(f"SELECT min({column}), max({column}) FROM items")
                summaries[name] = ColumnSummary(name, kind, None, low, high)
        return summaries

    def copy_to(self, folder: Path) -> None:
        """Write table and vectors into an empty folder; ids and rows stay."""
        with self._lock:
            target = sqlite3.connect(folder / TABLE)
            try:
                self._base.backup(target)
            finally:
                target.close()
            with (folder / VECTORS).open("wb") as file:
                for start in range(0, self.rows, 65536):
                    file.write(np.ascontiguousarray(self._vectors[start : start + 65536]).tobytes())

    def close(self) -> None:
        """Let go of the files."""
        with self._lock:
            self._base.close()
            self._vectors = np.empty((0, self.width), dtype=np.float16)

    def _values(self, row: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
        return [None if row.get(name) is None else to_value(row[name], self.kinds[name], name) for name in names]

    def _make_columns(self, metadata: Sequence[Mapping[str, Any]]) -> None:
        new = {name for row in metadata for name in row} - self.kinds.keys()
        check_names(new)
        taken = {"id", "path", "size", "modified", "digest"}
        if clash := {name for name in new if name.lower() in taken | {each.lower() for each in self.kinds}}:
            raise InputError(f"The gallery has a column like {min(clash)!r} already; rename that of the metadata.")
        kinds = {name: kind_of(row.get(name) for row in metadata) for name in sorted(new)}
        kinds = {name: kind for name, kind in kinds.items() if any(row.get(name) is not None for row in metadata)}
        with self._transaction():
            for name, kind in kinds.items():
                self._base.execute(
                    f"ALTER TABLE items ADD COLUMN {_quoted(name)} {'NUMERIC' if kind == 'number' else 'TEXT'}"
                )
                self._base.execute(f"CREATE INDEX IF NOT EXISTS {_quoted('by_' + name)} ON items ({_quoted(name)})")
                self._base.execute("INSERT INTO columns VALUES (?, ?)", (name, kind))
        self.kinds = dict(sorted({**self.kinds, **kinds}.items()))

    def _write_vectors(self, vectors: np.ndarray, first: int) -> None:
        if self.folder is None:
            self._memory = np.concatenate([self._memory[:first], vectors])
            return
        path = self.folder / VECTORS
        try:
            with path.open("r+b" if path.exists() else "w+b") as file:
                file.seek(first * self.width * 2)
                file.write(vectors.tobytes())
                file.truncate()
                file.flush()
                os.fsync(file.fileno())  # before the transaction that says they are there
        except OSError as error:
            raise RunStopped(
                f"{path} cannot be written ({error.strerror}); make room, and the same command goes on."
            ) from error

    def _map(self) -> None:
        if self.folder is None:
            self._vectors = self._memory
            return
        path, wanted = self.folder / VECTORS, self.rows * self.width * 2
        if self.rows == 0:
            self._vectors = np.empty((0, self.width), dtype=np.float16)
            return
        if not path.is_file() or path.stat().st_size < wanted:
            raise InputError(f"{path} is shorter than the table of images says; embed the images again.")
        # Private pages: torch takes them without a copy, and nothing can be written into the file.
        self._vectors = np.memmap(path, dtype=np.float16, mode="c", shape=(self.rows, self.width))

    def _changed(self, rows: int, count: int) -> None:
        self.rows, self.count = rows, count
        self._masks.clear()
        self._map()

    def _compare(self, most: int | None) -> None:
        """Compare vectors with their checksums, of at most so many blocks, spread over all of them."""
        ((blocks,),) = self._rows("SELECT count(*) FROM blocks")
        step = 1 if most is None else max(1, -(-blocks // most))
        for number in dict.fromkeys((*range(1, blocks + 1, step), *([blocks] if blocks else []))):
            for first, rows, checksum in self._rows("SELECT * FROM blocks WHERE rowid = ?", (number,)):
                if zlib.crc32(self._vectors[first : first + rows].tobytes()) != checksum:
                    raise InputError(
                        f"{self.folder}: the vectors of images {first} to {first + rows - 1} are damaged, they are not those of "
                        "the table; embed the images again."
                    )

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._base.execute(query, tuple(values)).fetchall()
        except sqlite3.Error as error:
            raise self._damaged(error) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._base.execute("BEGIN IMMEDIATE")
            yield
            self._base.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):
                self._base.execute("ROLLBACK")
            if not isinstance(error, sqlite3.Error):
                raise
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> InputError | RunStopped:
        if any(word in str(error) for word in ("full", "readonly", "locked", "disk I/O", "unable to open")):
            return RunStopped(
                f"{self.folder}: the table of images cannot be written ({one_line(error)}); make room, or let the other "
                "program end, and run the same command again."
            )
        return InputError(f"{self.folder}: the table of images is damaged ({one_line(error)}); embed the images again.")


def _checksums(vectors: np.ndarray, first: int) -> list[tuple[int, int, int]]:
    """Return first row, number of rows and checksum of each block of new vectors."""
    parts = [(start, vectors[start : start + BLOCK]) for start in range(0, len(vectors), BLOCK)]
    return [(first + start, len(part), zlib.crc32(part.tobytes())) for start, part in parts]


def _quoted(name: str) -> str:
    return json.dumps(name) if name.isascii() else '"' + name.replace('"', '""') + '"'
