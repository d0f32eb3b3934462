"""Your own data: a folder with a metadata file, or a dataset that is saved on disk or on the Hub."""

import csv
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features, Image, concatenate_datasets

from cffa_hf.data.division import PersonDatasetDict, division_between
from cffa_hf.data.rows import (
    FEATURES,
    SPLITS,
    PersonRow,
    check_files,
    count,
    divide_identities,
    hold_out_validation,
    row_columns,
    row_error,
    rows_to_dataset,
    validate_rows,
)
from cffa_hf.errors import InputError, one_line

logger = logging.getLogger(__name__)

METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_SPLIT_FOLDERS = ("train", "val", "validation", "test")
_NAMES = {"file_path": "file_name"}


def find_metadata(folder: Path) -> list[tuple[str | None, Path]]:
    """Find the metadata files of a folder.

    Returns:
        (None, file) for a metadata file in the folder itself; otherwise (split, file) for each of the sub-folders
        train, val or validation, and test that has one; empty if there is none.

    Raises:
        InputError: One folder has several metadata files.
    """
    found = _metadata_in(folder)
    if found:
        return [(None, found)]
    files = [(name, _metadata_in(folder / name)) for name in _SPLIT_FOLDERS]
    return [(split, file) for split, file in files if file]


def _metadata_in(folder: Path) -> Path | None:
    files = [folder / name for name in METADATA_FILES if (folder / name).is_file()]
    if len(files) > 1:
        raise InputError(f"{folder}: has {' and '.join(file.name for file in files)}; keep only one of them.")
    return files[0] if files else None


def load_folder(
    folder: str | Path,
    *,
    validation_identities: int | None = None,
    test_identities: int | None = None,
    seed: int = 0,
) -> PersonDatasetDict:
    """Load a folder of images with `metadata.jsonl`, `metadata.csv` or `metadata.parquet` (the ImageFolder convention).

    Columns: `file_name` (relative to the metadata file), `captions` (a list; in a CSV a JSON list) or `caption` (one
    text), `person_id`, and where known `split` and `camera`; others are ignored. Several rows of one image become one
    row with all their captions. The metadata file lies in the folder itself, or one in each of the sub-folders train/,
    validation/ (or val/) and test/. For person_ids, splits and the two numbers of identities see `load_dataset_dict`.

    Returns:
        Splits of the dataset form; `file_path` is relative to `folder`, `image_id` numbers the rows of the metadata.

    Raises:
        InputError: Names the file, the row and the remedy.
    """
    folder = Path(folder).expanduser()
    files = find_metadata(folder)
    if not files:
        raise InputError(
            f"{folder}: there is no {', '.join(METADATA_FILES)} in it; write one with the columns file_name, captions "
            "and person_id."
        )
    records: list[Any] = []
    origins: list[tuple[Path, int]] = []
    for split, file in files:
        for row, entry in enumerate(read_metadata(file)):
            records.append(_folder_record(entry, len(records), split, "" if split is None else f"{file.parent.name}/"))
            origins.append((file, row))
    source = files[0][1] if len(files) == 1 else folder
    rows = _make_rows(records, source, _NAMES, origins.__getitem__)
    rows = _merge_captions(rows, origins.__getitem__)
    check_files(rows, folder, source, origins.__getitem__)
    divided = assign_splits(
        rows, source, validation_identities=validation_identities, test_identities=test_identities, seed=seed
    )
    return PersonDatasetDict(rows_to_dataset(divided, folder), division_between(rows, divided, seed))


def _folder_record(entry: Any, row: int, split: str | None, prefix: str) -> Any:
    if not isinstance(entry, dict):
        return entry
    record = _record(entry, row)
    if "file_name" in entry:
        name = record["file_path"] = entry["file_name"]
        # An absolute path must stay one, so that it is refused, and so must a blank one.
        if (
            prefix
            and isinstance(name, str)
            and name.strip()
            and not name.startswith("/")
            and not re.match("[A-Za-z]:", name)
        ):
            record["file_path"] = prefix + name
    if split is not None:
        record["split"] = split
    return record


