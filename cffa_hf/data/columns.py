"""Columns of a split as arrays: straight from Arrow, without a Python object for each row."""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Image

BATCH_ROWS = 2**16
IMAGES_AT_ONCE = 256


def column_array(rows: Dataset, name: str) -> np.ndarray:
    """Return a column of whole numbers, `(rows,)`, int64."""
    column = rows.select_columns([name]).with_format("arrow")
    parts = [column[start : start + BATCH_ROWS].column(0).to_numpy() for start in range(0, len(rows), BATCH_ROWS)]
    return np.concatenate([np.empty(0, np.int64), *parts], dtype=np.int64)


def image_sources(rows: Dataset, begin: int = 0, end: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield path and bytes of the images from row `begin` to `end`, not decoded, a part of the rows in memory."""
    images = rows.select_columns(["image"])
    if images.features["image"].decode:
        images = images.cast_column("image", Image(decode=False))
    images = images.with_format("arrow")
    end = len(images) if end is None else end
    for start in range(begin, end, IMAGES_AT_ONCE):
        yield from images[start : min(start + IMAGES_AT_ONCE, end)].column(0).to_pylist()


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
    captions = rows.select_columns(["captions"]).with_format("arrow")
    for start in range(0, len(captions), BATCH_ROWS):
        yield caption_lists(captions, start, start + BATCH_ROWS)


def caption_counts(rows: Dataset) -> np.ndarray:
    """Count the captions of each row, `(rows,)`, int64."""
    counts = [pc.fill_null(pc.list_value_length(lists), 0).to_numpy() for lists in caption_batches(rows)]
    return np.concatenate([np.empty(0, np.int64), *counts], dtype=np.int64)


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
