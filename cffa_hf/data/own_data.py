"""Your own data: a folder with a metadata file, or a dataset that is saved on disk or on the Hub."""

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Features, Image, concatenate_datasets

from cffa_hf.data.division import PersonDatasetDict, division_between
from cffa_hf.data.metadata import METADATA_FILES, captions_of_entry, find_metadata, read_metadata
from cffa_hf.data.rows import (
    CONFLICT,
    FEATURES,
    OUTSIDE,
    SPLITS,
    PersonRow,
    Refuse,
    RowError,
    check_files,
    count,
    divide_identities,
    hold_out_validation,
    row_columns,
    row_error,
    rows_to_dataset,
    stop,
    validate_rows,
)
from cffa_hf.data.source_rows import SourceRows
from cffa_hf.errors import InputError, one_line

logger = logging.getLogger(__name__)

_NAMES = {"file_path": "file_name"}


def load_folder(
    folder: str | Path,
    *,
    validation_identities: int | None = None,
    test_identities: int | None = None,
    seed: int = 0,
) -> PersonDatasetDict:
    """Load a folder of images with `metadata.jsonl`, `metadata.csv` or `metadata.parquet` (the ImageFolder convention).

    Columns: `file_name` (relative to the metadata file), `captions` (a list; in a CSV a JSON list) or `caption` (one
    text; `caption1`, `caption2` ... for more), `person_id`, and where known `split` and `camera`; others are ignored.
    Several rows of one image become one row with all their captions. The metadata file lies in the folder itself, or one
    in each of the sub-folders train/, validation/ (or val/) and test/. For person_ids, splits and the two numbers of
    identities see `load_dataset_dict`.

    Returns:
        Splits of the dataset form; `file_path` is relative to `folder`, `image_id` numbers the rows of the metadata.

    Raises:
        InputError: Names the file, the row and the remedy.
    """
    read = read_folder(folder)
    divided = assign_splits(
        read.rows, read.source, validation_identities=validation_identities, test_identities=test_identities, seed=seed
    )
    return PersonDatasetDict(rows_to_dataset(divided, read.images), division_between(read.rows, divided, seed))


def read_folder(folder: str | Path, refuse: Refuse = stop) -> SourceRows:
    """Read the rows that `load_folder` divides.

    Args:
        folder: As `load_folder` has it.
        refuse: Is given every error of a row; the row is left out then.

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
        for row, entry in read_metadata(file, refuse):
            records.append(_folder_record(entry, len(records), split, "" if split is None else f"{file.parent.name}/"))
            origins.append((file, row))
    source = files[0][1] if len(files) == 1 else folder
    people = _number_identities(records)
    listed = _make_rows(records, source, _NAMES, origins.__getitem__, refuse)
    rows = _merge_captions(listed, origins.__getitem__, people, refuse)
    rows = check_files(rows, folder, source, origins.__getitem__, refuse)
    return SourceRows(
        source, folder, tuple(file for _, file in files), folder, listed, rows, origins.__getitem__, people
    )


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
    captions = captions_of_entry(entry)
    if captions is not None:
        record["captions"] = captions
    return record


def _make_rows(
    records: list[Any],
    source: str | Path,
    names: dict[str, str],
    locate: Callable[[int], tuple[str | Path, int]],
    refuse: Refuse = stop,
) -> list[PersonRow]:
    """Validate every record, and ask for the split in all rows or in none."""
    if not records:
        raise InputError(f"{source}: there are no rows in it; write one for each image.")
    rows = validate_rows(records, source, names, locate, refuse)
    undivided = [row for row in rows if row.split is None]
    if len(undivided) == len(rows):
        return rows
    for row in undivided:
        problem = "has no split, but other rows have one; give all rows a split, or none"
        refuse(row_error(*locate(row.image_id), row.file_path, problem))
    return [row for row in rows if row.split is not None]


def _number_identities(records: list[Any]) -> dict[int, str]:
    """Turn the person_id of every record into a whole number, in place.

    When all are whole numbers (also written as text, as in a CSV: "12", but not "0012"), they stay as they are.
    Otherwise the different texts are numbered from 0 in sorted order. Any other value is left for validation to refuse.

    Returns:
        The text of each number, where it is another.
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
    return {number: text for text, number in numbers.items() if text != str(number)}


def _merge_captions(
    rows: Sequence[PersonRow],
    locate: Callable[[int], tuple[str | Path, int]],
    people: Mapping[int, str],
    refuse: Refuse,
) -> list[PersonRow]:
    """Merge the rows of one image into the first of them."""
    merged: dict[str, PersonRow] = {}
    for row in rows:
        first = merged.get(row.file_path)
        if first is None:
            merged[row.file_path] = row.model_copy()
            continue
        different = [field for field in ("person_id", "split") if getattr(row, field) != getattr(first, field)]
        for field in different:
            here, there = (people.get(each, each) for each in (getattr(row, field), getattr(first, field)))
            problem = (
                f"has the {field} {here!r}, but row {locate(first.image_id)[1]} gives the same image {there!r}; an image "
                "shows one person and is in one split"
            )
            refuse(row_error(*locate(row.image_id), row.file_path, problem, CONFLICT))
        if not different:
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
    validation, test = division_numbers(len(identities), source, validation_identities, test_identities, seed)
    division = divide_identities(identities, validation, test, seed)
    return [row.model_copy(update={"split": division[row.person_id]}) for row in rows]


