"""Filters on metadata: `{"camera": "cam_a", "time": {"min": "2024-01-01"}}`, checked against the columns that there are."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from numbers import Integral, Real
from typing import Any

from cffa_hf.errors import InputError

KINDS = ("text", "number", "time")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")
MOST_VALUES = 1000


@dataclass(frozen=True)
class Condition:
    """What one column must hold.

    Attributes:
        column: Its name.
        values: Any of these; None: a range.
        low: Smallest value that passes, if there is one.
        high: Largest value that passes, if there is one.
    """

    column: str
    values: tuple[Any, ...] | None = None
    low: Any = None
    high: Any = None


def parse_filter(where: Mapping[str, Any] | None, kinds: Mapping[str, str]) -> tuple[Condition, ...]:
    """Check a filter against the columns of a gallery.

    Args:
        where: Column -> a value, a list of values of which any passes, or `{"min": a, "max": b}`, both inclusive.
        kinds: Column -> "text", "number" or "time".

    Returns:
        Conditions that all must hold, in order of their columns.

    Raises:
        InputError: If a column is not there, or a value is not of its kind.
    """
    conditions = []
    for column in sorted(where or {}, key=str):
        wanted = (where or {})[column]
        if column not in kinds:
            there = ", ".join(sorted(kinds)) or "none at all"
            raise InputError(f"The gallery has no column {str(column)[:60]!r} to filter by; there is {there}.")
        kind = kinds[column]
        if isinstance(wanted, Mapping):
            if not wanted or wanted.keys() - {"min", "max"}:
                raise InputError(
                    f"A range of {column!r} has min or max or both, not {str(sorted(map(str, wanted)))[:80]}."
                )
            low, high = (
                None if wanted.get(end) is None else to_value(wanted[end], kind, column, last=end == "max")
                for end in ("min", "max")
            )
            conditions.append(Condition(column, None, low, high))
            continue
        if kind == "time" and isinstance(wanted, str) and len(wanted) == len("2024-01-31"):
            first, end = (to_value(wanted, kind, column, last=last) for last in (False, True))
            conditions.append(Condition(column, None, first, end))  # a day means all of it
            continue
        values = wanted if isinstance(wanted, Sequence) and not isinstance(wanted, (str, bytes)) else [wanted]
        if not 0 < len(values) <= MOST_VALUES:
            raise InputError(f"A filter on {column!r} takes 1 to {MOST_VALUES:,} values, not {len(values):,}.")
        conditions.append(Condition(column, tuple(to_value(value, kind, column) for value in values)))
    return tuple(conditions)


def parse_where(words: Iterable[str]) -> dict[str, Any]:
    """Read filters of a command line: `camera=cam_a`, `camera=cam_a,cam_b`, `time>=2024-01-01`, `time<=2024-02-01`.

    Raises:
        InputError: If one has another form, or a column has both values and a range.

    Example:
        >>> parse_where(["camera=a,b", "time>=2024-01-01"])
        {'camera': ['a', 'b'], 'time': {'min': '2024-01-01'}}
    """
    where: dict[str, Any] = {}
    for word in words:
        match = re.match(r"([^=<>]+)(>=|<=|=)(.*)\Z", word, flags=re.DOTALL)
        if match is None:
            raise InputError(
                f"A filter looks like camera=cam_a, camera=cam_a,cam_b or time>=2024-01-01, not {word[:80]!r}."
            )
        column, sign, value = match[1].strip(), match[2], match[3].strip()
        if (sign == "=") == isinstance(where.get(column), dict) and column in where:
            raise InputError(f"Filters on {column!r} give both values and a range; one of them is enough.")
        if sign == "=":
            where.setdefault(column, []).extend(part.strip() for part in value.split(","))
        else:
            where.setdefault(column, {})["min" if sign == ">=" else "max"] = value
    return where


def to_value(value: Any, kind: str, column: str, *, last: bool = False) -> Any:
    """Bring a value into the form in which a column of that kind is stored.

    Args:
        value: As it was given.
        kind: "text", "number" or "time".
        column: For the error.
        last: A day without a time of day means its last moment instead of its first.

    Raises:
        InputError: If it is not of that kind.
    """
    if kind == "number":
        number = to_number(value)
        if number is None:
            raise InputError(f"{column!r} holds numbers; {str(value)[:60]!r} is none, or too large a one.")
        return number
    if kind == "time":
        moment = to_time(value, last=last)
        if moment is None:
            raise InputError(
                f"{column!r} holds times such as 2024-01-31 or 2024-01-31T18:30; {str(value)[:60]!r} is none."
            )
        return moment
    if not isinstance(value, (str, Real)):
        raise InputError(f"{column!r} holds texts; {str(value)[:60]!r} is none.")
    return str(value)


def to_number(value: Any) -> int | float | None:
    """Return a number, a whole one with all its digits; None if it is none or has more than 64 bits."""
    if isinstance(value, bool):
        return None
    try:
        whole = int(value) if isinstance(value, (str, Integral)) else None
    except ValueError:
        whole = None
    if whole is not None:
        return whole if -(2**63) <= whole < 2**63 else None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if number != number else number


def to_time(value: Any, *, last: bool = False) -> str | None:
    """Return a time in ISO form, in UTC if it has a zone, so that texts sort like times; None if it is none."""
    text = value.isoformat() if hasattr(value, "isoformat") else value
    if not isinstance(text, str) or len(text) > 40 or not re.match(r"\d{4}-\d\d-\d\d", text):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if len(text) == len("2024-01-31") and last:
        moment = moment.replace(hour=23, minute=59, second=59, microsecond=999_999)
    moment = moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    return moment.isoformat(timespec="microseconds")


def kind_of(values: Iterable[Any]) -> str:
    """Find the kind of a column: "number", "time" or "text", which takes everything; None counts for nothing."""
    found = [value for value in values if value is not None]
    if found and all(isinstance(value, Real) and not isinstance(value, bool) for value in found):
        return "number"
    if found and all(to_time(value) is not None for value in found):
        return "time"
    return "text"


def check_names(names: Iterable[Any]) -> None:
    """Refuse names of columns that are no plain words.

    Raises:
        InputError: Names the first one.
    """
    for name in names:
        if not isinstance(name, str) or not NAME.match(name):
            raise InputError(
                f"A column of metadata is named with letters, digits and underscores, at most 63, not {str(name)[:80]!r}."
            )
