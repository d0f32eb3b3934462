"""Columns of a split as arrays: straight from Arrow, without a Python object for each row."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Image

from cffa_hf.data.mapped_pages import MappedPages

BATCH_ROWS = 2**16
IMAGES_AT_ONCE = 256


def table_parts(
    rows: Dataset, columns: Sequence[str], size: int = BATCH_ROWS, begin: int = 0, end: int | None = None
) -> Iterator[pa.Table]:
    """Yield some columns of the rows from `begin` to `end`, `size` rows at a time.

    Pages of memory-mapped files are given back as it goes along, so that what is resident does not grow with the rows.
    """
    chosen = rows.select_columns(list(columns)).with_format("arrow")
    pages = MappedPages(chosen)
    end = len(chosen) if end is None else end
    resident = 0
    for start in range(begin, end, size):
        yield chosen[start : min(start + size, end)]
        resident += size
        if resident >= BATCH_ROWS:
            pages.release()
            resident = 0
    pages.release()


def column_array(rows: Dataset, name: str) -> np.ndarray:
    """Return a column of whole numbers, `(rows,)`, int64."""
    result, place = np.empty(len(rows), np.int64), 0
    for part in table_parts(rows, [name]):
        result[place : place + len(part)] = part.column(0).to_numpy()
        place += len(part)
    return result


def image_sources(rows: Dataset, begin: int = 0, end: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield path and bytes of the images from row `begin` to `end`, not decoded, a part of the rows in memory."""
    if rows.features["image"].decode:
        rows = rows.select_columns(["image"]).cast_column("image", Image(decode=False))
    for part in table_parts(rows, ["image"], IMAGES_AT_ONCE, begin, end):
        yield from part.column(0).to_pylist()


def caption_lists(captions: Dataset, start: int, end: int) -> pa.Array:
    """Return the lists of captions of the rows from `start` to `end`, as Arrow has them.

    Args:
        captions: One column, in the format "arrow".
        start: First row.
        end: Row after the last.
    """
    return pa.concat_arrays(captions[start:end].column(0).chunks)


def caption_batches(rows: Dataset) -> Iterator[pa.Array]:
    """Yield the lists of captions of all rows, a part of the rows at a time."""
    for part in table_parts(rows, ["captions"]):
        yield pa.concat_arrays(part.column(0).chunks)


def caption_counts(rows: Dataset) -> np.ndarray:
    """Count the captions of each row, `(rows,)`, int64."""
    result, place = np.empty(len(rows), np.int64), 0
    for lists in caption_batches(rows):
        result[place : place + len(lists)] = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
        place += len(lists)
    return result


def captions_digest(rows: Dataset) -> str:
    """Digest all captions in their order and their division into rows, hexadecimal; a gigabyte takes a second or two."""
    digest = hashlib.blake2b(digest_size=20)
    for lists in caption_batches(rows):
        texts = lists.flatten().cast(pa.large_string())
        for numbers in (pc.fill_null(pc.list_value_length(lists), 0), pc.binary_length(texts)):
            digest.update(numbers.to_numpy(zero_copy_only=False).astype(np.int64).tobytes())
        offsets, content = texts.buffers()[1:]
        if len(texts):
            bounds = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
            digest.update(memoryview(content)[bounds[0] : bounds[-1]])
    return digest.hexdigest()
