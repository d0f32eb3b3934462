"""The entries of annotation files, one for each image, as a stream; also of several files that are merged by file name."""

import hashlib
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from cffa_hf.data.json_stream import stream_list, stream_object
from cffa_hf.data.layouts import Layout
from cffa_hf.data.rows import CONFLICT, Refuse, row_error, shorten, stop
from cffa_hf.errors import InputError
from cffa_hf.inputs.captions import LONGEST_CAPTION

AT_ONCE = 1024
"""Entries that are handled together, and that a process has as Python objects."""
"""Characters; the longest of the known sets have some hundreds, and a file that is no list of captions has millions."""
_SPOOL = pa.schema(
    {
        "name": pa.string(),
        "path": pa.string(),
        "captions": pa.list_(pa.string()),
        "file": pa.int32(),
        "row": pa.int64(),
    }
)


@dataclass(frozen=True)
class Entry:
    """What a file says of one image, not validated.

    Attributes:
        split: Of the file; "" where the entry says it itself.
        file: Number of the file among those that are read.
        row: 0-based place in it.
        content: The object of the entry, or anything that stands in its place.
        path: The image, where it is the key of the entry and not a part of it.
    """

    split: str
    file: int
    row: int
    content: Any
    path: str | None = None


def read_entries(layout: Layout, files: Sequence[tuple[str, Path]], refuse: Refuse = stop) -> Iterator[Entry]:
    """Yield the entries of all files in their order, without merging.

    Args:
        layout: Of the files.
        files: (split, file).
        refuse: Is given every error; what is damaged is left out then.

    Raises:
        InputError: Names the file that is damaged or of another kind.
    """
    for number, (split, file) in enumerate(files):
        try:
            yield from _entries_of(layout, split, number, file, refuse)
        except InputError as error:
            refuse(error)


def _entries_of(layout: Layout, split: str, number: int, file: Path, refuse: Refuse) -> Iterator[Entry]:
    if layout.holds == "captions by path":
        for row, (path, content) in enumerate(stream_object(file)):
            yield Entry(split, number, row, content, path)
        return
    for row, item in enumerate(stream_list(file)):
        if layout.holds == "rows":
            yield Entry(split, number, row, item)
        elif isinstance(item, dict):
            for path, content in item.items():
                yield Entry(split, number, row, content, path)
        else:
            refuse(row_error(file, row, None, f"is {shorten(item)}, not an object of image path and captions"))


def captions_of(layout: Layout, content: Any) -> Any:
    """Return the captions of an entry as a list, or what stands in their place, for validation; None if there are none."""
    values = [content] if isinstance(content, (str, list)) else []
    if isinstance(content, dict):
        values = [content[key] for key in layout.caption_keys if content.get(key) is not None]
    if not values:
        return None
    captions: list[Any] = []
    for value in values:
        if isinstance(value, str):
            captions.append(value)
        elif isinstance(value, list):
            captions += value
        else:
            return value
    return captions


def refuse_long_captions(captions: Any, file: Path, row: int, image: Any) -> None:
    """Refuse what is too long for a caption.

    Raises:
        InputError: Names the file and the row.
    """
    for caption in captions if isinstance(captions, list) else ():
        if isinstance(caption, str) and len(caption) > LONGEST_CAPTION:
            problem = (
                f"has a caption of {len(caption):,} characters, but at most {LONGEST_CAPTION:,} are read; shorten it or "
                "remove the row"
            )
            raise row_error(file, row, image, problem)


def merge_entries(
    layout: Layout, files: Sequence[tuple[str, Path]], folder: Path, refuse: Refuse = stop
) -> Iterator[Entry]:
    """Merge the entries of several files by the base name of their image, under which it lies in one flat folder.

    Everything is written once into an Arrow file; in memory are eight bytes for each entry and one part of the images.

    Args:
        layout: Its entries are captions by path.
        files: (split, file); all of one split.
        folder: Where the Arrow file is written.
        refuse: Is given every error; the entry is left out then.

    Yields:
        The merged entries in the order in which the images come up first.

    Raises:
        InputError: One file names two images of the same base name, or an entry holds no captions.
    """
    spool = folder / "entries.arrow"
    hashes = _write_spool(layout, files, spool, refuse)
    entries = Dataset.from_file(str(spool)).with_format("arrow")
    order = np.argsort(hashes, kind="stable")
    begins = np.flatnonzero(np.diff(hashes[order], prepend=np.uint64(~hashes[order[0]]) if len(order) else 0))
    ends = np.append(begins[1:], len(order))
    # Groups in the order of their first entry; within one, entries are in the order of files and rows already.
    sequence = np.argsort(order[begins], kind="stable")
    begins, ends = begins[sequence], ends[sequence]
    for start in range(0, len(begins), AT_ONCE):
        spans = list(zip(begins[start : start + AT_ONCE], ends[start : start + AT_ONCE], strict=True))
        members = np.concatenate([order[begin:end] for begin, end in spans])
        found: dict[str, list[dict[str, Any]]] = {}
        for entry in entries[members.tolist()].to_pylist():
            found.setdefault(entry["name"], []).append(entry)
        for name, group in found.items():
            yield _merged(name, group, files, refuse)
    spool.unlink()


