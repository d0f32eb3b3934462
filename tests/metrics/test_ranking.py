"""The metric core against the golden numbers and against a slow, obvious reference."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from cffa_hf.errors import InputError
from cffa_hf.metrics.averages import cumulative_match_curve, per_query, retrieval_metrics
from cffa_hf.metrics.ranking import MatchRanks, match_ranks, match_ranks_from_scores

KS = (1, 2, 5, 10)


def reference_ranks(scores, query_ids, gallery_ids, query_cameras=None, gallery_cameras=None):
    """Rank the matches as one would by hand: sort the items, the others before the matches among equal scores."""
    lists = []
    for i, identity in enumerate(query_ids):
        items = []
        for j, other in enumerate(gallery_ids):
            match = identity == other
            camera = query_cameras[i] if query_cameras else None
            if match and camera is not None and camera == gallery_cameras[j]:
                continue
            items.append((-scores[i][j], match))
        items.sort()
        lists.append([place for place, (_, match) in enumerate(items, start=1) if match])
    return lists


def reference_metrics(lists):
    lists = [places for places in lists if places]
    result = {f"rank{k}": 100 * sum(places[0] <= k for places in lists) / len(lists) for k in KS}
    precisions = [sum(j / place for j, place in enumerate(places, start=1)) / len(places) for places in lists]
    result["mAP"] = 100 * sum(precisions) / len(lists)
    result["mINP"] = 100 * sum(len(places) / places[-1] for places in lists) / len(lists)
    return result


@st.composite
def cases(draw):
    """Draw small integer embeddings, which give many ties and exact products, with identities and cameras."""
    queries, gallery = draw(st.integers(1, 7)), draw(st.integers(1, 12))
    width, values, identities = draw(st.integers(1, 3)), draw(st.integers(0, 2)), draw(st.integers(1, 5))

    def integers(count, low, high):
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    def cameras(count):
        return draw(st.lists(st.sampled_from(["c1", "c2", None]), min_size=count, max_size=count))

    return {
        "query": torch.tensor(integers(queries * width, -values, values)).view(queries, width).float(),
        "gallery": torch.tensor(integers(gallery * width, -values, values)).view(gallery, width).float(),
        "query_ids": integers(queries, 0, identities),
        "gallery_ids": integers(gallery, 0, identities),
        "query_cameras": cameras(queries),
        "gallery_cameras": cameras(gallery),
        "chunk_size": draw(st.none() | st.integers(1, queries + 1)),
    }


def check(result, expected, gallery_size):
    assert result.tolist() == expected
    assert result.gallery_size == gallery_size
    assert result.excluded_queries == sum(not places for places in expected)
    if not any(expected):
        with pytest.raises(InputError, match="No query has a match"):
            retrieval_metrics(result)
        return
    metrics = retrieval_metrics(result, KS)
    assert metrics.pop("excluded_queries") == sum(not places for places in expected)
    assert metrics.pop("queries") == sum(bool(places) for places in expected)
    assert metrics == pytest.approx(reference_metrics(expected), abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(cases())
def test_equals_the_reference(case):
    query, gallery, ids = case["query"], case["gallery"], (case["query_ids"], case["gallery_ids"])
    scores = query @ gallery.T
    expected = reference_ranks(scores.tolist(), *ids)
    chunk = {"chunk_size": case["chunk_size"]}
    check(match_ranks(query, gallery, *ids, **chunk), expected, len(gallery))
    check(match_ranks_from_scores(scores, *ids, **chunk), expected, len(gallery))


@settings(max_examples=100, deadline=None)
@given(cases())
def test_equals_the_reference_with_cameras(case):
    query, gallery, ids = case["query"], case["gallery"], (case["query_ids"], case["gallery_ids"])
    scores = query @ gallery.T
    cameras = {"query_cameras": case["query_cameras"], "gallery_cameras": case["gallery_cameras"]}
    expected = reference_ranks(scores.tolist(), *ids, *cameras.values())
    chunk = {"chunk_size": case["chunk_size"]}
    check(match_ranks(query, gallery, *ids, **cameras, **chunk), expected, len(gallery))
    check(match_ranks_from_scores(scores, *ids, **cameras, **chunk), expected, len(gallery))


@settings(max_examples=100, deadline=None)
@given(cases(), st.data())
def test_infinite_scores_are_ranked(case, data):
    scores = case["query"] @ case["gallery"].T
    low, high = data.draw(st.integers(0, 1)), data.draw(st.integers(0, 1))
    scores[scores < low - 1] = -torch.inf
    scores[scores > high] = torch.inf
    cameras = {"query_cameras": case["query_cameras"], "gallery_cameras": case["gallery_cameras"]}
    ids = (case["query_ids"], case["gallery_ids"])
    expected = reference_ranks(scores.tolist(), *ids, *cameras.values())
    check(match_ranks_from_scores(scores, *ids, **cameras), expected, len(case["gallery"]))


@settings(max_examples=30, deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_the_gallery_does_not_matter(case, random):
    order = list(range(len(case["gallery"])))
    random.shuffle(order)
    shuffled = [case["gallery_ids"][i] for i in order]
    first = match_ranks(case["query"], case["gallery"], case["query_ids"], case["gallery_ids"])
    second = match_ranks(case["query"], case["gallery"][order], case["query_ids"], shuffled)
    assert first.tolist() == second.tolist()


@pytest.mark.parametrize("name", ["0", "1", "2"])
@pytest.mark.parametrize("chunk_size", [None, 7])
def test_golden(golden_folder, name, chunk_size):
    tensors = load_file(golden_folder / "metrics_losses.safetensors")
    expected = json.loads((golden_folder / "metrics_losses.json").read_text())[name]
    ids = tensors[f"{name}.query_ids"], tensors[f"{name}.gallery_ids"]
    metrics = retrieval_metrics(match_ranks_from_scores(tensors[f"{name}.similarity"], *ids, chunk_size=chunk_size))
    assert {key: metrics[key] for key in expected} == pytest.approx(expected, abs=1e-3)


def test_a_constant_score_puts_matches_last():
    ranks = match_ranks(torch.ones(1, 4), torch.ones(10, 4), [3], [0, 3, 1, 2, 3, 0, 1, 2, 0, 1])
    assert ranks.tolist() == [[9, 10]]


@pytest.mark.parametrize(
    ("rows", "width", "queries", "extra"), [(77, 1536, 11, 1), (635, 229, 11, 1), (635, 1466, 11, 3)]
)
def test_equal_gallery_rows_get_equal_scores(rows, width, queries, extra):
    # At these sizes a plain matrix product gives some copies of a row another last bit than the original. Every row is
    # there twice, once as a match: the other copy stands before it, so that the matches have the even ranks. A few more
    # rows stand last.
    generator = torch.Generator().manual_seed(0)
    gallery = torch.cat([torch.randn(rows, width, generator=generator).repeat(2, 1), torch.zeros(extra, width)])
    query = torch.randn(queries, width, generator=generator)
    query[:, 0], gallery[:, 0], gallery[2 * rows :, 0] = 1, 0, -1e4
    order = torch.randperm(len(gallery), generator=generator)
    ids = (torch.arange(len(gallery)) < rows).long()
    ranks = match_ranks(query, gallery[order], [1] * queries, ids[order])
    assert torch.equal(ranks.ranks.view(queries, rows), torch.arange(2, 2 * rows + 1, 2).expand(queries, rows))


def test_copies_tie_whatever_their_sign_of_zero():
    gallery = torch.tensor([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0]])
    assert match_ranks(torch.tensor([[0.3, 0.7]]), gallery, [0], [0, 1, 2]).tolist() == [[2]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_types_of_embeddings_and_scores(dtype):
    generator = torch.Generator().manual_seed(1)
    query, gallery = (torch.randint(-3, 4, (count, 5), generator=generator) for count in (20, 30))
    ids = torch.arange(20) % 4, torch.arange(30) % 5
    expected = match_ranks(query.float(), gallery.float(), *ids).tolist()
    assert match_ranks(query.to(dtype), gallery.to(dtype), *ids).tolist() == expected
    scores = (query @ gallery.T).to(dtype)
    before = scores.clone()
    assert match_ranks_from_scores(scores, *ids).tolist() == expected
    assert torch.equal(scores, before)
    if dtype != torch.bfloat16:
        arrays = scores.numpy(), ids[0].numpy(), ids[1].numpy()
        assert match_ranks_from_scores(*arrays).tolist() == expected


@pytest.mark.parametrize("apart", [(False, False), (True, False), (False, True)])
def test_large_products_equal_those_of_integers(apart):
    generator = torch.Generator().manual_seed(0)
    queries, gallery = (torch.randint(-3, 4, (count, 256), generator=generator) for count in (97, 2100))
    query_ids, gallery_ids = torch.arange(97) % 30, torch.arange(2100) % 30
    floats = [
        part.T.float().contiguous().T if away else part.float()
        for part, away in zip((queries, gallery), apart, strict=True)
    ]
    assert tuple(not part.is_contiguous() for part in floats) == apart
    ranks = match_ranks(*floats, query_ids, gallery_ids)
    expected = reference_ranks((queries @ gallery.T).tolist(), query_ids.tolist(), gallery_ids.tolist())
    assert ranks.tolist() == expected


def test_large_numbers_are_finite_and_nan_is_no_camera():
    ranks = match_ranks(torch.tensor([[2e38, 2e38, 0.0]]), torch.eye(3) * 1e-3, [1], [1, 2, 1])
    assert ranks.tolist() == [[2, 3]]
    ranks = match_ranks(torch.tensor([[1e200]], dtype=torch.float64), torch.ones(1, 1), [1], [1])
    assert ranks.tolist() == [[1]]
    missing = float("nan")
    same = match_ranks(torch.ones(1, 1), torch.ones(1, 1), [1], [1], query_cameras=[missing], gallery_cameras=[missing])
    assert same.tolist() == [[1]]


def test_gradients_and_autocast_do_not_matter():
    query = torch.randn(6, 8, generator=torch.Generator().manual_seed(2))
    gallery = torch.randn(9, 8, generator=torch.Generator().manual_seed(3))
    ids = torch.arange(6) % 3, torch.arange(9) % 3
    expected = match_ranks(query, gallery, *ids).tolist()
    with torch.autocast("cpu"):
        assert match_ranks(query.requires_grad_(), gallery, *ids).tolist() == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu():
    generator = torch.Generator().manual_seed(4)
    query, gallery = (torch.randint(-3, 4, (count, 16), generator=generator).float() for count in (100, 300))
    ids = torch.arange(100) % 30, torch.arange(300) % 35
    cameras = {"query_cameras": torch.arange(100) % 3, "gallery_cameras": torch.arange(300) % 4}
    expected = match_ranks(query, gallery, *ids, **cameras).tolist()
    assert match_ranks(query.cuda(), gallery.cuda(), *ids, **cameras, chunk_size=17).tolist() == expected
    assert match_ranks_from_scores((query @ gallery.T).cuda(), *ids, **cameras).tolist() == expected


def test_textbook_values():
    ranks = MatchRanks.from_lists([[4, 1], [], [3]], [7, 8, 9], gallery_size=5)
    values = per_query(ranks, (1, 3, 99))
    assert ranks.evaluated.tolist() == [0, 2]
    assert values["rank1"].tolist() == [100, 0]
    assert values["rank3"].tolist() == values["rank99"].tolist() == [100, 100]
    assert values["mAP"].tolist() == pytest.approx([100 * (1 + 2 / 4) / 2, 100 / 3])
    assert values["mINP"].tolist() == pytest.approx([50, 100 / 3])
    assert cumulative_match_curve(ranks, 7).tolist() == [50, 50, 100, 100, 100, 100, 100]
    assert ranks.tolist() == [[1, 4], [], [3]]


@settings(max_examples=30, deadline=None)
@given(cases())
def test_curve_agrees_with_rank_k(case):
    ranks = match_ranks(case["query"], case["gallery"], case["query_ids"], case["gallery_ids"])
    if len(ranks.evaluated):
        metrics = retrieval_metrics(ranks, range(1, 16))
        assert cumulative_match_curve(ranks, 15).tolist() == pytest.approx([metrics[f"rank{k}"] for k in range(1, 16)])


def test_one_item_and_no_item():
    assert retrieval_metrics(match_ranks(torch.ones(1, 2), torch.ones(1, 2), [5], [5]))["mINP"] == 100
    for queries, gallery in ((0, 2), (2, 0), (0, 0)):
        scores = torch.zeros(queries, gallery)
        ranks = match_ranks_from_scores(scores, [1] * queries, [1] * gallery)
        assert ranks.tolist() == [[]] * queries
        with pytest.raises(InputError, match="No query has a match"):
            cumulative_match_curve(ranks)


def test_queries_whose_only_matches_share_their_camera_are_excluded():
    cameras = {"query_cameras": ["a", None], "gallery_cameras": ["a", None]}
    ranks = match_ranks(torch.ones(2, 2), torch.ones(2, 2), [1, 2], [1, 2], **cameras)
    assert ranks.tolist() == [[], [2]]


def valid():
    return {
        "query_embeddings": torch.ones(2, 3),
        "gallery_embeddings": torch.ones(4, 3),
        "query_ids": [1, 2],
        "gallery_ids": [1, 1, 2, 2],
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_embeddings": torch.ones(3)}, r"query_embeddings must be a tensor of the shape .*\(3,\)"),
        ({"gallery_embeddings": np.ones((4, 3))}, "gallery_embeddings must be a tensor .* ndarray"),
        ({"gallery_embeddings": torch.ones(4, 5)}, "same model"),
        ({"query_embeddings": torch.tensor([[1.0, 1, 1], [1, torch.nan, 1]])}, "Row 1 of query_embeddings"),
        ({"gallery_embeddings": torch.full((4, 3), torch.inf)}, "Row 0 of gallery_embeddings"),
        ({"query_ids": [1]}, "query_ids must hold one identity for each of the 2 items"),
        ({"gallery_ids": [0.5, 1, 2, 2]}, "gallery_ids must be integers"),
        ({"gallery_ids": ["a", "b", "c", "c"]}, "gallery_ids must be integers; number"),
        ({"gallery_ids": np.array(["a", "b", "c", "c"])}, "gallery_ids must be integers; number"),
        ({"query_cameras": [1, 2]}, "give both or neither"),
        ({"query_cameras": [1, 2], "gallery_cameras": [1]}, "gallery_cameras must hold one camera"),
        ({"chunk_size": 0}, "chunk_size must be at least 1"),
    ],
)
def test_bad_input_is_explained(change, message):
    with pytest.raises(InputError, match=message):
        match_ranks(**{**valid(), **change})


def test_bad_scores_and_arguments_are_explained():
    scores = np.zeros((3, 2), dtype=np.float32)
    scores[2, 0] = np.nan
    with pytest.raises(InputError, match="scores of query 2 hold NaN"):
        match_ranks_from_scores(scores, [1, 2, 3], [1, 2], chunk_size=2)
    with pytest.raises(InputError, match="shape"):
        match_ranks_from_scores(scores[0], [1], [1, 2])
    ranks = MatchRanks.from_lists([[1]], [0], gallery_size=1)
    with pytest.raises(InputError, match="at least 1"):
        retrieval_metrics(ranks, (0,))
    with pytest.raises(InputError, match="at least 1"):
        cumulative_match_curve(ranks, 0)
    for lists in ([[0]], [[3]], [[1, 1]], [[1.5]], [["1"]]):
        with pytest.raises(InputError, match="ranks of query 0"):
            MatchRanks.from_lists(lists, [0], gallery_size=2)
