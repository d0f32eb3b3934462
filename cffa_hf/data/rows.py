"""The validated row that every source of data is turned into, and the DatasetDict made of such rows."""

import os
import posixpath
import random
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, Image, List, Value
from datasets.table import InMemoryTable
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    TypeAdapter,
    ValidationError,
)

from cffa_hf.errors import InputError, is_text
from cffa_hf.inputs.captions import LONGEST_CAPTION, clean_caption
from cffa_hf.inputs.images import escapes

SPLITS = ("train", "validation", "test")
FEATURES = Features(
    {
        "image": Image(decode=False),
        "captions": List(Value("string")),
        "person_id": Value("int64"),
        "image_id": Value("int64"),
        "file_path": Value("string"),
        "camera": Value("string"),
    }
)

# What each field must be, in the words of an error message.
_EXPECTED = {
    "file_path": "the path of an image as text",
    "captions": "a list of texts",
    "person_id": "a whole number from 0",
    "image_id": "a whole number from 0",
    "split": "train, val (or validation) or test",
    "camera": "text or a whole number",
}


def _clean(caption: str) -> str:
    if len(caption) > LONGEST_CAPTION:
        raise ValueError(f"{len(caption):,} characters, but at most {LONGEST_CAPTION:,} are read; shorten it")
    cleaned = clean_caption(caption)
    if not cleaned:
        raise ValueError("blank")
    return cleaned