def _merged(name: str, group: list[dict[str, Any]], files: Sequence[tuple[str, Path]], refuse: Refuse) -> Entry:
    first_of: dict[int, dict[str, Any]] = {}
    kept = []
    for entry in group:
        first = first_of.setdefault(entry["file"], entry)
        if first is entry:
            kept.append(entry)
            continue
        problem = (
            f"has the same file name as row {first['row']} (image {shorten(first['path'])}), and captions are merged by "
            "file name: rename one of the images, or remove one of the rows"
        )
        refuse(row_error(files[entry["file"]][1], entry["row"], entry["path"], problem, CONFLICT))
    first = kept[0]
    captions = [caption for entry in kept for caption in entry["captions"]]
    return Entry(files[first["file"]][0], first["file"], first["row"], captions, name)


def _write_spool(layout: Layout, files: Sequence[tuple[str, Path]], spool: Path, refuse: Refuse) -> np.ndarray:
    """Write the entries of all files into one Arrow file; return a hash of each base name, `(entries,)`, uint64."""
    hashes = array("Q")
    with spool.open("wb") as stream, pa.ipc.new_stream(stream, _SPOOL) as writer:
        for batch in batched(read_entries(layout, files, refuse)):
            rows = []
            for entry in batch:
                try:
                    captions, name = _named_captions(layout, entry, files[entry.file][1])
                except InputError as error:
                    refuse(error)
                    continue
                hashes.append(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()))
                rows.append(
                    {"name": name, "path": entry.path, "captions": captions, "file": entry.file, "row": entry.row}
                )
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=_SPOOL))
    if not hashes:
        raise InputError(f"{files[0][1]}: there are no images in it; use the original file.")
    return np.frombuffer(hashes, dtype=np.uint64)


def _named_captions(layout: Layout, entry: Entry, file: Path) -> tuple[list[str], str]:
    """Return the captions of an entry, and the base name of its image."""
    captions = captions_of(layout, entry.content)
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        problem = f"has {shorten(entry.content)} as its captions; it must be a text or a list of texts"
        raise row_error(file, entry.row, entry.path, problem)
    refuse_long_captions(captions, file, entry.row, entry.path)
    name = str(entry.path).rpartition("/")[2]
    if not name:
        raise row_error(file, entry.row, None, "names no image, but a folder; remove it")
    return captions, name


def number_identities(
    layout: Layout, files: Sequence[tuple[str, Path]], entries: Iterable[Entry], refuse: Refuse = stop
) -> Iterator[Entry]:
    """Turn identities that are texts into numbers, in place: digits are read, other texts numbered as they come up.

    Args:
        layout: Of the files.
        files: (split, file).
        entries: Of all files.
        refuse: Is given every error; the entry is left out then.

    Raises:
        InputError: Some identities of the same files are numbers and some are other texts.
    """
    numbers: dict[str, int] = {}
    first_kind = None
    for entry in entries:
        person = entry.content.get(layout.person_key) if isinstance(entry.content, dict) else None
        digits = isinstance(person, str) and re.fullmatch("0|[1-9][0-9]{0,17}", person)
        kind = "number" if digits or isinstance(person, int) else "text" if isinstance(person, str) and person else None
        first_kind = first_kind or kind
        if kind not in (None, first_kind):
            problem = f"has {shorten(person)} as {layout.person_key!r}, but of all rows either none or each has a number there"
            refuse(row_error(files[entry.file][1], entry.row, None, problem))
            continue
        if isinstance(person, str) and person:
            entry.content[layout.person_key] = int(person) if digits else numbers.setdefault(person, len(numbers))
        yield entry


def batched(entries: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield lists of `AT_ONCE` entries, the last one shorter."""
    batch = []
    for entry in entries:
        batch.append(entry)
        if len(batch) == AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