def _record(entry: dict[str, Any], row: int) -> dict[str, Any]:
    """Bring captions, identity, split and camera of one entry under the names of `PersonRow`."""
    record = {key: entry[key] for key in ("person_id", "split", "camera") if entry.get(key) not in (None, "")}
    record["image_id"] = row
    if entry.get("captions") is not None:
        record["captions"] = entry["captions"]
    elif entry.get("caption") is not None:
        caption = entry["caption"]
        record["captions"] = caption if isinstance(caption, list) else [caption]
    return record


def read_metadata(file: Path) -> Iterator[Any]:
    """Read the rows of a metadata file (.jsonl, .csv or .parquet); InputError names file and row of a damaged one."""
    try:
        if file.suffix == ".parquet":
            yield from pq.read_table(file).to_pylist()
            return
        with file.open(encoding="utf-8-sig", newline="") as lines:
            if file.suffix == ".jsonl":
                yield from _read_json_lines(lines, file)
            else:
                yield from _read_csv(lines, file)
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: is not UTF-8 text ({error.reason}); save it as UTF-8.") from error
    except (OSError, pa.ArrowException, OverflowError) as error:  # a date of no year, in whichever column
        raise InputError(f"{file}: the file cannot be read ({one_line(error, 200)}); write it again.") from error


def _read_json_lines(lines: Any, file: Path) -> Iterator[Any]:
    row = 0
    for line in lines:
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:
            raise row_error(file, row, None, f"is no valid JSON ({error}); every line must hold one object") from error
        row += 1


def _read_csv(lines: Any, file: Path) -> Iterator[Any]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.DictReader(lines)
    try:
        for row, entry in enumerate(reader):
            if None in entry or None in entry.values():
                problem = (
                    f"has not the {len(reader.fieldnames or [])} fields of the header; put texts with commas in quotes"
                )
                raise row_error(file, row, entry.get("file_name"), problem)
            if entry.get("captions"):
                try:
                    entry["captions"] = json.loads(entry["captions"])
                except (ValueError, RecursionError) as error:
                    problem = (
                        'has captions that are no JSON list; write a list like ["one", "two"], or name the column '
                        "'caption' and write one caption a row"
                    )
                    raise row_error(file, row, entry.get("file_name"), problem) from error
            yield entry
    except csv.Error as error:
        raise InputError(f"{file}: no valid CSV ({error}); write it again.") from error


def _make_rows(
    records: list[Any],
    source: str | Path,
    names: dict[str, str],
    locate: Callable[[int], tuple[str | Path, int]],
) -> list[PersonRow]:
    """Number the identities, validate every record, and ask for the split in all rows or in none."""
    if not records:
        raise InputError(f"{source}: there are no rows in it; write one for each image.")
    _number_identities(records)
    rows = validate_rows(records, source, names, locate)
    if any(row.split for row in rows):
        for row in rows:
            if row.split is None:
                problem = "has no split, but other rows have one; give all rows a split, or none"
                raise row_error(*locate(row.image_id), row.file_path, problem)
    return rows


def _number_identities(records: list[Any]) -> None:
    """Turn the person_id of every record into a whole number, in place.

    When all are whole numbers (also written as text, as in a CSV: "12", but not "0012"), they stay as they are.
    Otherwise the different texts are numbered from 0 in sorted order. Any other value is left for validation to refuse.
    """
    values = [record["person_id"] for record in records if isinstance(record, dict) and "person_id" in record]
    texts = {str(value) for value in values if isinstance(value, (int, str)) and not isinstance(value, bool)}
    if all(re.fullmatch(r"0|-?[1-9][0-9]{0,17}", text) for text in texts):
        numbers = {text: int(text) for text in texts}
    else:
        numbers = {text: number for number, text in enumerate(sorted(texts))}
    for record in records:
        if isinstance(record, dict) and "person_id" in record and not isinstance(record["person_id"], bool):
            value = record["person_id"]
            record["person_id"] = numbers.get(str(value), value) if isinstance(value, (int, str)) else value


