"""The `evaluate` metric, loaded from the folder without network, equals the functions underneath."""

from pathlib import Path

import evaluate
import pytest
import torch

from cffa_hf.metrics.averages import retrieval_metrics
from cffa_hf.metrics.ranking import match_ranks
from cffa_hf.person_retrieval.person_retrieval import metrics_from_embeddings, metrics_from_match_ranks

REPOSITORY = Path(__file__).resolve().parents[1]
CASE = [[1, 2], [3], []]
SHARES = {"rank1": 50, "rank5": 100, "rank10": 100, "mAP": 200 / 3, "mINP": 200 / 3}
EXPECTED = {**SHARES, "queries": 2, "excluded_queries": 1}


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Load the metric as a user does at the repository's root, with caches of its own and no network."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)
    monkeypatch.setattr("evaluate.config.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return lambda name=None: evaluate.load("cffa_hf/person_retrieval", name, cache_dir=str(tmp_path / "cache"))


def test_match_ranks(load):
    metric = load()
    assert metric.compute(match_ranks=CASE) == pytest.approx(EXPECTED)
    assert metric.compute(match_ranks=CASE[::-1], ranks=(2, 3)).keys() >= {"rank2", "rank3"}
    for places in CASE:
        metric.add(match_ranks=places)
    assert metric.compute() == pytest.approx(EXPECTED)
    assert metrics_from_match_ranks(CASE) == pytest.approx(EXPECTED)


def test_embeddings(load):
    generator = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(12, 8, generator=generator), torch.randn(20, 8, generator=generator)
    ids = torch.arange(12) % 6, torch.arange(20) % 5
    ranks = match_ranks(queries, gallery, *ids)
    expected = retrieval_metrics(ranks)
    given = {"query_ids": ids[0].tolist(), "gallery_embeddings": gallery, "gallery_ids": ids[1]}
    assert load("embeddings").compute(query_embeddings=queries.numpy(), **given) == expected
    assert metrics_from_embeddings(query_embeddings=queries, **given) == expected
    assert load("match_ranks").compute(match_ranks=ranks.tolist()) == expected


def test_unknown_configuration(load):
    with pytest.raises(ValueError, match="match_ranks, embeddings"):
        load("cosine")
