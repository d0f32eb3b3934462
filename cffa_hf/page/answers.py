"""What a query finds, and why: the searches of the page, without a page."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from PIL import Image

from cffa_hf.errors import InputError
from cffa_hf.inference.chosen_tokens import select
from cffa_hf.inference.views import chosen_view
from cffa_hf.inputs.images import read_image
from cffa_hf.modeling_cffa import CFFAModel
from cffa_hf.page.pictures import LARGE, THUMBNAIL, data_uri, file_uri
from cffa_hf.page.query import MAX_TEXT, Query
from cffa_hf.search.gallery import Gallery
from cffa_hf.search.results import SearchResult


@dataclass(frozen=True)
class Found:
    """One result as it is shown.

    Attributes:
        result: Of the gallery.
        place: 1 for the best.
        picture: Its thumbnail as a data URI; None if the file is gone or broken.
    """

    result: SearchResult
    place: int
    picture: str | None


@dataclass(frozen=True)
class Answer:
    """What a query found.

    Attributes:
        query: The query.
        found: The results, best first.
        problem: Why there are none, and what to do.
        refused: Whether the query itself was at fault, so that nothing was searched.
    """

    query: Query = field(default_factory=Query)
    found: tuple[Found, ...] = ()
    problem: str = ""
    refused: bool = False


@dataclass(frozen=True)
class Explanation:
    """Why an image is among the results.

    Attributes:
        found: The result.
        picture: The image as a data URI; None if the file is gone or broken.
        patches: The same, only with the patches that the model chose; None without a sentence.
        chosen: How many patches were chosen, and of how many.
        words: Words of the sentence, their attention as a share of the greatest, and whether they were chosen.
        problem: Why there are no patches and words.
    """

    found: Found
    picture: str | None
    patches: str | None = None
    chosen: tuple[int, int] = (0, 0)
    words: tuple[tuple[str, float, bool], ...] = ()
    problem: str = ""


class Searcher:
    """A gallery behind the page.

    Args:
        gallery: It is neither changed nor closed.
    """

    def __init__(self, gallery: Gallery):
        self.gallery = gallery

    def answer(self, query: Query) -> Answer:
        """Search; what is wrong with a query is said in the answer.

        Args:
            query: Any, also an empty one.
        """
        if not len(self.gallery):
            return Answer(query, problem="This gallery is empty: embed a folder of images into it and start again.")
        if query.is_empty:
            problem = "Type a sentence that describes a person, or choose a picture."
            return Answer(query, problem=problem, refused=True)
        if len(query.text) > MAX_TEXT:
            return Answer(query, problem=f"A sentence has at most {MAX_TEXT:,} characters; shorten it.", refused=True)
        try:
            results = self._search(query)
        except InputError as error:
            return Answer(query, problem=str(error), refused=True)
        if not results:
            return Answer(query, problem="No picture fits these filters: remove one of them.")
        thumbnails = (self._picture(result.id, THUMBNAIL) for result in results)
        return Answer(
            query,
            tuple(
                Found(result, place, picture)
                for place, (result, picture) in enumerate(zip(results, thumbnails, strict=True), start=1)
            ),
        )

    def _search(self, query: Query) -> list[SearchResult]:
        options: Mapping[str, Any] = {"where": dict(query.where) or None}
        if query.like:
            known = self.gallery.items.ids_of([query.like])
            if query.like not in known:
                raise InputError(f"The gallery holds no picture {query.like[:200]!r}; search by a sentence.")
            return self.gallery.search_like(known[query.like], query.count, **options)
        if query.picture:
            text = query.text or None
            return self.gallery.search_image(
                query.picture, query.count, text=text, text_weight=query.text_weight, **options
            )
        return self.gallery.search(query.text, query.count, **options)

    def explain(self, query: Query, found: Found) -> Explanation:
        """Show what of an image and of the sentence the model compared.

        Args:
            query: The query that found it.
            found: The result.
        """
        picture = self._picture(found.result.id, LARGE)
        if picture is None:
            return Explanation(
                found, None, problem="Its file is gone or broken: put it back, or embed the gallery's folder again."
            )
        if not query.text:
            return Explanation(found, picture, problem="Search by a sentence to see what the model compared.")
        path, embedder = self.gallery.image_path(found.result.id), self.gallery.embedder
        model = cast(CFFAModel, embedder.model)
        try:
            selection = select(model, embedder.processor, path, query.text)
        except InputError as error:
            return Explanation(found, picture, problem=str(error))
        shape = read_image(path)
        shape.thumbnail((LARGE, LARGE))
        view = Image.fromarray(chosen_view(selection)).resize(shape.size, Image.Resampling.BICUBIC)
        most = max(selection.attention, default=0.0) or 1.0
        words = zip(
            selection.words, (value / most for value in selection.attention), selection.chosen_words, strict=True
        )
        patches = selection.chosen_patches
        return Explanation(
            found, picture, data_uri(view, LARGE), (int(patches.sum()), patches.numel()), words=tuple(words)
        )

    def _picture(self, item: int, side: int) -> str | None:
        """Make the data URI of an image; None if its file is gone, broken, or outside the gallery's folder."""
        try:
            return file_uri(self.gallery.image_path(item), side)
        except InputError:
            return None
