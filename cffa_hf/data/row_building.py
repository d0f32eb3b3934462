"""From entries of annotation files to validated rows in Arrow: what one process does, and what is noticed meanwhile."""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from cffa_hf.data.entries import Entry, captions_of, refuse_long_captions
from cffa_hf.data.layouts import Layout
from cffa_hf.data.rows import (
    CONFLICT,
    FEATURES,
    OUTSIDE,
    SPLITS,
    PersonRow,
    Refuse,
    count,
    row_error,
    stop,
    validate_rows,
)
from cffa_hf.errors import InputError
from cffa_hf.inputs.captions import clean_caption

_NAMED = 5


@dataclass(frozen=True)
class Source:
    """What a process must know to turn entries into rows.

    Attributes:
        layout: Of the files.
        files: (split, file).
        images: Folder that image paths are relative to.
        check_files: Whether every image must be there and within its folder.
    """

    layout: Layout
    files: list[tuple[str, Path]]
    images: Path
    check_files: bool


@dataclass
class Part:
    """Rows of some entries, and what was noticed in them.

    Attributes:
        batches: Rows of each split, as Arrow.
        hashes: Of the image path of each row in the order of the entries, `(rows,)`, uint64.
        splits: Place of each row's split in `SPLITS`, `(rows,)`, uint8.
        origins: (number of the file, row in it) of each row, `(rows, 2)`, int64.
        missing: (file, row, image) of the images that are not there.
        blank: (file, row) of each blank caption; it is left out.
        bare: (file, row) of each entry without a caption; it is left out.
        refused: What is wrong with entries that have no row here.
    """

    batches: dict[str, pa.RecordBatch]
    hashes: np.ndarray
    splits: np.ndarray
    origins: np.ndarray
    missing: list[tuple[int, int, str]] = field(default_factory=list)
    blank: list[tuple[int, int]] = field(default_factory=list)
    bare: list[tuple[int, int]] = field(default_factory=list)
    refused: list[InputError] = field(default_factory=list)


def make_part(source: Source, entries: Sequence[tuple[int, Entry]]) -> Part:
    """Validate numbered entries and lay them out as Arrow."""
    layout = source.layout
    blank: list[tuple[int, int]] = []
    bare: list[tuple[int, int]] = []
    refused: list[InputError] = []
    records = []
    origins: dict[int, tuple[int, int]] = {}
    for number, entry in entries:
        try:
            record = _record(source, number, entry, blank)
        except InputError as error:
            refused.append(error)
            continue
        if isinstance(record, dict) and record.get("captions") == []:
            bare.append((entry.file, entry.row))
            continue
        records.append(record)
        origins[number] = (entry.file, entry.row)
    places = list(origins.values())

    def locate(index: int) -> tuple[Path, int]:
        return source.files[places[index][0]][1], places[index][1]

    names = {"file_path": layout.path_key, "captions": layout.caption_keys[0], "person_id": layout.person_key or "id"}
    valid = validate_rows(records, source.files[0][1], names, locate, refused.append)
    rows, missing = [], []
    for row in valid:
        file, line = origins[row.image_id]
        state = _state(str(source.images), row.file_path) if source.check_files else "inside"
        if row.split is None:
            problem = "has no 'split'; it must be train, val or test"
            refused.append(row_error(source.files[file][1], line, row.file_path, problem))
        elif state == "outside":
            problem = f"leads out of {source.images} through a symbolic link; copy the image into it (the folder may be a link)"
            refused.append(row_error(source.files[file][1], line, row.file_path, problem, OUTSIDE))
        else:
            rows.append(row)
            if state == "missing":
                missing.append((file, line, row.file_path))
    hashes = [hashlib.blake2b(row.file_path.encode(), digest_size=8).digest() for row in rows]
    return Part(
        {split: _batch([row for row in rows if row.split == split], source.images) for split in SPLITS},
        np.frombuffer(b"".join(hashes), np.uint64),
        np.array([SPLITS.index(str(row.split)) for row in rows], np.uint8),
        np.array([origins[row.image_id] for row in rows], np.int64).reshape(-1, 2),
        missing,
        blank,
        bare,
        refused,
    )


def _record(source: Source, number: int, entry: Entry, blank: list[tuple[int, int]]) -> Any:
    """Rename the keys of an entry to the fields of `PersonRow`; what is missing stays missing."""
    layout, content = source.layout, entry.content
    if entry.path is None and not isinstance(content, dict):
        return content
    keys = content if isinstance(content, dict) else {}
    record: dict[str, Any] = {"image_id": number}
    if entry.path is not None:
        record["file_path"] = entry.path
    elif layout.path_key in keys:
        record["file_path"] = keys[layout.path_key]
    if layout.person_key is None:
        record["person_id"] = number
    elif layout.person_key in keys:
        record["person_id"] = keys[layout.person_key]
    record["split"] = entry.split or keys.get("split")
    if keys.get("camera") is not None:
        record["camera"] = keys["camera"]
    captions = captions_of(layout, content)
    if captions is None:
        return record
    refuse_long_captions(captions, source.files[entry.file][1], entry.row, record.get("file_path"))
    if isinstance(captions, list):
        kept = [caption for caption in captions if not isinstance(caption, str) or clean_caption(caption)]
        blank += [(entry.file, entry.row)] * (len(captions) - len(kept))
        captions = kept
    return {**record, "captions": captions}


