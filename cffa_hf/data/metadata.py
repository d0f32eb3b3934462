"""Metadata files of one's own data: JSON lines, CSV and Parquet become entries, each with the row that an editor shows."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from cffa_hf.csv_files import csv_rows
from cffa_hf.data.rows import Refuse, row_error, shorten, stop
from cffa_hf.errors import InputError, one_line

METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_SPLIT_FOLDERS = ("train", "val", "validation", "test")
_NUMBERED = re.compile(r"caption_?(\d{1,9})")


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


def read_metadata(file: Path, refuse: Refuse = stop) -> Iterator[tuple[int, Any]]:
    """Read the entries of a metadata file.

    Args:
        file: `.jsonl`, `.csv` or `.parquet`.
        refuse: Is given every error of a row; the row is left out then.

    Yields:
        The row, and what stands in it. A row is the line of JSON lines, the row of a CSV as a spreadsheet shows it (the
        header is row 1), and of Parquet the number of the row from 1.

    Raises:
        InputError: Names file and row, or says why the file cannot be read.
    """
    try:
        if file.suffix == ".parquet":
            table = pq.read_table(file)
            _check_columns(table.column_names, file)
            yield from enumerate(table.to_pylist(), 1)
            return
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            yield from (_read_json_lines if file.suffix == ".jsonl" else _read_csv)(lines, file, refuse)
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: is not UTF-8 text ({error.reason}); save it as UTF-8.") from error
    except (OSError, pa.ArrowException, OverflowError) as error:  # a date of no year, in whichever column
        raise InputError(f"{file}: the file cannot be read ({one_line(error, 200)}); write it again.") from error


def captions_of_entry(entry: dict[str, Any]) -> Any:
    """Return the captions of an entry: `captions`, or else `caption`, `caption1`, `caption2` ... as a list.

    Of several columns those that are blank are left out, unless all are.

    Returns:
        What stands there, not validated; None if there is no such key.

    Example:
        >>> captions_of_entry({"caption1": "a red coat", "caption2": "", "caption10": "a bag"})
        ['a red coat', 'a bag']
    """
    if entry.get("captions") is not None:
        return entry["captions"]
    numbered = sorted((int(found[1]), key) for key in entry if (found := _NUMBERED.fullmatch(key)))
    keys = [key for key in ("caption", *(key for _, key in numbered)) if entry.get(key) is not None]
    if keys == ["caption"]:
        return entry["caption"] if isinstance(entry["caption"], list) else [entry["caption"]]
    values = [entry[key] for key in keys]
    return [value for value in values if value not in ("", [])] or values or None


def _check_columns(names: Sequence[str], file: Path) -> None:
    """Refuse a table without the columns that every row needs.

    Raises:
        InputError: Names the columns that are missing, and those that are there.
    """
    wanted = {
        "file_name": "file_name" in names,
        "person_id": "person_id" in names,
        "captions": any(name in ("captions", "caption") or _NUMBERED.fullmatch(name) for name in names),
    }
    missing = " and ".join(repr(name) for name, there in wanted.items() if not there)
    if missing:
        separated = ", separated by commas, semicolons or tabs" if file.suffix == ".csv" else ""
        raise InputError(
            f"{file}: has no column {missing}; it needs file_name, person_id and captions (or caption){separated}, and has "
            f"{shorten(', '.join(names), 150)}."
        )
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1 and name]:
        raise InputError(f"{file}: has the column {twice[0]!r} more than once; give each column a name of its own.")


def _is_text(line: str) -> bool:
    """Tell whether bytes were UTF-8, after they were read with surrogates in place of those that are not."""
    return line.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in line)


_NO_TEXT = "is not UTF-8 text; save the file as UTF-8 (in a spreadsheet: as CSV UTF-8)"


def _read_json_lines(lines: TextIO, file: Path, refuse: Refuse) -> Iterator[tuple[int, Any]]:
    for row, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if not _is_text(line):
            refuse(row_error(file, row, None, _NO_TEXT))
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            problem = f"is no valid JSON ({one_line(error, 120)}); every line must hold one object"
            refuse(row_error(file, row, None, problem))
            continue
        yield row, entry


def _read_csv(lines: TextIO, file: Path, refuse: Refuse) -> Iterator[tuple[int, Any]]:
    header: list[str] | None = None
    for row, fields, unclosed in csv_rows(lines, file):
        if header is None:
            header = [name.strip() for name in fields]
            if not _is_text("".join(header)):
                raise row_error(file, row, None, _NO_TEXT)
            _check_columns(header, file)
            continue
        entry: dict[str, Any] = dict(zip(header, fields, strict=False))
        problem = None
        if unclosed:
            problem = "begins a text in quotes that never ends; close the quotes, and write a quote within a text twice"
        elif len(fields) != len(header):
            problem = (
                f"has not the {len(header)} fields of the header, but {len(fields)}; put texts that hold the separator in "
                "quotes"
            )
        elif not _is_text("".join(fields)):
            problem = _NO_TEXT
        elif entry.get("captions"):
            try:
                entry["captions"] = json.loads(entry["captions"])
            except (ValueError, RecursionError):
                problem = (
                    'has captions that are no JSON list; write a list like ["one", "two"], or name the column '
                    "'caption' and write one caption a row"
                )
        if problem is not None:
            refuse(row_error(file, row, entry.get("file_name"), problem))
            continue
        yield row, entry
