"""What the one thread of the service does: a batch of queries becomes answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cffa_hf.inputs.processor import encode_captions
from cffa_hf.search import Gallery, SearchResult


@dataclass(frozen=True)
class Wanted:
    """Which of the ranked images are wanted.

    Attributes:
        k: Images at most.
        where: Conditions as `Gallery.search` takes them.
        minimum_score: Images below it are left out.
    """

    k: int
    where: dict[str, Any] | None = None
    minimum_score: float | None = None


@dataclass(frozen=True)
class TextQuery:
    """Sentences; without `wanted` only their vectors are asked for."""

    texts: tuple[str, ...]
    wanted: Wanted | None


@dataclass(frozen=True)
class ImageQuery:
    """An image, alone or with a sentence."""

    image: Image.Image
    text: str | None
    text_weight: float
    wanted: Wanted


@dataclass(frozen=True)
class LikeQuery:
    """An image of the gallery, whose like is wanted."""

    item: int
    wanted: Wanted


Query = TextQuery | ImageQuery | LikeQuery


@dataclass(frozen=True)
class Outcome:
    """What became of one query.

    Attributes:
        results: One list for each sentence, or one list; empty where only vectors were asked for.
        vectors: Of its sentences, `(sentences, width)`; None of other queries.
        truncated: Whether each sentence was longer than the model reads.
    """

    results: list[list[SearchResult]]
    vectors: Tensor | None
    truncated: list[bool]


def size_of(query: Query) -> int:
    """Return how many sentences and images a query is."""
    return len(query.texts) if isinstance(query, TextQuery) else 1


def answer_batch(gallery: Gallery, queries: Sequence[Query]) -> list[Outcome | Exception]:
    """Answer queries together: their sentences are encoded at once, and searched at once where they want the same.

    Args:
        gallery: Used by no other thread meanwhile.
        queries: At least one.

    Returns:
        For each query its outcome, or the error that it alone caused.
    """
    together = [query for query in queries if isinstance(query, TextQuery)]
    try:
        found = iter(_answer_texts(gallery, together) if together else [])
    except Exception as error:
        if len(queries) == 1:
            return [error]
        # One of them may have spoilt the batch; the others shall not suffer for it.
        return [answer for query in queries for answer in answer_batch(gallery, [query])]
    return [next(found) if isinstance(query, TextQuery) else _answer_alone(gallery, query) for query in queries]


def _answer_texts(gallery: Gallery, queries: Sequence[TextQuery]) -> list[Outcome | Exception]:
    sentences = [text for query in queries for text in query.texts]
    vectors = gallery.embedder.captions(sentences)
    parts = vectors.split([len(query.texts) for query in queries])
    groups: dict[str, list[int]] = {}
    for place, query in enumerate(queries):
        groups.setdefault(repr(query.wanted), []).append(place)
    answers: list[Outcome | Exception] = [Outcome([], part, []) for part in parts]
    for places in groups.values():
        found = _search(gallery, queries[places[0]].wanted, [parts[place] for place in places])
        for place, results in zip(places, found, strict=True):
            if isinstance(results, Exception):
                answers[place] = results
            else:
                answers[place] = Outcome(results, parts[place], _truncated(gallery, queries[place].texts))
    return answers


def _search(gallery: Gallery, wanted: Wanted | None, parts: Sequence[Tensor]) -> Sequence[Any]:
    """Search for all vectors that want the same; gives each part its lists of results, or the error of all."""
    if wanted is None:
        return [[] for _ in parts]
    try:
        rows = gallery.search_vectors(
            torch.cat(list(parts)), wanted.k, where=wanted.where, minimum_score=wanted.minimum_score
        )
    except Exception as error:
        return [error] * len(parts)
    iterator = iter(rows)
    return [[next(iterator) for _ in part] for part in parts]


def _answer_alone(gallery: Gallery, query: ImageQuery | LikeQuery) -> Outcome | Exception:
    wanted = query.wanted
    options: dict[str, Any] = {"where": wanted.where, "minimum_score": wanted.minimum_score}
    try:
        if isinstance(query, LikeQuery):
            return Outcome([gallery.search_like(query.item, wanted.k, **options)], None, [False])
        results = gallery.search_image(query.image, wanted.k, text=query.text, text_weight=query.text_weight, **options)
        return Outcome([results], None, _truncated(gallery, [query.text or ""]))
    except Exception as error:
        return error


def _truncated(gallery: Gallery, texts: Sequence[str]) -> list[bool]:
    tokenizer = gallery.embedder.processor.tokenizer
    longest = tokenizer.model_max_length
    return [len(ids) > longest for ids in encode_captions(tokenizer, texts, longest + 1)]