def _batch(rows: Sequence[PersonRow], images: Path) -> pa.RecordBatch:
    root = os.path.abspath(images)
    columns: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in FEATURES if name != "image"}
    schema = FEATURES.arrow_schema
    paths = pa.array([os.path.join(root, row.file_path) for row in rows], pa.string())
    nothing = pa.nulls(len(rows), pa.binary())
    kinds = schema.field("image").type
    columns["image"] = pa.StructArray.from_arrays(
        [paths if part.name == "path" else nothing for part in kinds], fields=list(kinds)
    )
    arrays = [pa.array(columns[part.name], part.type) for part in schema if part.name != "image"]
    arrays.insert(schema.get_field_index("image"), columns["image"])
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _state(folder: str, path: str) -> str:
    """Say where the file of an image is: "inside" of the folder, "outside" (through a link) or "missing"."""
    if not _inside(folder, os.path.dirname(path)):
        return "outside"
    place = os.path.join(folder, path)
    try:
        status = os.lstat(place)
    except OSError:
        return "missing"
    if stat.S_ISLNK(status.st_mode):
        if not _inside.__wrapped__(folder, path):
            return "outside"
        return "inside" if os.path.isfile(place) else "missing"
    return "inside" if stat.S_ISREG(status.st_mode) else "missing"


@lru_cache(maxsize=2**14)
def _inside(folder: str, path: str) -> bool:
    root = os.path.realpath(folder)
    return os.path.commonpath([root, os.path.realpath(os.path.join(folder, path))]) == root


class Notices:
    """What is noticed while a set is read, of which a part is an error and a part a remark.

    Args:
        source: What is read.
        refuse: Is given every error.

    Attributes:
        left_out: (file, row) of each blank caption ("blank") and each entry without a caption ("bare").
    """

    def __init__(self, source: Source, refuse: Refuse = stop) -> None:
        self.source = source
        self._refuse = refuse
        self._hashes: list[np.ndarray] = []
        self._splits: list[np.ndarray] = []
        self._origins: list[np.ndarray] = []
        self._missing: list[tuple[int, int, str]] = []
        self._folders: Counter[str] = Counter()
        self.left_out: dict[str, list[tuple[int, int]]] = {"blank": [], "bare": []}
        self._missing_images = 0

    def add(self, part: Part) -> int:
        """Take note of a part; return how many rows it has.

        Raises:
            InputError: The first of its errors.
        """
        for error in part.refused:
            self._refuse(error)
        self._hashes.append(part.hashes)
        self._splits.append(part.splits)
        self._origins.append(part.origins)
        self._missing += part.missing[: _NAMED - len(self._missing)]
        self._folders.update(image.rpartition("/")[0] for _, _, image in part.missing)
        self.left_out["blank"] += part.blank
        self.left_out["bare"] += part.bare
        self._missing_images += len(part.missing)
        return len(part.hashes)

    @property
    def origins(self) -> np.ndarray:
        """Return (number of the file, row in it) of each row in the order of `image_id`, `(rows, 2)`, int64."""
        return np.concatenate(self._origins)

    def refuse_missing(self) -> None:
        """Report the images that are not there.

        Raises:
            InputError: If there are any; names how many, the first ones and the folders where most are missing.
        """
        number, total = self._missing_images, sum(map(len, self._hashes))
        if not number:
            return
        first = ", ".join(f"{self._place(file, row)} ({image})" for file, row, image in self._missing)
        more = f" and {number - len(self._missing):,} more" if number > len(self._missing) else ""
        where = ", ".join(f"{folder or '.'}/ ({much:,})" for folder, much in self._folders.most_common(3))
        raise InputError(
            f"{number:,} of the {total:,} images that the captions of {self.source.layout.name} name are not in "
            f"{self.source.images}: {first}{more}; most are missing from {where}: unpack what is missing, or remove their "
            "rows."
        )

    def remarks(self, rows: dict[str, Dataset]) -> list[str]:
        """Describe what is irregular, one sentence each, without the full stop.

        Args:
            rows: Of each split, as they were written.

        Raises:
            InputError: If an image is in two splits.
        """
        found = []
        for kind, noun, verb in (
            ("blank", "blank caption", "left out"),
            ("bare", "image", "without a caption, left out"),
        ):
            if places := self.left_out[kind]:
                be = "is" if len(places) == 1 else "are"
                found.append(f"{count(len(places), noun)} {be} {verb}; the first is in {self._place(*places[0])}")
        return found + self._repeated(rows)

    def _place(self, file: int, row: int) -> str:
        return f"{self.source.files[file][1]} row {row}"

    def _repeated(self, rows: dict[str, Dataset]) -> list[str]:
        """Find images that are listed twice: in two splits is an error, in one a remark."""
        hashes, splits, origins = (np.concatenate(parts) for parts in (self._hashes, self._splits, self._origins))
        order = np.argsort(hashes, kind="stable")
        again = np.flatnonzero(hashes[order][1:] == hashes[order][:-1]) + 1
        if not len(again):
            return []
        earlier, later = order[again - 1], order[again]

        def path(place: int) -> str:
            split = int(splits[place])
            return rows[SPLITS[split]][int((splits[:place] == split).sum())]["file_path"]

        for one, other in zip(*(places[splits[earlier] != splits[later]] for places in (earlier, later)), strict=True):
            if path(one) == path(other):
                problem = (
                    f"is in the split {SPLITS[splits[other]]!r}, but {self._place(*origins[one])} lists the same image in "
                    f"{SPLITS[splits[one]]!r}; an image may be in one split only: remove one of the two rows"
                )
                place = self.source.files[origins[other][0]][1], int(origins[other][1])
                self._refuse(row_error(*place, path(other), problem, CONFLICT))
        first = int(later.min())
        return [
            f"{count(len(later), 'row')} of an image that an earlier row has too, the first is in "
            f"{self._place(*origins[first])} (image {path(first)!r}); both are kept"
        ]
