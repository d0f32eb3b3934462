"""A split as Parquet files with the images inside: written row group by row group, and begun again where it stopped."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Image

from cffa_hf.data.columns import image_sources
from cffa_hf.errors import InputError, RunStopped
from cffa_hf.files import new_file, write_text
from cffa_hf.inputs.packed import file_of, read_stored, shard_of, stored_size
from cffa_hf.progress import progress_bar

SHARD_BYTES = 256 * 2**20
GROUP_BYTES = 16 * 2**20
"""Of a row group: what is in memory while a file is written."""


def write_shards(splits: Mapping[str, Dataset], folder: Path, finished: Path) -> None:
    """Write the Parquet files of all splits into a folder; those that are there already, of the same rows, stay.

    Args:
        splits: In the dataset form, by name.
        folder: Where the files are or will be, `SPLIT-00000-of-00003.parquet`.
        finished: A folder beside it that says of which rows each finished file is.

    Raises:
        InputError: If an image has gone.
        RunStopped: If there is not enough disk space.
    """
    for place in (folder, finished):
        place.mkdir(parents=True, exist_ok=True)
    sizes = {split: image_sizes(rows) for split, rows in splits.items()}
    bounds = {split: cut(sizes[split], SHARD_BYTES) for split in splits}
    names = {
        f"{split}-{number:05d}-of-{len(bounds[split]):05d}.parquet": (split, begin, end)
        for split in splits
        for number, (begin, end) in enumerate(bounds[split])
    }
    for other in {path.name for path in folder.iterdir()} - names.keys():
        (folder / other).unlink()
    wanted = {name: shard for name, shard in names.items() if not _is_finished(splits, folder, finished, name, shard)}
    _check_space(folder, sum(int(sizes[split][begin:end].sum()) for split, begin, end in wanted.values()))
    total = sum(map(len, splits.values()))
    missing = sum(end - begin for _, begin, end in wanted.values())
    shown = datasets.is_progress_bar_enabled()
    with progress_bar(
        total=total, initial=total - missing, desc="writing images", disable=not shown, leave=False
    ) as bar:
        for name, (split, begin, end) in wanted.items():
            digest = _rows_digest(splits[split], begin, end)
            write_shard(splits[split], begin, sizes[split][begin:end], folder / name)
            write_text(finished / f"{name}.sha256", digest)
            bar.update(end - begin)


def write_shard(rows: Dataset, begin: int, sizes: np.ndarray, path: Path) -> None:
    """Write one Parquet file, atomically.

    Args:
        rows: A split in the dataset form.
        begin: Its first row in the file.
        sizes: Bytes of the image of each row of the file.
        path: The file.
    """
    features = rows.features.copy()
    features["image"] = Image()
    with (
        new_file(path) as partial,
        pq.ParquetWriter(
            partial, features.arrow_schema, use_content_defined_chunking=True, write_page_index=True
        ) as writer,
    ):
        for first, last in cut(sizes, GROUP_BYTES):
            writer.write_table(with_bytes(rows, begin + first, begin + last, features.arrow_schema))


def with_bytes(rows: Dataset, begin: int, end: int, schema: pa.Schema) -> pa.Table:
    """Take rows from `begin` to `end`, with the content of every image in its row, under its file's base name.

    An image that lies in a shard has no name of its own.

    `datasets` would embed them too, but it takes `::` in a file's name for a place inside another file.

    Raises:
        InputError: Names the row and the image that cannot be read.
    """
    table = rows.with_format("arrow")[begin:end]
    images = []
    for row, image in enumerate(table.column("image").to_pylist(), begin):
        try:
            content = image["bytes"] if image["bytes"] is not None else read_stored(image["path"])
        except OSError as error:
            raise InputError(
                f"row {row}: {image['path']} cannot be read ({error.strerror}); put the image back and run the same "
                "command again."
            ) from error
        except InputError as error:
            raise InputError(f"row {row}: {error}") from error
        path = image["path"]
        images.append({"bytes": content, "path": os.path.basename(path) if path and not shard_of(path) else None})
    place = table.schema.get_field_index("image")
    return table.set_column(place, schema.field("image"), pa.array(images, schema.field("image").type)).cast(schema)


def image_sizes(rows: Dataset) -> np.ndarray:
    """Return the bytes of each image, `(rows,)`, int64.

    Raises:
        InputError: Names the row and the image that is not there.
    """
    sizes = np.empty(len(rows), np.int64)
    for row, image in enumerate(image_sources(rows)):
        try:
            sizes[row] = len(image["bytes"]) if image["bytes"] is not None else stored_size(image["path"])
        except OSError as error:
            raise InputError(
                f"row {row}: {image['path']} cannot be read ({error.strerror}); put the image back."
            ) from error
    return sizes


def cut(sizes: np.ndarray, limit: int) -> list[tuple[int, int]]:
    """Divide things of these sizes into runs that reach a limit, `(begin, end)`; the last may be shorter."""
    bounds, begin = [], 0
    ends = np.cumsum(sizes)
    while begin < len(sizes):
        before = int(ends[begin - 1]) if begin else 0
        end = min(len(sizes), int(np.searchsorted(ends, before + limit)) + 1)
        bounds.append((begin, end))
        begin = end
    return bounds


def _is_finished(
    splits: Mapping[str, Dataset], folder: Path, finished: Path, name: str, shard: tuple[str, int, int]
) -> bool:
    """Say whether a file is there and of these rows."""
    record = finished / f"{name}.sha256"
    if not ((folder / name).is_file() and record.is_file()):
        return False
    split, begin, end = shard
    return record.read_text(encoding="utf-8") == _rows_digest(splits[split], begin, end)


def _rows_digest(rows: Dataset, begin: int, end: int) -> str:
    """Digest what the content of a file depends on: the rows, and of images in files their place, size and time."""
    digest = hashlib.sha256(str(rows.features.arrow_schema).encode())
    others = rows.remove_columns("image").with_format("arrow")
    for start in range(begin, end, 1024):
        part = others[start : min(start + 1024, end)].to_pylist()
        digest.update(json.dumps(part, default=repr, ensure_ascii=False).encode())
    for image in image_sources(rows, begin, end):
        if image["bytes"] is not None:
            digest.update(hashlib.sha256(image["bytes"]).digest())
        else:
            status = os.stat(file_of(image["path"]))
            digest.update(f"{image['path']}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _check_space(folder: Path, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if need > free:
        raise RunStopped(
            f"{folder}: the Parquet files need {need / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free; make room, "
            "or set HF_DATASETS_CACHE, or the folder of a dry run, to another disk."
        )
