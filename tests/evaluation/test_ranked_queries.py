import pytest
import torch

from cffa_hf.evaluation.evaluator import RetrievalEmbeddings
from cffa_hf.evaluation.ranked_queries import hardest_queries, rank_queries, sample_queries
from cffa_hf.metrics.ranking import MatchRanks
from tests.tiny import person_rows


@pytest.fixture(scope="module")
def rows():
    return person_rows(identities=3)


def embeddings(rows, scores):
    """Embeddings whose products are the wanted scores."""
    ids = torch.tensor(rows["person_id"][:])
    return RetrievalEmbeddings(scores, torch.eye(len(rows)), ids.repeat_interleave(2), ids)


def test_the_best_images_with_the_first_match(rows):
    scores = torch.zeros(12, 6)
    scores[4] = torch.tensor([0.5, 0.1, 0.2, 0.3, 0.9, 0.4])  # caption 4 belongs to image 2, of the second person
    embedded = embeddings(rows, scores)
    (query,) = rank_queries(rows, embedded, embedded.text_to_image(), [4], k=3)
    assert query.caption == rows[2]["captions"][0]
    assert [(image.path, image.rank, image.right) for image in query.found] == [
        ("4.png", 1, False),
        ("0.png", 2, False),
        ("5.png", 3, False),
    ]
    assert (query.match.path, query.match.rank, query.match.right) == ("3.png", 4, True)
    assert query.found[0].score == pytest.approx(0.9)


def test_what_is_drawn_agrees_with_the_metrics_on_ties(rows):
    embedded = embeddings(rows, torch.zeros(12, 6))
    ranks = embedded.text_to_image()
    for query in rank_queries(rows, embedded, ranks, range(12), k=6):
        first = next(image.rank for image in query.found if image.right)
        assert first == query.match.rank == 5


def test_drawn_queries_are_of_different_people_and_always_the_same():
    ranks = MatchRanks.from_lists([[1]] * 20 + [[]] * 5, [place // 4 for place in range(25)], 30)
    drawn = sample_queries(ranks, 5)
    assert len({place // 4 for place in drawn}) == 5
    assert drawn == sample_queries(ranks, 5) != sample_queries(ranks, 5, seed=1)
    assert drawn == sorted(drawn)
    assert len(sample_queries(ranks, 99)) == 20


def test_the_hardest_come_first_one_a_person():
    ranks = MatchRanks.from_lists([[9], [7, 8], [1], [3], [], [8]], [1, 1, 2, 3, 4, 5], 10)
    assert hardest_queries(ranks, 6) == [0, 5, 3]
    assert hardest_queries(ranks, 2) == [0, 5]
