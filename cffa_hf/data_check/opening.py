"""The rows of any dataset, read by the readers that training uses, which hand over their errors one by one."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict

from cffa_hf.data.annotations import ANNOTATION_FORMATS, count_differences, divide_annotations, read_annotations
from cffa_hf.data.columns import column_array
from cffa_hf.data.facts import count_split
from cffa_hf.data.large_sets import differing_counts, hold_out
from cffa_hf.data.layouts import LAYOUTS, find_annotations
from cffa_hf.data.loading import Place, load_person_dataset, read_dataset
from cffa_hf.data.own_data import assign_splits, read_folder
from cffa_hf.data.row_cache import write_rows, written_rows
from cffa_hf.data.rows import PersonRow
from cffa_hf.data.shard_rows import read_shard_rows
from cffa_hf.data.source_rows import SourceRows
from cffa_hf.data_check.findings import COUNTS, LEFT_OUT, Report

DEFAULT_DIVISION: dict[str, Any] = {"validation_identities": None, "test_identities": None, "seed": 0}
"""How data without splits are divided, as arguments of `load_person_dataset`."""


@dataclass(frozen=True)
class OpenRows:
    """The usable rows of a dataset.

    Attributes:
        folder: Of the dataset.
        files: Its annotation files; empty where rows and images are in one file.
        images: Folder that the paths of images are relative to.
        listed: One for each usable row of the annotation files.
        divide: Returns one row for each image, with the splits that training would give them; raises InputError.
        undivided: The same with the splits of the source.
        locate: File and row of an `image_id`.
        people: What the source calls identities that were numbered.
        image: Path or bytes of the image of a row, as `cffa_hf.inputs.images.read_image` takes them.
    """

    folder: Path
    files: tuple[Path, ...]
    images: Path
    listed: Iterable[PersonRow]
    undivided: Iterable[PersonRow]
    divide: Callable[[], Iterable[PersonRow]]
    locate: Callable[[int], tuple[str | Path, int]]
    image: Callable[[PersonRow], dict[str, Any]]
    people: Mapping[int, str]


def open_rows(place: Place, report: Report, work: Path, division: Mapping[str, Any] = DEFAULT_DIVISION) -> OpenRows:
    """Read the rows of a dataset as loading does, and report every error and remark.

    Args:
        place: Of the dataset.
        report: Receives what is found.
        work: An empty folder for temporary files.
        division: The numbers of identities that are held out, and the seed that draws them.

    Raises:
        InputError: Nothing can be read.
    """
    if place.kind == "layout":
        return _open_layout(place, report, work, division)
    if place.kind == "benchmark":
        read = read_annotations(place.name, place.folder, refuse=report.refuse)
        difference = count_differences(ANNOTATION_FORMATS[place.name], read.rows, read.files[0])
        if difference is not None:
            report.add(COUNTS, difference)
        held_out = division["validation_identities"], division["seed"]
        return _opened(read, lambda: divide_annotations(place.name, read, *held_out))
    if place.kind == "folder":
        read = read_folder(place.folder, report.refuse)
        return _opened(read, lambda: _assigned(read, division))
    if place.kind == "shards":
        read, paths = read_shard_rows(place.folder, report.refuse)
        return _opened(
            read, lambda: _assigned(read, division), lambda row: {"path": paths[row.image_id], "bytes": None}
        )
    read, images, _ = read_dataset(place, report.refuse)

    def divide() -> list[PersonRow]:
        divided = _assigned(read, division)
        if not report.number("error"):  # rows and images are joined only now, through caches that may be damaged
            load_person_dataset(place.name if place.kind == "hub" else place.folder, **division)
        return divided

    return _opened(read, divide, lambda row: images[row.image_id]["image"])


def _opened(
    read: SourceRows,
    divide: Callable[[], Iterable[PersonRow]],
    image: Callable[[PersonRow], dict[str, Any]] | None = None,
) -> OpenRows:
    image = image or (lambda row: {"path": str(read.images / row.file_path), "bytes": None})
    return OpenRows(
        read.folder, read.files, read.images, read.listed, read.rows, divide, read.locate, image, read.people
    )


def _assigned(read: SourceRows, division: Mapping[str, Any]) -> list[PersonRow]:
    return assign_splits(read.rows, read.source, **division)


class _StoredRows:
    """Rows that stay in Arrow files until they are asked for, split by split."""

    def __init__(self, data: DatasetDict) -> None:
        self._data = data

    def __iter__(self) -> Iterator[PersonRow]:
        for split, part in self._data.items():
            for batch in part.select_columns(["image_id", "file_path", "captions", "person_id"]).iter(1024):
                for values in zip(*(batch[name] for name in batch), strict=True):
                    yield PersonRow.model_construct(**dict(zip(batch, values, strict=True)), split=split, camera=None)


def _open_layout(place: Place, report: Report, work: Path, division: Mapping[str, Any]) -> OpenRows:
    layout = LAYOUTS[place.name]
    folder, files = find_annotations(layout, place.folder)
    noticed = write_rows(layout, folder, files, work, refuse=report.refuse)
    data = written_rows(work, files)
    noticed.remarks(data)
    for kind, message in (
        ("blank", "has a blank caption, which is left out"),
        ("bare", "has no caption and is left out"),
    ):
        for file, row in noticed.left_out[kind]:
            report.add(LEFT_OUT, message, files[file][1], row)
    counts = {split: tuple(count_split(part).values()) for split, part in data.items()}
    for difference in differing_counts(layout, counts):
        report.add(COUNTS, f"{folder}: {difference}.")
    images, origins = noticed.source.images, noticed.origins
    ids = np.sort(np.concatenate([column_array(part, "image_id") for part in data.values()]))

    def locate(image_id: int) -> tuple[Path, int]:
        file, row = origins[int(np.searchsorted(ids, image_id))]
        return files[file][1], int(row)

    def divide() -> Iterable[PersonRow]:
        number = division["validation_identities"]
        if number is None and set(data) == {"train"}:
            number = 0
        return _StoredRows(hold_out(data, str(folder), number, division["seed"]))

    stored, annotations = _StoredRows(data), tuple(file for _, file in files)

    def image(row: PersonRow) -> dict[str, Any]:
        return {"path": str(images / row.file_path), "bytes": None}

    return OpenRows(folder, annotations, images, stored, stored, divide, locate, image, {})
