"""A query of the page: what was asked, as a link, and in the history."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from PIL import Image

from cffa_hf.errors import InputError

COUNTS = (10, 20, 50)
MAX_TEXT = 2000
"""Characters of a sentence."""
REMEMBERED = 20
"""Queries that a history keeps."""


@dataclass(frozen=True)
class Query:
    """What is searched for: a sentence, a picture, both, or the neighbours of an image of the gallery.

    Attributes:
        text: The sentence; empty if there is none.
        picture: An uploaded picture; it is in no link.
        like: Path of the gallery's image whose neighbours are wanted; then there is neither sentence nor picture.
        text_weight: Share of the sentence where there is a picture too, in [0, 1].
        count: Number of results.
        where: Conditions, as `Gallery.search` takes them.
    """

    text: str = ""
    picture: Image.Image | None = None
    like: str | None = None
    text_weight: float = 0.5
    count: int = COUNTS[0]
    where: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to search for."""
        return not (self.text or self.picture or self.like)

    @property
    def title(self) -> str:
        """Say in a few words what is searched for."""
        if self.like:
            return f"pictures like {self.like}"
        if self.picture:
            return f"{self.text} + a picture" if self.text else "a picture"
        return self.text

    @property
    def conditions(self) -> list[str]:
        """Say in a few words what the results are limited to."""
        said = []
        for column, wanted in self.where.items():
            if isinstance(wanted, Mapping):
                said += [f"{column} from {wanted['min']}"] if "min" in wanted else []
                said += [f"{column} to {wanted['max']}"] if "max" in wanted else []
            else:
                said.append(f"{column} {' or '.join(map(str, wanted))}")
        return said


def link_of(query: Query) -> str:
    """Write a query as the parameters of a link, which `read_link` reads; an uploaded picture is left out."""
    pairs: list[tuple[str, str]] = []
    pairs += [("q", query.text)] if query.text else []
    pairs += [("like", query.like)] if query.like else []
    pairs += [("count", str(query.count))] if query.count != COUNTS[0] else []
    for column, wanted in query.where.items():
        if isinstance(wanted, Mapping):
            pairs += [(f"{end}.{column}", str(value)) for end, value in wanted.items()]
        else:
            pairs += [(f"is.{column}", str(value)) for value in wanted]
    return f"?{urlencode(pairs)}"


def read_link(parameters: Iterable[tuple[str, str]]) -> Query:
    """Read a query out of the parameters of a link; those that are none of the page's are passed over.

    Args:
        parameters: Names and values, in their order.

    Raises:
        InputError: If the link asks for a number of results that the page does not offer.
    """
    text, like, count = "", None, COUNTS[0]
    where: dict[str, Any] = {}
    for name, value in parameters:
        kind, _, column = name.partition(".")
        if name == "q":
            text = value.strip()
        elif name == "like":
            like = value
        elif name == "count":
            if value not in map(str, COUNTS):
                raise InputError(f"The link asks for {value[:20]!r} results; choose {', '.join(map(str, COUNTS))}.")
            count = int(value)
        elif column and kind == "is" and not isinstance(where.get(column), dict):
            where.setdefault(column, []).append(value)
        elif column and kind in ("min", "max") and not isinstance(where.get(column), list):
            where.setdefault(column, {})[kind] = value
    return Query(text="" if like else text, like=like, count=count, where=where)


@dataclass(frozen=True)
class History:
    """The queries of a visit.

    Attributes:
        stack: Those that lead to the present one, which is the last: undo goes back along it.
        recent: All of them, the latest first, each once.
    """

    stack: tuple[Query, ...] = ()
    recent: tuple[Query, ...] = ()

    @property
    def query(self) -> Query:
        """The present query; an empty one before the first."""
        return self.stack[-1] if self.stack else Query()

    @property
    def can_undo(self) -> bool:
        """Whether there is a query before the present one."""
        return len(self.stack) > 1

    def asked(self, query: Query) -> "History":
        """Add a query; the present one, asked again, changes nothing."""
        if self.stack and query == self.query:
            return self
        recent = (query, *(other for other in self.recent if other != query))
        return History((*self.stack, query)[-REMEMBERED:], recent[:REMEMBERED])

    def undone(self) -> "History":
        """Go back to the query before the present one, if there is one."""
        return replace(self, stack=self.stack[:-1]) if self.can_undo else self
