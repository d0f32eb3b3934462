import json
from pathlib import Path

import pytest

from cffa_hf.checkpoints.provenance import Checkpoint
from cffa_hf.errors import InputError
from cffa_hf.metrics.ranking import MatchRanks
from cffa_hf.records.results import (
    comparison_entry,
    confidence_entry,
    entry_key,
    read_splits,
    reranking_entry,
    split_entry,
    write_results,
)
from cffa_hf.reporting.tables import comparison_table, format_table, metrics_table, slices_table, stress_table

TEXT = MatchRanks.from_lists([[1], [2], [1, 3], []], [1, 1, 2, 9], 3)
IMAGE = MatchRanks.from_lists([[1, 2], [3], []], [1, 2, 3], 4)
WORSE = MatchRanks.from_lists([[2], [3], [2, 3], []], [1, 1, 2, 9], 3)


def checkpoint(weights="abc"):
    return Checkpoint("run", Path("run"), None, None, None, weights, "validation")


def entry(dataset="cuhk_pedes", split="test"):
    return split_entry(dataset, split, "0123456789abcdef", TEXT, IMAGE)


def test_an_entry_counts_what_was_left_out():
    counts = entry()["counts"]
    assert counts == {"identities": 3, "images": 3, "captions": 4, "excluded_captions": 1, "excluded_images": 1}
    assert entry()["text_to_image"]["rank1"] == pytest.approx(200 / 3)
    assert set(entry()["image_to_text"]) == {"rank1", "rank5", "rank10", "mAP", "mINP"}


def test_another_split_joins_the_file_and_the_same_replaces(tmp_path):
    write_results(tmp_path, checkpoint(), {"test": entry()})
    write_results(tmp_path, checkpoint(), {"validation": entry(split="validation")})
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["format"] == 1
    assert results["selected_on"] == "validation"
    assert list(results["splits"]) == ["test", "validation"]
    assert results == write_results(tmp_path, checkpoint(), {"test": entry()})
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_results_of_other_weights_are_not_mixed(tmp_path):
    write_results(tmp_path, checkpoint("old"), {"test": entry()})
    write_results(tmp_path, checkpoint("new"), {"validation": entry(split="validation")})
    assert list(read_splits(tmp_path, checkpoint("new"))) == ["validation"]
    (tmp_path / "results.json").write_text("broken")
    assert read_splits(tmp_path, checkpoint("new")) == {}


def test_other_datasets_have_keys_of_their_own():
    assert entry_key({}, {}, "cuhk_pedes", "test") == "test"
    earlier = {"validation": entry(split="validation")}
    assert entry_key(earlier, {}, "cuhk_pedes", "test") == "test"
    assert entry_key(earlier, {}, "rstpreid", "test") == "rstpreid/test"


def test_two_datasets_of_one_name_both_stay():
    taken = {"test": entry()}
    assert entry_key(taken, taken, "cuhk_pedes", "test") == "cuhk_pedes/test/2"
    taken["cuhk_pedes/test/2"] = entry()
    assert entry_key(taken, taken, "cuhk_pedes", "test") == "cuhk_pedes/test/3"
    assert [line[0] for line in metrics_table(taken)[1::2]] == ["cuhk_pedes/test", "cuhk_pedes/test/2"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="output_dir"):
        write_results(tmp_path / "file", checkpoint(), {})


def test_confidence_and_comparison():
    confidence = confidence_entry(TEXT, IMAGE)
    low, high = confidence["text_to_image"]["rank1"]
    assert low <= entry()["text_to_image"]["rank1"] <= high
    comparison = comparison_entry(checkpoint(), (WORSE, IMAGE), (TEXT, IMAGE))
    values = comparison["text_to_image"]["rank1"]
    assert values["this"] - values["other"] == pytest.approx(values["difference"]) == pytest.approx(200 / 3)
    assert comparison["image_to_text"]["mAP"]["p_value"] == 1
    json.dumps([confidence, comparison])
    lines = comparison_table(comparison)
    assert lines[1][:5] == ["text-to-image", "Rank-1", "0.00", "66.67", "+66.67 [+50.00, +100.00]"]
    reranking = reranking_entry({"method": "k_reciprocal", "neighbours": 8}, (WORSE, IMAGE), (TEXT, IMAGE))
    del comparison["other"]
    assert reranking == {"method": "k_reciprocal", "neighbours": 8, **comparison}
    assert comparison_table(reranking, ("plain", "re-ranked"))[0][2:4] == ["plain", "re-ranked"]
    shown = metrics_table({"test": {**entry(), "confidence": confidence}})
    assert shown[1][2].startswith("66.67 [")


def test_tables():
    lines = metrics_table({"test": entry(), "rstpreid/test": entry("rstpreid")})
    assert lines[0][2:] == ["Rank-1", "Rank-5", "Rank-10", "mAP", "mINP", "queries", "gallery"]
    assert [line[0] for line in lines[1:]] == ["cuhk_pedes/test"] * 2 + ["rstpreid/test"] * 2
    assert lines[1][-2:] == ["3", "3"]
    assert lines[2][-2:] == ["2", "4"]
    baseline = entry()["text_to_image"]
    worse = {**baseline, "rank1": 50.0}
    assert stress_table({"captions": {"typos": {"10% of words": worse}}}, baseline)[2][-1] == "16.67"
    assert slices_table({"5 words": {**baseline, "queries": 3}})[1][0] == "5 words"
    text = format_table([["a", "bb"], ["ccc", "1"]])
    assert text.splitlines() == ["a    bb", "-------", "ccc   1"]
