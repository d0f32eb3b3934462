"""Decode every image before a long run starts."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
from datasets import DatasetDict
from tqdm.auto import tqdm

from cffa_hf.errors import InputError
from cffa_hf.inputs.images import IMAGE_FORMATS, read_image
from cffa_hf.inputs.packed import shard_of


def check_images(dataset: DatasetDict, *, workers: int | None = None, progress: bool = True) -> None:
    """Open and decode every image, and report all that are missing or unreadable at once.

    When all can be read, that is remembered in the cache of `datasets` by paths, sizes and times of the files, so that
    the next start takes no time.

    Args:
        dataset: Splits of the dataset form.
        workers: Threads; by default one for each processor, at most 16.
        progress: Show a progress bar.

    Raises:
        InputError: Names the number of bad images and split, row and file of the first ones.
    """
    marker = _marker(dataset)
    if marker is not None and marker.exists():
        return
    failures: list[tuple[str, int, str, str]] = []
    total = sum(len(split) for split in dataset.values())
    bar = tqdm(total=total, desc="checking images", unit="image", disable=not progress, leave=False)
    with bar, ThreadPoolExecutor(workers or min(16, os.cpu_count() or 1)) as pool:
        for name, split in dataset.items():
            rows = split.select_columns(["image", "image_id", "file_path"])
            for batch in rows.iter(batch_size=512):
                for image_id, path, reason in zip(
                    batch["image_id"], batch["file_path"], pool.map(_failure, batch["image"]), strict=True
                ):
                    if reason:
                        failures.append((name, image_id, path, reason))
                bar.update(len(batch["image_id"]))
    if failures:
        raise InputError(_report(failures, total))
    if marker is not None:
        try:
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()
        except OSError:  # a read-only cache costs only the time of the next check
            return


def _failure(source: dict[str, Any] | None) -> str:
    """Return why an image cannot be used, or an empty text."""
    if source is None or (source["bytes"] is None and not os.path.exists(image_file(source))):
        return "missing"
    try:
        read_image(source)
    except InputError as error:
        return str(error).removeprefix(f"{source['path'] or 'the image'}: ").rpartition(";")[0]
    return ""


def image_file(source: dict[str, Any]) -> str:
    """Name the file on the disk that holds an image: its own, or the shard that it is in."""
    path = source["path"] or ""
    return shard_of(path) or path


def _report(failures: Sequence[tuple[str, int, str, str]], total: int) -> str:
    """Put all failures into one sentence: how many, the first few, and the folders from which most are missing."""
    first = ", ".join(f"{split} row {row} ({path}: {reason})" for split, row, path, reason in failures[:5])
    more = f" and {len(failures) - 5:,} more" if len(failures) > 5 else ""
    folders = Counter(path.partition("/")[0] for _, _, path, reason in failures if reason == "missing" and "/" in path)
    where = ", ".join(f"{folder}/ ({number:,})" for folder, number in folders.most_common(5) if number >= 5)
    advice = f"; most are missing from {where}: unpack what is missing" if where else "; put back or replace the files"
    verb = "is" if len(failures) == 1 else "are"
    return (
        f"{len(failures):,} of {total:,} images {verb} missing or cannot be read: {first}{more}{advice}, or remove "
        "their rows."
    )


def _marker(dataset: DatasetDict) -> Path | None:
    """Name the file that remembers a successful check; None if an image is not a file or is missing."""
    digest = hashlib.sha256(repr(IMAGE_FORMATS).encode())
    for split in dataset.values():
        for source in split["image"]:
            if source is None or source["bytes"] is not None or not source["path"]:
                return None
            try:
                status = os.stat(image_file(source))
            except OSError:
                return None
            digest.update(f"{source['path']}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return Path(datasets.config.HF_DATASETS_CACHE) / "cffa_image_checks" / f"{digest.hexdigest()}.ok"
