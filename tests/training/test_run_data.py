"""What a run says of the data that it has read."""

import pytest

from cffa_hf.data.division import Division, PersonDatasetDict
from cffa_hf.training.run_data import DataPart, RunData, tell_people
from tests.tiny import person_rows


@pytest.mark.parametrize(("people", "warned"), [(1, True), (49, True), (50, False)])
def test_few_people_are_told(caplog, people, warned):
    data = PersonDatasetDict({"train": person_rows(people, 1)}, Division(how="source"))
    tell_people(RunData((DataPart("mine", False, data),), data))
    assert ("to train on: with fewer than 50" in caplog.text) == warned
    assert (f"{people:,} identit" in caplog.text) == warned
