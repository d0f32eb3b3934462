"""Tables of others as CSV: which character separates the fields, and rows numbered as a spreadsheet does."""

import csv
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from cffa_hf.errors import InputError, one_line

SEPARATORS = (",", ";", "\t")


def csv_separator(header: str) -> str:
    """Return the separator with which the first line of a CSV has a column `file_name`; a comma if there is none.

    Example:
        >>> csv_separator("file_name;caption;person_id")
        ';'
    """
    return next((mark for mark in SEPARATORS if "file_name" in _fields(header, mark)), ",")


def _fields(line: str, separator: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([line], delimiter=separator), [])]


class _Lines:
    """Lines of a file, and whether more of them were asked for than there are."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self.ended = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines, None)
        if line is None:
            self.ended = True
            raise StopIteration
        return line


def csv_rows(lines: TextIO, file: Path) -> Iterator[tuple[int, list[str], bool]]:
    """Read the rows of a CSV that are not blank, the header first.

    Yields:
        The row as a spreadsheet numbers it, its fields, and whether the file ends within its quotes.

    Raises:
        InputError: It is no CSV.
    """
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    separator = csv_separator(lines.readline())
    lines.seek(0)
    guarded, row = _Lines(lines), 0
    try:
        for row, fields in enumerate(csv.reader(guarded, delimiter=separator), 1):
            if any(field.strip() for field in fields):
                yield row, fields, guarded.ended
    except csv.Error as error:
        raise InputError(f"{file}: no valid CSV after row {row} ({one_line(error, 120)}); write it again.") from error
