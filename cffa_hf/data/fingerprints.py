"""What stands for a split: digests of its image files, and of all that it holds."""

import hashlib
import json
import os
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from datasets import Dataset

from cffa_hf.data.columns import captions_digest, column_array, table_parts
from cffa_hf.inputs.packed import read_packed


def image_digests(rows: Dataset, workers: int | None = None) -> list[str]:
    """Return the BLAKE2b digest of each image file, hexadecimal.

    Args:
        rows: A split in the dataset form.
        workers: Threads that read files.

    A file that is missing has an empty digest: of the splits that are not evaluated not all images need be there.
    """
    digests: list[str] = []
    with ThreadPoolExecutor(workers) as pool:
        for batch in rows.select_columns(["image"]).iter(batch_size=1024):
            digests += pool.map(_image_digest, batch["image"])
    return digests


def _image_digest(image: dict[str, Any] | None) -> str:
    if image is not None and image["bytes"] is not None:
        return hashlib.blake2b(image["bytes"]).hexdigest()
    try:
        path = str((image or {}).get("path"))
        if (packed := read_packed(path)) is not None:
            return hashlib.blake2b(packed).hexdigest()
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return ""
        return _file_digest(path, status.st_size, status.st_mtime_ns)
    except OSError:
        return ""


@lru_cache(maxsize=2**18)
def _file_digest(path: str, size: int, time: int) -> str:
    """Read a file once, as long as its size and time are the same."""
    return hashlib.blake2b(Path(path).read_bytes()).hexdigest()


def dataset_fingerprint(rows: Dataset, digests: Iterable[str] | None = None) -> str:
    """Return 16 hexadecimal digits that stand for identities, captions and image files of a split, in their order.

    Args:
        rows: A split in the dataset form.
        digests: Of its images, if they are known.
    """
    digest = hashlib.sha256()
    texts = rows.select_columns(["captions", "person_id"])
    for row, image in zip(texts, image_digests(rows) if digests is None else digests, strict=True):
        digest.update(bytes.fromhex(image))
        digest.update(json.dumps([row["person_id"], row["captions"]], ensure_ascii=False).encode())
    return digest.hexdigest()[:16]


def rows_fingerprint(rows: Dataset) -> str:
    """Return 16 hexadecimal digits that stand for identities, captions and image names of a split, in their order."""
    digest = hashlib.sha256(captions_digest(rows).encode())
    digest.update(column_array(rows, "person_id").tobytes())
    for part in table_parts(rows, ["file_path"], 4096):
        digest.update("\0".join(part.column(0).to_pylist()).encode())
    return digest.hexdigest()[:16]