def _normalise_split(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    name = value.strip().lower()
    return "validation" if name == "val" else name


def _camera_text(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and not is_text(value):
        return value.encode("utf-8", "surrogatepass")  # which is no text
    return None if value == "" else value


def _check_relative(path: str) -> str:
    """Return a '/'-separated relative path without '.' parts; ValueError says why another one is refused."""
    if not path.strip() or "\0" in path:
        raise ValueError("is blank")
    if not is_text(path):
        raise ValueError("is no UTF-8 text; rename the image")
    if "\\" in path:
        raise ValueError("has a backslash; write it with '/'")
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        raise ValueError("is absolute; write it relative to the image folder")
    if ".." in path.split("/"):
        raise ValueError("leaves the image folder by '..'; all images must lie below it")
    path = posixpath.normpath(path)
    if path == ".":
        raise ValueError("names a folder, not an image")
    return path


class PersonRow(BaseModel):
    """One image of one person with its captions, whatever file it came from.

    Attributes:
        image_id: 0-based row of the image in its source.
        file_path: Path of the image relative to the image folder, with '/'; it never leaves that folder.
        captions: Cleaned captions, at least one, none blank, all that the source has.
        person_id: Identity as in the source.
        split: "train", "validation" or "test"; None where the source does not divide its images.
        camera: Name of the camera where it is known.
    """

    model_config = ConfigDict(strict=True, extra="ignore")

    image_id: int = Field(ge=0)
    file_path: Annotated[str, AfterValidator(_check_relative)]
    captions: list[Annotated[str, AfterValidator(_clean)]] = Field(min_length=1)
    person_id: int = Field(ge=0, lt=2**63)
    split: Annotated[Literal["train", "validation", "test"] | None, BeforeValidator(_normalise_split)] = None
    camera: Annotated[str | None, BeforeValidator(_camera_text)] = None


_ROWS: TypeAdapter[list[PersonRow]] = TypeAdapter(Annotated[list[PersonRow], FailFast()])
_ALL_ERRORS: TypeAdapter[list[PersonRow]] = TypeAdapter(list[PersonRow])

MALFORMED, CONFLICT, OUTSIDE, MISSING = "malformed row", "rows that disagree", "image outside", "missing image"
"""The kinds of mistakes in rows."""


class RowError(InputError):
    """A mistake in one row of a source.

    Attributes:
        source: The file, or what stands for it.
        row: As the message names it.
        image: The path of the image as the source has it; None: it is not known.
        problem: What is wrong, in words that follow the row.
        kind: One of the kinds of mistakes in rows.
    """

    def __init__(self, source: str | Path, row: int, image: str | None, problem: str, kind: str = MALFORMED):
        where = f" (image {shorten(image)})" if image else ""
        super().__init__(f"{source}: row {row}{where} {problem}.")
        self.source, self.row, self.image, self.problem, self.kind = source, row, image, problem, kind

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.source, self.row, self.image, self.problem, self.kind)


Refuse = Callable[[InputError], None]
"""What a reader does with a mistake: `stop` raises it; what collects mistakes returns, and the reader leaves the row out."""


def stop(error: InputError) -> None:
    """Raise an error: what training does with the first mistake in its data.

    Raises:
        InputError: The error.
    """
    raise error


def shorten(value: Any, length: int = 60) -> str:
    """Write a value for an error message, cut to `length` characters; a path with backslashes as it stands."""
    text = f"'{value}'" if isinstance(value, str) and value.isprintable() and "'" not in value else repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."


def row_error(source: str | Path, row: int, image: Any, problem: str, kind: str = MALFORMED) -> RowError:
    """Make the one-sentence error about a row of a source, with its image where that is known."""
    return RowError(source, row, image if isinstance(image, str) and image else None, problem, kind)


def validate_rows(
    records: Sequence[Any],
    source: str | Path,
    names: Mapping[str, str] | None = None,
    locate: Callable[[int], tuple[str | Path, int]] | None = None,
    refuse: Refuse = stop,
) -> list[PersonRow]:
    """Turn raw records into validated rows.

    Args:
        records: One dict of `PersonRow` fields for each image (anything else is an error that names the row).
        source: The file that the records came from, for messages.
        names: What the source calls a field, where it has a name of its own, for messages.
        locate: File and row of record i, where several files were read; by default (source, i).
        refuse: Is given every error.

    Returns:
        The rows of the records that are not refused.

    Raises:
        InputError: Names the source, the row, its image and the remedy for the first bad row.
    """
    try:
        return _ROWS.validate_python(records)
    except ValidationError:
        pass
    refused = set()
    try:
        _ALL_ERRORS.validate_python(records)
    except ValidationError as error:
        for each in error.errors(include_url=False):
            index = int(each["loc"][0])
            refused.add(index)
            file, row = locate(index) if locate else (source, index)
            record = records[index]
            if isinstance(record, dict):
                refuse(row_error(file, row, record.get("file_path"), _problem(each, dict(names or {}))))
            else:
                problem = f"is {shorten(record)}, not an object with keys; fix or remove it"
                refuse(row_error(file, row, None, problem))
    return _ROWS.validate_python([record for index, record in enumerate(records) if index not in refused])


def _problem(error: Any, names: dict[str, str]) -> str:
    """Say in words what pydantic found: the key, what is wrong with it and what to do."""
    _, field, *inner = error["loc"]
    key, kind, value = names.get(field, field), error["type"], error.get("input")
    if kind == "missing":
        return f"has no {key!r}; add it ({_EXPECTED[field]}) or remove the row"
    if field == "captions" and inner:
        reason = str(error["ctx"]["error"]) if kind == "value_error" else ""
        if reason and reason != "blank":
            return f"has a caption (number {inner[0] + 1}) of {reason}, or remove it"
        if kind == "value_error":
            return f"has a blank caption (number {inner[0] + 1}); fill it in or remove it"
        return f"has {shorten(value)} as caption number {inner[0] + 1}, where text belongs; fix or remove it"
    if kind == "too_short":
        return "has no captions; every image needs at least one caption: add one or remove the row"
    if kind == "value_error":
        return f"is refused, because its path {shorten(value)} {error['ctx']['error']}"
    if field == "split" and isinstance(value, str):
        return f"has the unknown split {value!r}; it must be {_EXPECTED['split']}"
    return f"has {shorten(value)} as {key!r}; it must be {_EXPECTED[field]}"


def check_files(
    rows: Sequence[PersonRow],
    folder: Path,
    source: str | Path,
    locate: Callable[[int], tuple[str | Path, int]] | None = None,
    refuse: Refuse = stop,
) -> list[PersonRow]:
    """Check that no image leaves `folder` through a symbolic link and none is listed in two splits.

    Whether the images exist and can be read is checked by `cffa_hf.data.checks.check_images`.

    Args:
        rows: Their `image_id` is what `locate` takes.
        folder: Of the images.
        source: For messages.
        locate: As `validate_rows` has it.
        refuse: Is given every error.

    Returns:
        The rows that are not refused.

    Raises:
        InputError: Names the source, the row and the remedy.
    """
    locate = locate or (lambda row: (source, row))
    refused = set()
    for index in escapes(folder, [row.file_path for row in rows]):
        refused.add(index)
        problem = f"leads out of {folder} through a symbolic link; copy the image into it (the folder may be a link)"
        refuse(row_error(*locate(rows[index].image_id), rows[index].file_path, problem, OUTSIDE))
    seen: dict[str, int] = {}
    for index, row in enumerate(rows):
        first = rows[seen.setdefault(row.file_path, index)]
        if first.split != row.split and index not in refused:
            refused.add(index)
            problem = (
                f"is in the split {row.split!r}, but row {locate(first.image_id)[1]} lists the same image in "
                f"{first.split!r}; an image may be in one split only: remove one of the two rows"
            )
            refuse(row_error(*locate(row.image_id), row.file_path, problem, CONFLICT))
    return [row for index, row in enumerate(rows) if index not in refused]


def warn_of_repeated(
    rows: Sequence[PersonRow],
    source: str | Path,
    locate: Callable[[int], tuple[str | Path, int]] | None = None,
) -> None:
    """Warn of rows whose image an earlier row has too; both are kept."""
    seen: set[str] = set()
    repeated = [row for row in rows if row.file_path in seen or seen.add(row.file_path)]  # type: ignore[func-returns-value]
    if repeated:
        first = repeated[0]
        warnings.warn(
            f"{source}: {count(len(repeated), 'row')} of an image that an earlier row of the same split has too, the "
            f"first is row {locate(first.image_id)[1] if locate else first.image_id} (image {first.file_path!r}); both "
            "are kept.",
            stacklevel=3,
        )


def count(number: int, noun: str) -> str:
    """Write a number with its noun: "1 row", "2,000 rows"."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number:,} {noun if number == 1 else plural}"


def divide_identities(identities: Iterable[int], validation: int, test: int, seed: int) -> dict[int, str]:
    """Give each identity one split.

    `random.Random(seed).sample(sorted(identities), validation + test)` is drawn: its first `validation` identities are
    "validation", the others "test", and all that were not drawn are "train". So the same identities and seed always
    give the same division.
    """
    everyone = sorted(set(identities))
    drawn = [everyone[place] for place in drawn_places(len(everyone), validation + test, seed)]
    division = dict.fromkeys(everyone, "train")
    division.update(dict.fromkeys(drawn[:validation], "validation"))
    division.update(dict.fromkeys(drawn[validation:], "test"))
    return division


def drawn_places(identities: int, number: int, seed: int) -> list[int]:
    """Draw places in the ascending order of all identities, as `divide_identities` does."""
    return random.Random(seed).sample(range(identities), number)


def hold_out_validation(
    rows: Sequence[PersonRow], source: str | Path, validation_identities: int | None, seed: int
) -> list[PersonRow]:
    """Move identities of the train split to a validation split where the source has none.

    Args:
        rows: Rows that all have a split.
        source: For messages.
        validation_identities: How many identities to hold out; 0 holds out none; None means 200, or a tenth (rounded
            down, at least 1) of fewer than 2,000 train identities.
        seed: See `divide_identities`.

    Raises:
        InputError: The source has a validation split and a number above 0 was given, or more identities were asked for
            than train can spare.
    """
    trained = {row.person_id for row in rows if row.split == "train"}
    divided = any(row.split == "validation" for row in rows)
    number = held_out_number(len(trained), divided, source, validation_identities)
    if number == 0:
        return list(rows)
    division = divide_identities(trained, number, 0, seed)
    return [row.model_copy(update={"split": division[row.person_id]}) if row.split == "train" else row for row in rows]


def held_out_number(
    identities: int, has_validation: bool, source: str | Path, validation_identities: int | None
) -> int:
    """Decide how many identities of train are held out for validation.

    Args:
        identities: Number of them in train.
        has_validation: Whether the source has a validation split.
        source: For messages.
        validation_identities: As for `hold_out_validation`.

    Raises:
        InputError: As `hold_out_validation`.
    """
    if validation_identities is not None and validation_identities < 0:
        raise InputError(f"validation_identities is {validation_identities}; it must be 0 or more.")
    if has_validation:
        if validation_identities:
            raise InputError(
                f"validation_identities is {validation_identities}, but {source} has a validation split of its own; "
                "leave the setting out."
            )
        return 0
    if validation_identities is None:
        wanted = 200 if identities >= 2000 else max(1, identities // 10)
        return wanted if identities > wanted else 0
    if validation_identities and validation_identities >= identities:
        raise InputError(
            f"validation_identities is {validation_identities:,}, but {source} has only "
            f"{count(identities, 'identity')} in its train split; take a smaller number."
        )
    return validation_identities


def row_columns(rows: Sequence[PersonRow]) -> dict[str, list[Any]]:
    """Lay rows out as the columns of the dataset form, without the image."""
    return {name: [getattr(row, name) for row in rows] for name in FEATURES if name != "image"}


def rows_to_dataset(rows: Sequence[PersonRow], folder: Path) -> DatasetDict:
    """Make the DatasetDict of rows whose images are files below `folder`; the images stay files until they are read."""
    root = os.path.abspath(folder)
    result = DatasetDict()
    for split in SPLITS:
        chosen = [row for row in rows if row.split == split]
        if chosen:
            images = [{"path": os.path.join(root, row.file_path), "bytes": None} for row in chosen]
            # Straight to Arrow: Dataset.from_dict would look at every image path and take ten times as long.
            table = pa.table({"image": images, **row_columns(chosen)}, schema=FEATURES.arrow_schema)
            result[split] = Dataset(InMemoryTable(table))
    return result
