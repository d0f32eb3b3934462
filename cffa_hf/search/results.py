"""What a search returns, and what is known of the columns of a gallery."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SearchResult:
    """One image that was found.

    Attributes:
        path: Of the image, as the gallery knows it.
        score: Of the query and the image, in [-1, 1].
        id: Number of the image in the gallery; it keeps it for ever.
        metadata: Its columns, such as camera and time.
    """

    path: str
    score: float
    id: int = -1
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ColumnSummary:
    """A column of metadata, for those who offer filters.

    Attributes:
        name: Of the column.
        kind: "text", "number" or "time".
        values: Distinct values of a text column in order, or None if there are more than 1,000.
        lowest: Of a column of numbers or times.
        highest: Of a column of numbers or times.
    """

    name: str
    kind: str
    values: tuple[str, ...] | None = None
    lowest: float | str | None = None
    highest: float | str | None = None
