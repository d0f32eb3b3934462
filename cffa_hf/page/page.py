"""What happens when something is pressed: from the state of a visit and an action to what is shown next."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from cffa_hf.errors import InputError
from cffa_hf.page import fragments
from cffa_hf.page.answers import Answer, Searcher
from cffa_hf.page.filters import filters_of, values_of, where_of
from cffa_hf.page.pictures import THUMBNAIL, data_uri, read_upload
from cffa_hf.page.query import COUNTS, History, Query, read_link
from cffa_hf.search.gallery import Gallery

EXAMPLES = (
    "a woman in a green coat and a gray skirt with brown shoes",
    "a man in a red t-shirt and black trousers who carries a backpack",
    "a person in blue jeans and a white shirt with a black hat",
)


@dataclass(frozen=True)
class Visit:
    """The state of one visitor.

    Attributes:
        history: What was asked.
        answer: Of the present query.
        picture: The uploaded picture that the next search uses.
        chosen: The id of the result that is explained; None if there is none.
        error: What was wrong with the last action.
    """

    history: History = field(default_factory=History)
    answer: Answer = field(default_factory=Answer)
    picture: Image.Image | None = None
    chosen: int | None = None
    error: str = ""


@dataclass(frozen=True)
class Fields:
    """What stands in the fields of the page.

    Attributes:
        text: The sentence.
        text_weight: Its share beside a picture.
        count: Number of results.
        filters: Of `where_of`.
    """

    text: str = ""
    text_weight: float = 0.5
    count: int = COUNTS[0]
    filters: Sequence[Any] = ()


class SearchPage:
    """The page of a gallery; it knows no web framework.

    Args:
        gallery: Of any size, also an empty one.
        sentences: Three examples.
    """

    def __init__(self, gallery: Gallery, sentences: Sequence[str] = EXAMPLES):
        self.gallery, self.sentences = gallery, tuple(sentences)
        self.searcher = Searcher(gallery)
        self.filters = filters_of(gallery.columns)

    def opened(self, parameters: Iterable[tuple[str, str]]) -> Visit:
        """Begin a visit with the query of a link; without one, with the examples only.

        Args:
            parameters: Of the link.
        """
        try:
            query = read_link(parameters)
        except InputError as error:
            return Visit(error=str(error))
        if query.is_empty:
            return Visit() if len(self.gallery) else Visit(answer=self.searcher.answer(query))
        return self._ask(Visit(), query)

    def searched(self, visit: Visit, fields: Fields) -> Visit:
        """Search for what stands in the fields, and for the uploaded picture; with neither, again for images like one."""
        if visit.history.query.like and not (fields.text.strip() or visit.picture):
            return self.refined(visit, fields)
        return self._ask_checked(visit, fields, text=fields.text.strip(), picture=visit.picture, like=None)

    def refined(self, visit: Visit, fields: Fields) -> Visit:
        """Search again for the present query with other filters, weight or number of results."""
        query = visit.history.query
        if query.is_empty:
            return replace(visit, error="")
        return self._ask_checked(visit, fields, text=query.text, picture=query.picture, like=query.like)

    def uploaded(self, visit: Visit, fields: Fields, content: bytes) -> Visit:
        """Search for a picture, and for the sentence if there is one."""
        try:
            picture = read_upload(content)
        except InputError as error:
            return replace(visit, error=str(error))
        return self.searched(replace(visit, picture=picture), fields)

    def acted(self, visit: Visit, fields: Fields, action: str, value: int) -> Visit:
        """Do what a button inside a part of the page asks for; what is no action changes nothing.

        Args:
            visit: The visit.
            fields: What stands in the fields.
            action: "example", "choose", "like", "undo", "recall" or "remove".
            value: The number of the example or the query, or the id of the result.
        """
        found = {one.result.id: one for one in visit.answer.found}
        if action == "example" and 0 <= value < len(self.sentences):
            example = replace(fields, text=self.sentences[value])
            return self.searched(replace(visit, picture=None), example)
        if action == "choose" and value in found:
            return replace(visit, chosen=value, error="")
        if action == "like" and value in found:
            like = found[value].result.path
            return self._ask_checked(replace(visit, picture=None), fields, text="", picture=None, like=like)
        if action == "undo" and visit.history.can_undo:
            history = visit.history.undone()
            return self._ask(replace(visit, history=history), history.query)
        if action == "recall" and 0 <= value < len(visit.history.recent):
            return self._ask(visit, visit.history.recent[value])
        if action == "remove" and visit.picture:
            without = replace(visit, picture=None)
            return self.searched(without, fields) if fields.text.strip() else without
        return visit

    def fields(self, visit: Visit) -> Fields:
        """Return what is to stand in the fields after something else than the fields chose the query."""
        query = visit.history.query
        return Fields(query.text, query.text_weight, query.count, values_of(self.filters, query.where))

    def parts(self, visit: Visit) -> dict[str, str]:
        """Write the parts of the page: `status`, `results`, `why`, `recent` and `uploaded`, as HTML."""
        labels = [one.column for one in self.filters if one.bounds is None]
        chosen = [one for one in visit.answer.found if one.result.id == visit.chosen]
        explanations = [self.searcher.explain(visit.answer.query, one) for one in chosen]
        return {
            "status": fragments.status(visit.answer, len(self.gallery), visit.history, error=visit.error),
            "results": fragments.results(visit.answer, chosen=visit.chosen, labels=labels),
            "why": "".join(map(fragments.why, explanations)) or fragments.hint(visit.answer),
            "recent": fragments.recent(visit.history),
            "uploaded": fragments.uploaded(data_uri(visit.picture, THUMBNAIL) if visit.picture else None),
        }

    def _ask_checked(self, visit: Visit, fields: Fields, **query: Any) -> Visit:
        try:
            where = where_of(self.filters, fields.filters)
        except InputError as error:
            return replace(visit, error=str(error))
        wanted = Query(text_weight=fields.text_weight, count=fields.count, where=where, **query)
        return self._ask(visit, wanted)

    def _ask(self, visit: Visit, query: Query) -> Visit:
        answer = self.searcher.answer(query)
        if answer.refused:
            return replace(visit, error=answer.problem)
        return Visit(visit.history.asked(query), answer, query.picture)
