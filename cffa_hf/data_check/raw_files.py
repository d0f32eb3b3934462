"""Annotation files as they are, entry by entry, and written again in the same form."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cffa_hf.csv_files import csv_rows, csv_separator
from cffa_hf.data.annotations import ANNOTATION_FORMATS, read_json
from cffa_hf.data.json_stream import stream_list, stream_object
from cffa_hf.data.layouts import LAYOUTS
from cffa_hf.data.loading import Place
from cffa_hf.data.metadata import read_metadata
from cffa_hf.data.rows import Refuse, row_error, shorten
from cffa_hf.errors import InputError


@dataclass
class RawEntry:
    """One entry of an annotation file.

    Attributes:
        row: As messages of loading name it.
        content: What the file holds there.
        path: The image as the file names it, where it is the key of the content and not a part of it.
    """

    row: int
    content: Any
    path: str | None = None


@dataclass(frozen=True)
class RawFile:
    """An annotation file.

    Attributes:
        file: Its path.
        entries: What it holds, without what is no entry at all.
        path_key: Key of the path of the image in an entry.
        caption_keys: Keys of a caption, or of a list of captions.
        first_row: Row of the first entry when all are written again.
        write: Makes the content of a file of entries.
    """

    file: Path
    entries: list[RawEntry]
    path_key: str
    caption_keys: Sequence[str]
    first_row: int
    write: Callable[[Sequence[RawEntry]], bytes]

    def image_of(self, entry: RawEntry) -> Any:
        """Return the path of the image of an entry as the file has it; None if there is none."""
        return entry.path if entry.path is not None else entry.content.get(self.path_key)

    def set_image(self, entry: RawEntry, path: str) -> None:
        """Name the image of an entry anew."""
        if entry.path is not None:
            entry.path = path
        else:
            entry.content[self.path_key] = path


def read_raw_file(place: Place, file: Path, refuse: Refuse) -> RawFile:
    """Read an annotation file without validating what it holds.

    Args:
        place: Of the dataset.
        file: One of its annotation files.
        refuse: Is given the error of each row that is none, which is left out.

    Raises:
        InputError: The file cannot be read.
    """
    if place.kind == "folder":
        return _read_own(file, refuse)
    if place.kind == "benchmark":
        entries = _objects(enumerate(read_json(file)), file, refuse)
        key = ANNOTATION_FORMATS[place.name].path_key
        return RawFile(file, entries, key, ("captions",), 0, lambda kept: _json_list([entry.content for entry in kept]))
    layout = LAYOUTS[place.name]
    if layout.holds == "captions by path":
        pairs = enumerate(stream_object(file))
        entries = [RawEntry(row, content, path) for row, (path, content) in pairs]
        return RawFile(file, entries, "", layout.caption_keys, 0, _json_object)
    items = _objects(enumerate(stream_list(file)), file, refuse)
    if layout.holds == "rows":
        entries = items
        return RawFile(
            file, entries, layout.path_key, layout.caption_keys, 0, lambda kept: _json_list([e.content for e in kept])
        )
    entries = [RawEntry(item.row, content, path) for item in items for path, content in item.content.items()]
    return RawFile(
        file, entries, "", layout.caption_keys, 0, lambda kept: _json_list([{str(e.path): e.content} for e in kept])
    )


def _read_own(file: Path, refuse: Refuse) -> RawFile:
    entries = _objects(read_metadata(file, refuse), file, refuse)
    names = dict.fromkeys(key for entry in entries for key in entry.content if str(key).startswith("caption"))
    if file.suffix == ".jsonl":
        write: Callable[[Sequence[RawEntry]], bytes] = _json_lines
    elif file.suffix == ".parquet":
        schema = pq.read_schema(file)
        write = lambda kept: _parquet(kept, schema)  # noqa: E731
    else:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            separator = csv_separator(lines.readline())
            lines.seek(0)
            header = next(fields for _, fields, _ in csv_rows(lines, file))
        write = lambda kept: _csv(kept, header, separator)  # noqa: E731
    return RawFile(file, entries, "file_name", tuple(names), 2 if file.suffix == ".csv" else 1, write)


def _objects(rows: Iterable[tuple[int, Any]], file: Path, refuse: Refuse) -> list[RawEntry]:
    """Keep the rows that hold an object."""
    entries = []
    for row, content in rows:
        if isinstance(content, dict):
            entries.append(RawEntry(row, content))
        else:
            refuse(row_error(file, row, None, f"is {shorten(content)}, not an object with keys"))
    return entries


def _dumps(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isascii() or _encodable(text) else json.dumps(value)


def _encodable(text: str) -> bool:
    return text.encode("utf-8", "replace").decode("utf-8") == text


def _json_list(values: Sequence[Any]) -> bytes:
    return ("[\n" + ",\n".join(map(_dumps, values)) + "\n]\n").encode()


def _json_object(kept: Sequence[RawEntry]) -> bytes:
    pairs = (f"{_dumps(entry.path)}: {_dumps(entry.content)}" for entry in kept)
    return ("{\n" + ",\n".join(pairs) + "\n}\n").encode()


def _json_lines(kept: Sequence[RawEntry]) -> bytes:
    return "".join(f"{_dumps(entry.content)}\n" for entry in kept).encode()


def _csv(kept: Sequence[RawEntry], header: Sequence[str], separator: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator, lineterminator="\r\n")  # or it would not quote both
    writer.writerow(header)
    for entry in kept:
        fields = (entry.content[name.strip()] for name in header)
        writer.writerow([field if isinstance(field, str) else _dumps(field) for field in fields])
    return text.getvalue().encode()


def _parquet(kept: Sequence[RawEntry], schema: pa.Schema) -> bytes:
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(pa.Table.from_pylist([entry.content for entry in kept], schema=schema), sink)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InputError(
            f"The rows cannot be written as Parquet again ({error}); correct the file yourself."
        ) from error
    return sink.getvalue().to_pybytes()
