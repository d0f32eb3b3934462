import json

import pytest
import torch

from cffa_hf.data.loading import load_person_dataset
from cffa_hf.demo import write_demo_dataset
from cffa_hf.errors import InputError
from cffa_hf.evaluation.slices import attribute_groups, length_groups, query_groups, slice_metrics
from cffa_hf.metrics.averages import retrieval_metrics
from cffa_hf.metrics.ranking import MatchRanks
from tests.tiny import person_rows


@pytest.fixture
def demo(tmp_path):
    write_demo_dataset(tmp_path, identities=(1, 1, 5), workers=1)
    return load_person_dataset("cuhk_pedes", tmp_path)["test"], tmp_path / "CUHK-PEDES" / "attributes.jsonl"


def test_slices_average_their_own_queries_and_leave_out_small_ones():
    ranks = MatchRanks.from_lists([[1], [2], [1], [4], [], [1], [3]], range(7), 10)
    marks = torch.tensor([True, False, True, True, True, True, True])
    slices = slice_metrics(ranks, {"many": marks, "few": ~marks})
    assert list(slices) == ["many"]
    assert slices["many"]["queries"] == 5
    assert slices["many"]["rank1"] == pytest.approx(60)
    everything = slice_metrics(ranks, {"all": torch.ones(7, dtype=torch.bool)})["all"]
    assert everything["mAP"] == pytest.approx(retrieval_metrics(ranks)["mAP"])


def test_lengths_divide_the_captions(demo):
    rows, _ = demo
    groups = length_groups(rows)
    assert torch.equal(sum(marks.int() for marks in groups.values()), torch.ones(40, dtype=torch.int32))
    words = [len(text.split()) for texts in rows["captions"] for text in texts]
    assert next(iter(groups)).startswith(str(min(words)))
    equal = person_rows(identities=2).map(lambda row: {"captions": ["three plain words"]})
    assert list(length_groups(equal)) == ["3 words"]


def test_attributes_come_from_the_demo(demo):
    rows, path = demo
    groups = attribute_groups(rows)
    lines = {line["file_path"]: line for line in map(json.loads, path.read_text().splitlines())}
    mentions = [names for file_path in rows["file_path"] for names in lines[file_path]["mentions"]]
    assert groups["mentions upper color"].tolist() == ["upper_color" in names for names in mentions]
    facings = [lines[file_path]["view"]["facing"] for file_path in rows["file_path"] for _ in range(2)]
    assert groups["facing back"].tolist() == [facing == "back" for facing in facings]


def test_without_attributes_there_are_lengths_only(demo):
    rows, path = demo
    path.unlink()
    assert attribute_groups(rows) == {}
    assert list(query_groups(person_rows(identities=2))) == list(length_groups(person_rows(identities=2)))


@pytest.mark.parametrize("content", ["nonsense", '{"file_path": "other.jpg", "mentions": []}'])
def test_a_broken_file_is_named(demo, content):
    rows, path = demo
    path.write_text(content)
    with pytest.raises(InputError, match=r"attributes\.jsonl"):
        attribute_groups(rows)