def _merge_captions(rows: Sequence[PersonRow], locate: Callable[[int], tuple[str | Path, int]]) -> list[PersonRow]:
    """Merge the rows of one image into the first of them."""
    merged: dict[str, PersonRow] = {}
    for row in rows:
        first = merged.get(row.file_path)
        if first is None:
            merged[row.file_path] = row.model_copy()
            continue
        for field in ("person_id", "split"):
            here, there = getattr(row, field), getattr(first, field)
            if here != there:
                problem = (
                    f"has the {field} {here!r}, but row {locate(first.image_id)[1]} gives the same image {there!r}; "
                    "an image shows one person and is in one split"
                )
                raise row_error(*locate(row.image_id), row.file_path, problem)
        first.captions = first.captions + row.captions
    return list(merged.values())


def assign_splits(
    rows: Sequence[PersonRow],
    source: str | Path,
    *,
    validation_identities: int | None,
    test_identities: int | None,
    seed: int,
) -> list[PersonRow]:
    """Divide the identities of undivided rows, or hold out validation identities of divided ones.

    Args:
        rows: All with a split or all without.
        source: For messages.
        validation_identities: For undivided rows None means a tenth, rounded, at least 1; 0 means no such split. For
            divided rows see `cffa_hf.data.rows.hold_out_validation`.
        test_identities: The same for the test split; rows that are divided already take only None.
        seed: See `cffa_hf.data.rows.divide_identities`.

    Raises:
        InputError: The numbers do not fit the data.
    """
    if any(row.split for row in rows):
        if test_identities is not None:
            raise InputError(
                f"test_identities is {test_identities}, but {source} is divided into splits already; leave the "
                "setting out."
            )
        return hold_out_validation(rows, source, validation_identities, seed)
    identities = {row.person_id for row in rows}
    tenth = max(1, round(len(identities) / 10))
    validation = tenth if validation_identities is None else validation_identities
    test = tenth if test_identities is None else test_identities
    if min(validation, test) < 0:
        raise InputError(f"validation_identities is {validation}, test_identities is {test}; they must be 0 or more.")
    if validation + test >= len(identities):
        raise InputError(
            f"{source}: has {count(len(identities), 'identity')}, too few to take {validation:,} for validation and "
            f"{test:,} for test and to leave one for train; set validation_identities and test_identities lower "
            "(0 leaves a split out), or add more people."
        )
    division = divide_identities(identities, validation, test, seed)
    logger.info(
        f"{source}: has no splits, so its {len(identities):,} identities were divided with seed {seed} into "
        f"{len(identities) - validation - test:,} for train, {validation:,} for validation and {test:,} for test."
    )
    return [row.model_copy(update={"split": division[row.person_id]}) for row in rows]


def contain_images(images: Dataset, source: str, folders: Sequence[Path]) -> Dataset:
    """Refuse images that a dataset names by a path outside its own folders; whoever made it may name any file.

    Args:
        images: One column `image`, not decoded.
        source: What to call it in messages.
        folders: See `load_dataset_dict`.

    Returns:
        The images, with absolute paths where there are no bytes.

    Raises:
        InputError: Names the source, the row and the path of the first one outside.
    """
    column = images.with_format("arrow")[:].column("image")
    named = pc.and_(pc.is_valid(column), pc.is_null(pc.struct_field(column, "bytes")))
    rows = [row for row, alone in enumerate(named.to_pylist()) if alone]
    if not rows:
        return images
    roots = [os.path.realpath(folder) for folder in folders]
    found: dict[int, str] = {}
    for row in rows:
        given = images[row]["image"]["path"]
        path = os.path.join(roots[0], given) if roots and given else given
        real = os.path.realpath(path) if path and "\0" not in path else ""
        if not any(os.path.commonpath([root, real]) == root for root in roots if real):
            problem = (
                "names an image outside of the dataset and holds no bytes of it; save the dataset with its images "
                "(save_to_disk and push_to_hub put them in), or put the files into its folder"
            )
            raise row_error(source, row, given, problem)
        found[row] = path
    if all(os.path.isabs(images[row]["image"]["path"]) for row in rows):
        return images
    entries = [{**image, "path": found.get(row, image and image["path"])} for row, image in enumerate(images["image"])]
    return Dataset.from_dict({"image": entries}, features=images.features)


