"""Shards for tests, written by hand from the rows of `tests.tiny`."""

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.tiny import person_rows


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file of these bytes to a tar."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def write_tar(path: Path, rows: Iterable[dict[str, Any]], *, ids: bool = True) -> Path:
    """Write rows of the dataset form as samples of WebDataset."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, row in enumerate(rows):
            text = {"captions": row["captions"]} | ({"id": row["person_id"]} if ids else {})
            add_member(tar, f"{number:05d}.png", row["image"]["bytes"])
            add_member(tar, f"{number:05d}.json", json.dumps(text).encode())
    return path


def write_parquet(path: Path, rows: Iterable[dict[str, Any]], *, group: int = 4) -> Path:
    """Write rows of the dataset form as `cffa-hf push-dataset` does, in small row groups."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([{name: row[name] for name in ("image", "captions", "person_id")} for row in rows])
    pq.write_table(table, path, row_group_size=group)
    return path


def write_shards(folder: Path, sizes: Sequence[int] = (7, 1, 12, 4), *, ids: bool = False) -> Path:
    """Write shards of different sizes in both formats: every other one is Parquet. Every image is of one identity."""
    rows = person_rows(sum(sizes), 1, first_id=0).to_list()
    start = 0
    for number, size in enumerate(sizes):
        part = rows[start : start + size]
        if number % 2:
            write_parquet(folder / f"train-{number:03d}.parquet", part)
        else:
            write_tar(folder / f"train-{number:03d}.tar", part, ids=ids)
        start += size
    return folder
