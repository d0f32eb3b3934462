"""Every image, read once: what is missing or damaged, what is there twice or in two splits, and what nobody uses."""

import os
import unicodedata
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from cffa_hf.data.checks import failure_reason
from cffa_hf.data.leaks import ImagePrints, compare_splits, image_print
from cffa_hf.data.processes import processor_count
from cffa_hf.data.rows import MISSING, PersonRow
from cffa_hf.data_check.findings import (
    IDENTICAL,
    NAME,
    OTHER_IDENTITY,
    SHARED_FILE,
    SHARED_PERSON,
    SIMILAR,
    UNREADABLE,
    UNUSED,
    Report,
)
from cffa_hf.data_check.opening import OpenRows
from cffa_hf.errors import InputError, one_line
from cffa_hf.inputs.images import IMAGE_SUFFIXES
from cffa_hf.progress import progress_bar

_AT_ONCE = 512


@dataclass
class _Split:
    """What is known of the images of a split that can be read."""

    paths: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    people: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    grey: list[np.ndarray] = field(default_factory=list)


def check_images_of(
    divided: Iterable[PersonRow], opened: OpenRows, report: Report, *, workers: int | None = None, progress: bool = True
) -> None:
    """Read every image, and report what is wrong with it, and what images have in common.

    Args:
        divided: One row for each image, with its split.
        opened: Where these rows come from.
        report: Receives the findings.
        workers: Threads; None: one for each processor, at most 16.
        progress: Show a progress bar on standard error.
    """
    on_disk = set(_files_below(opened.images)) if opened.files else set()
    forms: dict[str, str] = {}
    splits: dict[str, _Split] = {}
    for row, reason, print_of in _examined(divided, opened, report, workers, progress):
        place = (*opened.locate(row.image_id), row.file_path)
        if print_of is not None:
            split = splits.setdefault(row.split or "train", _Split())
            for values, value in zip(
                vars(split).values(), (row.file_path, row.image_id, row.person_id, *print_of), strict=True
            ):
                values.append(value)
            continue
        if reason == "missing" and on_disk:
            forms = forms or {unicodedata.normalize("NFC", name): name for name in on_disk}
            if twin := forms.get(unicodedata.normalize("NFC", row.file_path)):
                report.twins[row.file_path] = twin
                problem = (
                    "is not there, but a file whose name differs in its Unicode form (NFC or NFD), as macOS writes names; "
                    "rename the file, or let --fix do it"
                )
                report.add(NAME, problem, *place)
                continue
        if reason == "missing":
            report.add(MISSING, "is not there; put it back, or remove its row", *place)
        else:
            report.add(UNREADABLE, f"cannot be used ({reason}); replace it, or remove its row", *place)
    _report_identical(splits, opened, report)
    _report_shared(splits, opened, report)
    for name in sorted(on_disk - report.images.keys() - set(report.twins.values())):
        report.add(UNUSED, "no usable row names it", image=name)


def _files_below(folder: Path) -> Iterator[str]:
    """Yield the image files below a folder, relative to it; hidden folders are passed over."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = os.path.relpath(parent, folder).replace(os.sep, "/")
        for name in names:
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith("."):
                yield name if below == "." else f"{below}/{name}"


def examine_image(source: dict[str, Any] | None) -> tuple[str, tuple[bytes, np.ndarray] | None]:
    """Read an image as training does.

    Returns:
        Why it cannot be used, or an empty text; and its digest and small grey version, as `image_print` returns them.
    """
    if source is None:
        return "missing", None
    try:
        return "", image_print(source)
    except (InputError, OSError, ValueError) as error:
        return failure_reason(source) or one_line(error, 120), None


def _examined(
    divided: Iterable[PersonRow], opened: OpenRows, report: Report, workers: int | None, progress: bool
) -> Iterator[tuple[PersonRow, str, tuple[bytes, np.ndarray] | None]]:
    """Read each image once, in several threads, and yield its row and what `examine_image` returns."""
    total = sum(images for _, images, _ in report.splits.values())
    bar = progress_bar(total=total, desc="checking images", unit="image", disable=not progress, leave=False)
    rows = iter(divided)
    pool = ThreadPoolExecutor(workers or processor_count())
    try:
        with bar:
            while batch := list(islice(rows, _AT_ONCE)):
                unread = [row for row in batch if row.file_path not in report.images or not opened.files]
                for row, (reason, found) in zip(
                    unread, pool.map(examine_image, [opened.image(row) for row in unread]), strict=True
                ):
                    report.images[row.file_path] = reason
                    yield row, reason, found
                bar.update(len(batch))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _report_identical(splits: dict[str, _Split], opened: OpenRows, report: Report) -> None:
    """Report images whose files are equal, if not in different splits."""
    first: dict[bytes, tuple[str, int, str]] = {}
    for name, split in splits.items():
        for path, image_id, person, digest in zip(split.paths, split.ids, split.people, split.digests, strict=True):
            other, other_person, other_split = first.setdefault(digest, (path, person, name))
            if other == path:
                continue
            if other_person != person:
                people = [opened.people.get(each, each) for each in (person, other_person)]
                problem = (
                    f"is the same file as {other}, but of identity {people[0]}, not {people[1]}; correct one of them"
                )
                report.add(OTHER_IDENTITY, problem, *opened.locate(image_id), path)
            elif other_split == name:
                report.add(IDENTICAL, f"is the same file as {other}", *opened.locate(image_id), path)


def _report_shared(splits: dict[str, _Split], opened: OpenRows, report: Report) -> None:
    """Report what two splits share, as training warns of it."""
    if len(splits) < 2:
        return
    people = {name: set(split.people) for name, split in splits.items()}
    prints = {name: ImagePrints(split.paths, split.digests, np.stack(split.grey)) for name, split in splits.items()}
    for leak in compare_splits(people, prints):
        if leak.kind == "identity":
            person = opened.people.get(int(leak.first), leak.first)
            report.add(SHARED_PERSON, f"identity {person} is in {' and '.join(leak.splits)}; let it be in one of them.")
            continue
        split = splits[leak.splits[0]]
        place = opened.locate(split.ids[split.paths.index(leak.first)])
        report.add(SHARED_FILE if leak.kind == "image file" else SIMILAR, str(leak), *place, leak.first)
