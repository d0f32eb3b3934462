"""Single queries with what they found: for figures and reports."""

from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import torch

from cffa_hf.evaluation.evaluator import RetrievalEmbeddings
from cffa_hf.inputs.images import ImageSource
from cffa_hf.metrics.ranking import MatchRanks


@dataclass(frozen=True)
class RankedImage:
    """An image of the gallery as a query found it.

    Attributes:
        image: Whatever `read_image` takes.
        path: What the dataset calls it.
        rank: From 1.
        score: Of query and image, in [-1, 1].
        right: Whether it shows the person that the query describes.
    """

    image: ImageSource
    path: str
    rank: int
    score: float
    right: bool


@dataclass(frozen=True)
class RankedQuery:
    """A caption with the images that it found.

    Attributes:
        caption: The query.
        person_id: Of the person it describes.
        described: The image that the caption was written for.
        found: The best images, best first.
        match: The best image of that person, at the rank that the metrics count (the worst among equal scores).
    """

    caption: str
    person_id: int
    described: ImageSource
    found: list[RankedImage]
    match: RankedImage


def rank_queries(
    rows: datasets.Dataset, embeddings: RetrievalEmbeddings, ranks: MatchRanks, queries: Sequence[int], k: int = 10
) -> list[RankedQuery]:
    """Look up the best images of some captions.

    Args:
        rows: The split.
        embeddings: Of the split.
        ranks: Of the matches, text-to-image.
        queries: Numbers of captions that have a match.
        k: Images for each.
    """
    captions = rows["captions"][:]
    owner = np.repeat(np.arange(len(captions)), [len(texts) for texts in captions])
    first_of_row = np.searchsorted(owner, np.arange(len(captions)))
    result = []
    for query in queries:
        row, person_id = int(owner[query]), int(embeddings.text_ids[query])
        scores = embeddings.image @ embeddings.text[query]
        own = embeddings.image_ids == person_id
        match = int(torch.where(own, scores, -torch.inf).argmax())
        # Ties as the metrics count them: what is wrong stands first.
        order = np.lexsort((own.numpy(), -scores.numpy()))[:k]

        def ranked(index: int, rank: int, scores=scores, own=own) -> RankedImage:
            item = rows[index]
            return RankedImage(item["image"], item["file_path"], rank, float(scores[index]), bool(own[index]))

        result.append(
            RankedQuery(
                captions[row][query - first_of_row[row]],
                person_id,
                rows[row]["image"],
                [ranked(int(index), place) for place, index in enumerate(order, start=1)],
                ranked(match, int(ranks.ranks[ranks.offsets[query]])),
            )
        )
    return result


def sample_queries(ranks: MatchRanks, count: int, seed: int = 0) -> list[int]:
    """Draw queries at random, each of another person as far as there are enough, in ascending order."""
    evaluated = ranks.evaluated.numpy()
    shuffled = np.random.default_rng(seed).permutation(evaluated)
    people = ranks.query_ids.numpy()[shuffled]
    first = np.sort(np.unique(people, return_index=True)[1])
    rest = np.setdiff1d(np.arange(len(shuffled)), first)
    return sorted(shuffled[np.concatenate([first, rest])[:count]].tolist())


def hardest_queries(ranks: MatchRanks, count: int) -> list[int]:
    """Return the queries whose first match stands lowest, the worst one first, one for each person."""
    evaluated = ranks.evaluated
    first = ranks.ranks[ranks.offsets[evaluated]]
    chosen: dict[int, int] = {}
    for place in first.sort(descending=True, stable=True).indices.tolist():
        if len(chosen) == count or first[place] == 1:
            break
        query = int(evaluated[place])
        chosen.setdefault(int(ranks.query_ids[query]), query)
    return list(chosen.values())