def division_numbers(
    identities: int, source: str | Path, validation_identities: int | None, test_identities: int | None, seed: int
) -> tuple[int, int]:
    """Decide how many identities of a source without splits are for validation and for test, and tell it in the log.

    Args:
        identities: How many there are.
        source: For messages.
        validation_identities: As for `assign_splits`.
        test_identities: As for `assign_splits`.
        seed: Draws them.

    Raises:
        InputError: The numbers do not fit the data.
    """
    tenth = max(1, round(identities / 10))
    validation = tenth if validation_identities is None else validation_identities
    test = tenth if test_identities is None else test_identities
    if min(validation, test) < 0:
        raise InputError(f"validation_identities is {validation}, test_identities is {test}; they must be 0 or more.")
    if validation + test >= identities:
        raise InputError(
            f"{source}: has {count(identities, 'identity')}, too few to take {validation:,} for validation and "
            f"{test:,} for test and to leave one for train; set validation_identities and test_identities lower "
            "(0 leaves a split out), or add more people."
        )
    logger.info(
        f"{source}: has no splits, so its {identities:,} identities were divided with seed {seed} into "
        f"{identities - validation - test:,} for train, {validation:,} for validation and {test:,} for test."
    )
    return validation, test


def contain_images(images: Dataset, source: str, folders: Sequence[Path], refuse: Refuse = stop) -> Dataset:
    """Refuse images that a dataset names by a path outside its own folders; whoever made it may name any file.

    Args:
        images: One column `image`, not decoded.
        source: What to call it in messages.
        folders: See `load_dataset_dict`.
        refuse: Is given every error.

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
            refuse(row_error(source, row, given, problem, OUTSIDE))
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
    read, images, ids = read_dataset_rows(data, source, folders)
    divided_rows = assign_splits(
        read.rows, source, validation_identities=validation_identities, test_identities=test_identities, seed=seed
    )
    return PersonDatasetDict(_join(divided_rows, images, ids, source), division_between(read.rows, divided_rows, seed))


def read_dataset_rows(
    data: DatasetDict | Dataset, source: str, folders: Sequence[Path] = (), refuse: Refuse = stop
) -> tuple[SourceRows, Dataset, list[int]]:
    """Read the rows that `load_dataset_dict` divides.

    Args:
        data: As `load_dataset_dict` has it.
        source: As `load_dataset_dict` has it.
        folders: As `load_dataset_dict` has it.
        refuse: Is given every error of a row; the row is left out then.

    Returns:
        The rows, the images of all records by the `image_id` of these rows, and the `image_id` that the dataset gives each.

    Raises:
        InputError: Names the source, the split, the row and the remedy.
    """
    parts = {"train": data} if isinstance(data, Dataset) else dict(data)
    divided = set(parts) != {"train"}
    records: list[Any] = []
    origins: list[tuple[str, int]] = []
    kept: list[Dataset] = []
    outside: set[tuple[str | Path, int]] = set()

    def refuse_image(error: InputError) -> None:
        refuse(error)
        if isinstance(error, RowError):
            outside.add((error.source, error.row))

    for split, part in parts.items():
        _check_arrow(part, f"{source} ({split})")
        images = _images_of(part, split, source)
        kept.append(contain_images(images, f"{source} ({split})", folders, refuse_image))
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
    people = _number_identities(records)
    rows = _make_rows(records, source, {}, origins.__getitem__, refuse)
    rows = [row for row in rows if origins[row.image_id] not in outside]
    ids = [int(record.get("source_id", number)) for number, record in enumerate(records)]
    place = Path(source)
    read = SourceRows(source, place, (), place, rows, rows, origins.__getitem__, people)
    return read, concatenate_datasets(kept), ids


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


def _check_arrow(part: Dataset, source: str) -> None:
    """Refuse Arrow data whose offsets or texts are damaged: reading such data could end the process.

    Raises:
        InputError: They are.
    """
    try:
        part.data.validate(full=True)
    except pa.ArrowException as error:
        raise InputError(
            f"{source}: its Arrow files are damaged ({one_line(error, 200)}); save it again, or remove the files "
            "cache-*.arrow if there are any beside them."
        ) from error


def _join(divided_rows: Sequence[PersonRow], all_images: Dataset, ids: Sequence[int], source: str) -> DatasetDict:
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
        _check_arrow(
            joined, f"{source} ({split})"
        )  # images out of order are copied into a file, which may have been there
        result[str(split)] = joined.select_columns(list(FEATURES))
    return result
