"""Which columns of a gallery the page filters by, and what was chosen there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cffa_hf.search.results import ColumnSummary

MAX_CHOICES = 30
"""A column of more different texts is shown, but not offered as a filter."""


@dataclass(frozen=True)
class Filter:
    """A column that results can be limited by.

    Attributes:
        column: Its name.
        choices: The texts in it; none for a range.
        bounds: Lowest and highest value of a range; None for texts.
    """

    column: str
    choices: tuple[str, ...] = ()
    bounds: tuple[str, str] | None = None


def filters_of(columns: Mapping[str, ColumnSummary]) -> tuple[Filter, ...]:
    """Choose the columns to filter by: texts with few values, and ranges of times and numbers.

    Args:
        columns: `Gallery.columns`.
    """
    found = []
    for name, column in columns.items():
        if column.kind == "text" and column.values and 2 <= len(column.values) <= MAX_CHOICES:
            found.append(Filter(name, choices=tuple(column.values)))
        elif column.kind != "text" and column.lowest is not None and column.lowest != column.highest:
            found.append(Filter(name, bounds=(shown(column.lowest), shown(column.highest))))
    return tuple(found)


def shown(value: Any) -> str:
    """Write a value of the metadata for people: whole numbers and whole seconds without the zeros behind them."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).removesuffix(".000000")


def where_of(filters: Sequence[Filter], values: Sequence[Any]) -> dict[str, Any]:
    """Turn what was chosen into the conditions of a search; what is empty is no condition.

    Args:
        filters: Of `filters_of`.
        values: For each filter of texts a list, for each range two texts: from and to.
    """
    where: dict[str, Any] = {}
    rest = iter(values)
    for one in filters:
        if one.bounds is None:
            chosen = list(next(rest) or ())
            where |= {one.column: chosen} if chosen else {}
        else:
            ends = {"min": next(rest), "max": next(rest)}
            limits = {
                end: str(value).strip() for end, value in ends.items() if value is not None and str(value).strip()
            }
            where |= {one.column: limits} if limits else {}
    return where


def values_of(filters: Sequence[Filter], where: Mapping[str, Any]) -> list[Any]:
    """Turn conditions back into what is chosen in the fields of the page, in the order of `where_of`."""
    values: list[Any] = []
    for one in filters:
        wanted = where.get(one.column)
        if one.bounds is None:
            values.append(list(wanted) if isinstance(wanted, list) else [])
        else:
            limits = wanted if isinstance(wanted, Mapping) else {}
            values += [limits.get("min", ""), limits.get("max", "")]
    return values
