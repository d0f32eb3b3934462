"""k-reciprocal re-ranking against a slow reference that is written with sets, as the paper states it."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import cffa_hf.metrics.reranking as reranking_module
from cffa_hf.errors import InputError
from cffa_hf.metrics.averages import retrieval_metrics
from cffa_hf.metrics.ranking import match_ranks
from cffa_hf.metrics.reranking import KReciprocalReranking, neighbour_shares


def unit(count, width, seed):
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def reference_shares(gallery, k):
    """Neighbours of each item and their shares, one item at a time."""
    cosines = gallery @ gallery.T
    nearest = []
    for item in range(len(gallery)):
        others = sorted((j for j in range(len(gallery)) if j != item), key=lambda j: -float(cosines[item, j]))
        nearest.append([item, *others])

    def reciprocal(item, count):
        return {j for j in nearest[item][: count + 1] if item in nearest[j][: count + 1]}

    shares = []
    for item in range(len(gallery)):
        known = reciprocal(item, k)
        members = set(known)
        for neighbour in known:
            theirs = reciprocal(neighbour, round(k / 2))
            if 3 * len(theirs & known) >= 2 * len(theirs):
                members |= theirs
        weights = {j: math.exp(-(2 - 2 * float(cosines[item, j]))) for j in members}
        shares.append({j: weight / sum(weights.values()) for j, weight in weights.items()})
    return shares


def reference_similarity(scores, shares, k):
    rows = []
    for row in scores:
        best = row.topk(min(k, len(row))).indices.tolist()
        query: dict[int, float] = {}
        for item in best:
            for member, share in shares[item].items():
                query[member] = query.get(member, 0.0) + share / len(best)
        line = []
        for item in shares:
            smaller = sum(min(query.get(j, 0.0), item.get(j, 0.0)) for j in query.keys() | item.keys())
            larger = sum(max(query.get(j, 0.0), item.get(j, 0.0)) for j in query.keys() | item.keys())
            line.append(smaller / larger)
        rows.append(line)
    return torch.tensor(rows)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 24), st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**20))
def test_equals_the_reference(size, neighbours, query_neighbours, seed):
    gallery = unit(size, 4, seed)
    scores = unit(5, 4, seed + 1) @ gallery.T
    expected = reference_shares(gallery, neighbours)
    owners, members, shares = neighbour_shares(gallery, neighbours)
    found = [{} for _ in range(size)]
    for owner, member, share in zip(owners.tolist(), members.tolist(), shares.tolist(), strict=True):
        found[owner][member] = share
    assert [set(line) for line in found] == [set(line) for line in expected]
    for line, other in zip(found, expected, strict=True):
        assert all(math.isclose(line[j], other[j], rel_tol=1e-5) for j in line)
    reranking = KReciprocalReranking(gallery, neighbours=neighbours, query_neighbours=query_neighbours, weight=0.25)
    similarity = reference_similarity(scores, expected, query_neighbours)
    torch.testing.assert_close(reranking.similarity(scores), similarity, atol=1e-5, rtol=1e-5)
    mixed = scores.clone()
    reranking(mixed)
    torch.testing.assert_close(mixed, 0.75 * scores + 0.25 * similarity, atol=1e-5, rtol=1e-5)


def people(seed=0, count=60, images=4):
    """Images close to their person, captions further from it, in 24 dimensions."""
    centers = unit(count, 24, seed)
    ids = torch.arange(count).repeat_interleave(images)
    gallery = F.normalize(centers[ids] + 0.12 * torch.randn(len(ids), 24, generator=torch.Generator().manual_seed(1)))
    queries = F.normalize(centers + 0.3 * torch.randn(count, 24, generator=torch.Generator().manual_seed(2)), dim=1)
    return queries, F.normalize(gallery, dim=1), torch.arange(count), ids


def test_images_of_one_person_pull_each_other_up():
    queries, gallery, query_ids, gallery_ids = people()
    plain = retrieval_metrics(match_ranks(queries, gallery, query_ids, gallery_ids))
    reranking = KReciprocalReranking(gallery, neighbours=4)
    better = retrieval_metrics(match_ranks(queries, gallery, query_ids, gallery_ids, rerank=reranking))
    assert better["mAP"] > plain["mAP"] + 2
    assert better["mINP"] > plain["mINP"] + 2


def test_without_weight_nothing_changes():
    queries, gallery, query_ids, gallery_ids = people()
    plain = match_ranks(queries, gallery, query_ids, gallery_ids)
    nothing = KReciprocalReranking(gallery, weight=0.0)
    assert match_ranks(queries, gallery, query_ids, gallery_ids, rerank=nothing).tolist() == plain.tolist()


@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
def test_chunks_do_not_matter(chunk_size):
    queries, gallery, query_ids, gallery_ids = people()
    reranking = KReciprocalReranking(gallery)
    whole = match_ranks(queries, gallery, query_ids, gallery_ids, rerank=reranking)
    parts = match_ranks(queries, gallery, query_ids, gallery_ids, rerank=reranking, chunk_size=chunk_size)
    assert parts.tolist() == whole.tolist()


def test_copies_tie_in_every_order():
    gallery, ids = unit(1, 4, 0).repeat(30, 1), torch.tensor([7] * 3 + [8] * 27)
    for seed in range(5):
        order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
        reranking = KReciprocalReranking(gallery)
        assert match_ranks(unit(1, 4, 1), gallery, [7], ids[order], rerank=reranking).tolist() == [[28, 29, 30]]


def test_many_neighbours_are_compared_in_parts(monkeypatch):
    gallery = unit(40, 6, 0)
    whole = neighbour_shares(gallery, 12)
    monkeypatch.setattr(reranking_module, "COMPARED", 1)
    for one, other in zip(neighbour_shares(gallery, 12), whole, strict=True):
        torch.testing.assert_close(one, other)


def test_an_empty_gallery_and_bad_numbers():
    empty = KReciprocalReranking(torch.zeros(0, 4))
    assert match_ranks(unit(2, 4, 0), torch.zeros(0, 4), [1, 2], [], rerank=empty).tolist() == [[], []]
    with pytest.raises(InputError, match="knows 3 items"):
        KReciprocalReranking(unit(3, 4, 0))(torch.zeros(2, 5))
    with pytest.raises(InputError, match="shape"):
        KReciprocalReranking(torch.ones(3))
    for wrong in ({"neighbours": 0}, {"neighbours": 201}, {"query_neighbours": 0}, {"weight": 1.5}):
        with pytest.raises(InputError, match="Re-ranking needs"):
            KReciprocalReranking(unit(3, 4, 0), **wrong)
    assert KReciprocalReranking(unit(3, 4, 0)).settings["method"] == "k_reciprocal"
