"""What a run says of the data that it has read."""

import pytest

from cffa_hf.arguments.data import TrainingDataArguments
from cffa_hf.data.division import Division, PersonDatasetDict
from cffa_hf.training.run_data import DataPart, RunData, shard_source, tell_people
from tests.tiny import person_rows


@pytest.mark.parametrize(("people", "warned"), [(1, True), (49, True), (50, False)])
def test_few_people_are_told(caplog, people, warned):
    data = PersonDatasetDict({"train": person_rows(people, 1)}, Division(how="source"))
    tell_people(RunData((DataPart("mine", False, data),), data))
    assert ("to train on: with fewer than 50" in caplog.text) == warned
    assert (f"{people:,} identit" in caplog.text) == warned


@pytest.mark.parametrize(
    ("dataset", "root", "place"),
    [
        ("set", None, "set"),
        ("set", "data", "data/set"),
        ("set", "s3://bucket", "s3://bucket/set"),
        ("/disk/set", "data", "/disk/set"),
        ("~/set", "data", "~/set"),
        ("hf://datasets/owner/name", "data", "hf://datasets/owner/name"),
    ],
)
def test_a_stream_is_looked_for_where_other_data_would_be(dataset, root, place):
    assert shard_source(TrainingDataArguments(dataset=dataset, dataset_root=root)) == place
