"""One suite over all indexes: `back_end` makes one from vectors and metadata."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cffa_hf.errors import InputError
from cffa_hf.search.filters import parse_filter
from cffa_hf.search.indexes import ExactIndex, FaissIndex, faiss_index
from cffa_hf.search.indexes.exact import search_rows
from cffa_hf.search.indexes.faiss_index import build_codes, choose_candidates, read_codes, recall_of, stand_in_queries
from cffa_hf.search.items import Items

WIDTH, COUNT = 96, 400


def unit_rows(count, seed, width=WIDTH):
    rows = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def metadata_of(count):
    return [{"camera": f"cam_{number % 7}", "floor": number % 5} for number in range(count)]


class Embedded:
    """An index within the process, over a table of images."""

    def __init__(self, kind, folder):
        self.kind, self.items, self.index = kind, Items(folder, WIDTH, create=True), None

    def add(self, vectors, metadata):
        first = self.items.rows
        ids = np.array(
            self.items.append([f"{first + number}.jpg" for number in range(len(vectors))], vectors, metadata)
        )
        if self.index is None:
            codes = build_codes(self.items) if self.kind == "faiss" else None
            self.index = FaissIndex(self.items, codes, 10**6) if codes else ExactIndex(self.items)
        self.index.add(ids, vectors, metadata)
        return ids

    def remove(self, ids):
        self.index.remove(ids)
        self.items.remove(ids.tolist())

    def conditions(self, where):
        return parse_filter(where, self.items.kinds)


@pytest.fixture(params=["exact", "faiss"])
def back_end(request, tmp_path, monkeypatch):
    monkeypatch.setattr(faiss_index, "FEW_FILTERED", 20)  # so that filters go through the codes
    (tmp_path / "items").mkdir()
    end = Embedded(request.param, tmp_path / "items")
    yield end
    end.index.close()
    end.items.close()


def slow_search(vectors, queries, k, allowed):
    """Sort by score and id, in plain Python."""
    half = vectors.astype(np.float16).astype(np.float64)
    answers = []
    for query in queries.astype(np.float64):
        scored = sorted((-float(half[number] @ query), number) for number in allowed)
        answers.append([number for _, number in scored[:k]])
    return answers


@pytest.mark.parametrize(
    ("where", "allowed"),
    [
        (None, lambda number: True),
        ({"camera": "cam_3"}, lambda number: number % 7 == 3),
        ({"camera": ["cam_3", "cam_0"], "floor": {"min": 1, "max": 3}}, lambda n: n % 7 in (3, 0) and 1 <= n % 5 <= 3),
        ({"floor": {"min": 2}}, lambda number: number % 5 >= 2),
        ({"camera": "nowhere"}, lambda number: False),
    ],
)
def test_the_best_are_found_under_every_filter(back_end, where, allowed):
    vectors, queries = unit_rows(COUNT, 0), unit_rows(5, 1)
    ids = back_end.add(vectors, metadata_of(COUNT))
    assert len(back_end.index) == COUNT
    scores, found = back_end.index.search(queries, 10, back_end.conditions(where))
    expected = slow_search(vectors, queries, 10, [number for number in range(COUNT) if allowed(number)])
    place_of = {number: place for place, number in enumerate(ids.tolist())}
    for query, (row, wanted) in enumerate(zip(found, expected, strict=True)):
        assert [place_of[number] for number in row.tolist() if number >= 0] == wanted
        assert (row[len(wanted) :] == -1).all()
        assert np.isneginf(scores[query, len(wanted) :]).all()
        assert np.allclose(scores[query, : len(wanted)], vectors[wanted] @ queries[query], atol=2e-3)
    assert (scores.dtype, found.dtype, found.shape) == (np.float32, np.int64, (5, 10))


def test_equal_scores_stand_in_the_order_of_ids(back_end):
    vectors = np.repeat(unit_rows(20, 3), 20, axis=0)
    ids = back_end.add(vectors, metadata_of(400))
    _, found = back_end.index.search(vectors[::20], 7)
    assert found.tolist() == [ids[start : start + 7].tolist() for start in range(0, 400, 20)]


def test_vectors_come_and_go(back_end):
    vectors = unit_rows(COUNT, 5)
    ids = back_end.add(vectors[:300], metadata_of(300))
    more = back_end.add(vectors[300:], metadata_of(100))
    assert not set(ids) & set(more)
    gone = ids[::3]
    back_end.remove(gone)
    assert len(back_end.index) == COUNT - len(gone)
    _, found = back_end.index.search(vectors, 1)
    for place, number in enumerate([*ids.tolist(), *more.tolist()]):
        assert (found[place, 0] == number) == (number not in gone)
    _, everything = back_end.index.search(vectors[:2], COUNT)
    assert (everything == -1).sum() == 2 * len(gone)
    assert not set(gone.tolist()) & set(everything.ravel().tolist())


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 10**6), st.booleans())
def test_exact_search_equals_sorting(count, k, seed, repeated):
    vectors = unit_rows(count, seed, 8)
    if repeated:
        vectors = vectors[np.random.default_rng(seed).integers(0, count, count)]
    half, queries = vectors.astype(np.float16), unit_rows(3, seed + 1, 8)
    scores, found = search_rows(half, queries, k)
    for query in range(3):
        one_by_one = np.einsum("ij,j->i", half.astype(np.float32), queries[query])
        order = np.argsort(-one_by_one, kind="stable")[:k]
        assert found[query, : len(order)].tolist() == order.tolist()
        assert scores[query, : len(order)].tolist() == one_by_one[order].tolist()


@pytest.fixture
def many(tmp_path):
    centres = unit_rows(600, 7, 512)
    vectors = np.repeat(centres, 5, axis=0) + 0.5 * unit_rows(3000, 8, 512)
    items = Items(tmp_path, 512, create=True)
    items.append(
        [f"{number}" for number in range(3000)], vectors / np.linalg.norm(vectors, axis=1, keepdims=True), [{}] * 3000
    )
    yield items
    items.close()


def test_recall_is_measured_and_candidates_follow_it(many):
    codes, queries = build_codes(many), stand_in_queries(many)
    assert np.allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-3)
    candidates, recall = choose_candidates(many, codes, queries)
    _, exact = search_rows(many.vectors, queries, 10)
    _, found = FaissIndex(many, codes, candidates).search(queries, 10)
    assert recall == recall_of(found, exact) >= 0.99
    few, _ = choose_candidates(many, codes, queries, goal=0.0)
    assert few == faiss_index.CANDIDATES[0]


def test_codes_are_kept_and_belong_to_their_vectors(many, tmp_path):
    import faiss

    codes, queries = build_codes(many), stand_in_queries(many)
    faiss.write_index(codes, str(tmp_path / "codes"))
    again = FaissIndex(many, read_codes(tmp_path / "codes", many))
    assert np.array_equal(again.search(queries, 10)[1], FaissIndex(many, codes).search(queries, 10)[1])
    for content in (b"", b"garbage", (tmp_path / "codes").read_bytes()[:5000]):
        (tmp_path / "broken").write_bytes(content)
        with pytest.raises(InputError, match="index the images again"):
            read_codes(tmp_path / "broken", many)
    other = Items(None, 512)
    with pytest.raises(InputError, match="other vectors"):
        read_codes(tmp_path / "codes", other)


def test_recall_counts_what_was_found():
    assert recall_of(np.array([[1, 2], [3, -1]]), np.array([[2, 5], [3, 4]])) == 0.5
    assert recall_of(np.array([[1, -1]]), np.array([[1, -1]])) == 1