def load_dataset_dict(
    data: DatasetDict | Dataset,
    source: str,
    *,
    folders: Sequence[Path] = (),
    validation_identities: int | None = None,
    test_identities: int | None = None,
    seed: int = 0,
) -> PersonDatasetDict:
    """Bring a dataset of the `datasets` library into the dataset form.

    Columns: `image`, `captions` (list) or `caption`, `person_id`, and where known `split`, `camera`, `file_path` (or
    `file_name`) and `image_id`.

    person_ids that are all whole numbers are kept; otherwise their different texts are numbered from 0 in sorted order.
    The splits are those of the dataset (train, validation or val, test). A dataset that has only "train", and no column
    `split`, counts as undivided: its identities are divided by the seed, a tenth each for validation and test unless
    `validation_identities` and `test_identities` say otherwise. A divided one without a validation split has identities
    of train held out, as ICFG-PEDES has.

    Args:
        data: A dataset with these columns.
        source: What to call it in messages.
        folders: Where image files may lie that the dataset names instead of holding their bytes; relative paths are
            relative to the first.
        validation_identities: Number of identities for validation, 0 for none.
        test_identities: Number of identities for test, 0 for none; only for undivided data.
        seed: Draws the identities.

    Raises:
        InputError: Names the source, the split, the row and the remedy.
    """
    parts = {"train": data} if isinstance(data, Dataset) else dict(data)
    divided = set(parts) != {"train"}
    records: list[Any] = []
    origins: list[tuple[str, int]] = []
    kept: list[Dataset] = []
    for split, part in parts.items():
        images = _images_of(part, split, source)
        kept.append(contain_images(images, f"{source} ({split})", folders))
        paths = pc.struct_field(images.with_format("arrow")[:].column("image"), "path").to_pylist()
        for row, entry in enumerate(part.remove_columns("image").to_list()):
            record = _record(entry, len(records))
            # A dataset that embeds its images keeps at most their base names.
            name = entry.get("file_path") or entry.get("file_name") or os.path.basename(paths[row] or "")
            record["file_path"] = name or f"{split}/{row}"
            if divided:
                record.setdefault("split", split)
            records.append(record)
            origins.append((f"{source} ({split})", row))
            if isinstance(entry.get("image_id"), int):
                record["source_id"] = entry["image_id"]
    rows = _make_rows(records, source, {}, origins.__getitem__)
    divided_rows = assign_splits(
        rows, source, validation_identities=validation_identities, test_identities=test_identities, seed=seed
    )
    ids = [int(record.get("source_id", number)) for number, record in enumerate(records)]
    result = _join(divided_rows, concatenate_datasets(kept), ids)
    return PersonDatasetDict(result, division_between(rows, divided_rows, seed))


def _images_of(part: Dataset, split: str, source: str) -> Dataset:
    """Return the column of images of a split, not decoded."""
    if "image" not in part.column_names:
        present = ", ".join(part.column_names)
        raise InputError(
            f"{source}: the split {split!r} has no column 'image' (its columns are {present}); it needs image, "
            "captions and person_id."
        )
    try:
        return part.select_columns(["image"]).cast_column("image", Image(decode=False))
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InputError(f"{source}: the column 'image' of {split!r} holds no images ({error}).") from error


def _join(divided_rows: Sequence[PersonRow], all_images: Dataset, ids: Sequence[int]) -> DatasetDict:
    """Put validated rows and their images together, split by split; `ids` are the `image_id` of all rows."""
    result = DatasetDict()
    for split, chosen in groupby(
        sorted(divided_rows, key=lambda row: SPLITS.index(row.split or "train")), lambda row: row.split
    ):
        part_rows = list(chosen)
        columns = row_columns(part_rows)
        columns["image_id"] = [ids[row.image_id] for row in part_rows]
        texts = Dataset.from_dict(columns, features=Features({name: FEATURES[name] for name in columns}))
        joined = concatenate_datasets([all_images.select([row.image_id for row in part_rows]), texts], axis=1)
        result[str(split)] = joined.select_columns(list(FEATURES))
    return result
