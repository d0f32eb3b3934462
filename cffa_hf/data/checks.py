"""Decode every image before a long run starts."""

import hashlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
from datasets import DatasetDict

from cffa_hf.data.columns import image_sources, table_parts
from cffa_hf.errors import InputError
from cffa_hf.inputs.images import IMAGE_FORMATS, read_image
from cffa_hf.inputs.packed import file_of
from cffa_hf.progress import progress_bar


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
    failures = _Failures()
    total = sum(len(split) for split in dataset.values())
    bar = progress_bar(total=total, desc="checking images", unit="image", disable=not progress, leave=False)
    with bar, ThreadPoolExecutor(workers or min(16, os.cpu_count() or 1)) as pool:
        for name, split in dataset.items():
            for part in table_parts(split, ["image", "image_id", "file_path"], 512):
                batch = part.to_pydict()
                for image_id, path, reason in zip(
                    batch["image_id"], batch["file_path"], pool.map(failure_reason, batch["image"]), strict=True
                ):
                    if reason:
                        failures.add(name, image_id, path, reason)
                bar.update(len(batch["image_id"]))
    if failures.number:
        raise InputError(failures.report(total))
    if marker is not None:
        try:
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()
        except OSError:  # a read-only cache costs only the time of the next check
            return


def failure_reason(source: dict[str, Any] | None) -> str:
    """Return why an image cannot be used ("missing", or in words), or an empty text.

    Args:
        source: Path and bytes, as a column of images that are not decoded has them.
    """
    if source is None or (source["bytes"] is None and not os.path.exists(file_of(source["path"] or ""))):
        return "missing"
    try:
        read_image(source)
    except InputError as error:
        return str(error).removeprefix(f"{source['path'] or 'the image'}: ").rpartition(";")[0]
    return ""


class _Failures:
    """The images that cannot be used: how many, the first few, and the folders from which they are missing."""

    def __init__(self) -> None:
        self.number = 0
        self.first: list[str] = []
        self.folders: Counter[str] = Counter()

    def add(self, split: str, row: int, path: str, reason: str) -> None:
        """Take note of one."""
        self.number += 1
        if self.number <= 5:
            self.first.append(f"{split} row {row} ({path}: {reason})")
        if reason == "missing" and "/" in path:
            self.folders[path.partition("/")[0]] += 1

    def report(self, total: int) -> str:
        """Put all of them into one sentence."""
        more = f" and {self.number - 5:,} more" if self.number > 5 else ""
        where = ", ".join(f"{folder}/ ({number:,})" for folder, number in self.folders.most_common(5) if number >= 5)
        advice = (
            f"; most are missing from {where}: unpack what is missing" if where else "; put back or replace the files"
        )
        verb = "is" if self.number == 1 else "are"
        return (
            f"{self.number:,} of {total:,} images {verb} missing or cannot be read: {', '.join(self.first)}{more}{advice}, "
            "or remove their rows (`cffa-hf check-data` lists all)."
        )


def _marker(dataset: DatasetDict) -> Path | None:
    """Name the file that remembers a successful check; None if an image is not a file or is missing."""
    digest = hashlib.sha256(repr(IMAGE_FORMATS).encode())
    for split in dataset.values():
        for source in image_sources(split):
            if source is None or source["bytes"] is not None or not source["path"]:
                return None
            try:
                status = os.stat(file_of(source["path"]))
            except OSError:
                return None
            digest.update(f"{source['path']}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return Path(datasets.config.HF_DATASETS_CACHE) / "cffa_image_checks" / f"{digest.hexdigest()}.ok"
