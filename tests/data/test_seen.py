"""What a checkpoint has seen: divisions are repeated, shared people are found, whatever they are called."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from datasets import DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cffa_hf.data.division import PersonDatasetDict
from cffa_hf.data.fingerprints import dataset_fingerprint
from cffa_hf.data.loading import load_person_dataset
from cffa_hf.data.rows import SPLITS
from cffa_hf.data.seen import (
    SeenData,
    SeenSplit,
    Unrecorded,
    read_seen,
    seen_by_run,
    seen_dataset,
    unfair_parts,
)
from cffa_hf.errors import InputError
from cffa_hf.names import SEEN_RECORD
from cffa_hf.records.results import shared_sentence


def write_people(folder: Path, people: int = 10, images: int = 2, name: str = "p{:03d}", columns=None) -> Path:
    """A folder of people whose pictures all differ; `columns` gives more columns of a person."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for person in range(people):
        for image in range(images):
            file = folder / f"{person}-{image}.png"
            if not file.exists():
                colour = np.full((4, 2, 3), [person, image, 7], np.uint8)
                Image.fromarray(colour).save(file)
            row = {"file_name": file.name, "caption": f"person {person}", "person_id": name.format(person)}
            rows.append(row | (columns(person) if columns else {}))
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def people_of(data: DatasetDict) -> dict[str, set[str]]:
    """Captions name people, whatever their numbers are."""
    return {split: {texts[0] for texts in rows["captions"]} for split, rows in data.items()}


def seen(data: PersonDatasetDict, name: str = "people") -> SeenData:
    return SeenData(datasets=[seen_dataset(data, name, False)])


def test_another_seed_is_divided_as_the_run_did(tmp_path):
    folder = write_people(tmp_path / "people")
    run = load_person_dataset(folder, validation_identities=2, test_identities=3, seed=0)
    other = load_person_dataset(folder, seed=5)
    assert people_of(other) != people_of(run)
    divided = seen(run).divide(other, "people", False)
    assert {split: rows.to_list() for split, rows in divided.items()} == {
        split: rows.to_list() for split, rows in run.items()
    }
    assert divided.division == run.division
    assert "seed 0" in divided.division.sentence


def test_people_who_came_later_are_for_the_test_even_if_all_were_numbered_anew(tmp_path):
    folder = write_people(tmp_path / "people")
    record = seen(load_person_dataset(folder, seed=0))
    before = people_of(load_person_dataset(folder, seed=0))
    write_people(folder, people=14, name="p{:03d}")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for row in rows:
        row["person_id"] = {"p010": "a", "p011": "b"}.get(row["person_id"], row["person_id"])
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    divided = record.divide(load_person_dataset(folder, seed=3), "elsewhere", False)
    after = people_of(divided)
    assert after["train"] == before["train"]
    assert after["validation"] == before["validation"]
    assert after["test"] == before["test"] | {f"person {person}" for person in (10, 11, 12, 13)}
    assert record.shared_with(divided, "test", "elsewhere", False) == []


def test_people_and_images_of_train_in_test_are_found(tmp_path):
    folder = write_people(tmp_path / "people")
    run, other = load_person_dataset(folder, seed=0), load_person_dataset(folder, seed=5)
    both = people_of(other)["test"] & people_of(run)["train"]
    (shared,) = [part for part in seen(run).shared_with(other, "test", "people", False) if part.role == "trained"]
    assert len(shared.people) == len(both) > 0
    assert len(shared.images) == 2 * len(both)
    assert seen(run).shared_with(run, "test", "people", False) == []
    (chosen,) = seen(run).shared_with(run, "validation", "people", False)
    assert chosen.role == "chosen"


def test_new_images_of_a_trained_person_are_found_through_the_old_ones(tmp_path):
    folder = write_people(tmp_path / "people", columns=lambda person: {"split": "train" if person < 6 else "test"})
    record = seen(load_person_dataset(folder), "a name of its own")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    Image.new("RGB", (3, 5), "red").save(folder / "new.png")
    new = {"file_name": "new.png", "caption": "person 1", "person_id": "p001", "split": "test"}
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, [*rows, new])))
    (shared,) = record.shared_with(load_person_dataset(folder), "test", "people", False)
    assert (shared.people, shared.images) == ((1,), ())


def test_the_same_numbers_in_another_dataset_are_other_people(tmp_path):
    run = load_person_dataset(write_people(tmp_path / "people", name="{}"), seed=0)
    write_people(tmp_path / "others", name="{}")
    for file in (tmp_path / "others").glob("*.png"):
        Image.new("RGB", (3, 4), tuple(file.stat().st_ino >> shift & 255 for shift in (0, 8, 16))).save(file)
    others = load_person_dataset(tmp_path / "others", seed=5)
    assert seen(run).shared_with(others, "test", "others", False) == []
    assert seen(run).divide(others, "others", False) is others
    # Under the same name all images may have been saved anew: that the numbers agree is evidence enough.
    assert seen(run).shared_with(others, "test", "people", False)
    assert not seen(run).shared_with(others, "test", "people", rendered=True)


def test_a_source_that_divides_its_people_is_left_as_it_is(tmp_path):
    folder = write_people(tmp_path / "people", columns=lambda person: {"split": SPLITS[person % 3]})
    data = load_person_dataset(folder)
    assert data.division.how == "source"
    other = seen(load_person_dataset(write_people(tmp_path / "again"), seed=2))
    assert other.divide(data, "again", False) is data


@settings(max_examples=25, deadline=None)
@given(seeds=st.tuples(st.integers(0, 99), st.integers(0, 99)), numbers=st.tuples(st.integers(0, 3), st.integers(1, 3)))
def test_whatever_the_seed_nobody_who_was_seen_is_in_the_test(tmp_path_factory, seeds, numbers):
    folder = tmp_path_factory.getbasetemp() / "everybody"
    if not folder.exists():
        write_people(folder, images=1)
    options = {"validation_identities": numbers[0], "test_identities": numbers[1]}
    run = load_person_dataset(folder, seed=seeds[0], **options)
    divided = seen(run).divide(load_person_dataset(folder, seed=seeds[1]), "x", False)
    assert people_of(divided) == people_of(run)
    assert seen(run).shared_with(divided, "test", "x", False) == []


def test_weights_that_have_seen_the_test_people_are_refused_before_training(tmp_path):
    folder = write_people(tmp_path / "people")
    start = seen(load_person_dataset(folder, seed=0))
    data = load_person_dataset(folder, seed=5)
    with pytest.raises(
        InputError, match=r"shares 1 identity and 2 images that the checkpoint was trained on.*allow_shared"
    ):
        seen_by_run(data, "people", False, start=start)
    record = seen_by_run(data, "people", False, start=start, allow_shared_people=True)
    assert [len(dataset.splits) for dataset in record.datasets] == [3, 3]
    # Going on with the same division is fair: what chose the earlier weights chooses these.
    same = load_person_dataset(folder, seed=0)
    assert len(seen_by_run(same, "people", False, start=start).datasets) == 2


def test_a_resumed_run_keeps_its_data(tmp_path):
    folder = write_people(tmp_path / "people")
    data = load_person_dataset(folder, seed=0)
    first = seen_by_run(data, "people", False)
    assert seen_by_run(load_person_dataset(folder, seed=0), "people", False, resumed=first) is first
    with pytest.raises(InputError, match="not the one that the resumed run was trained with"):
        seen_by_run(load_person_dataset(folder, seed=5), "people", False, resumed=first)


def test_the_record_survives_its_file_and_damage_is_refused(tmp_path):
    data = load_person_dataset(write_people(tmp_path / "people"), seed=0)
    record = seen_by_run(data, "people", False)
    assert read_seen(tmp_path) is None
    record.write(tmp_path)
    assert read_seen(tmp_path) == record
    assert record.datasets[0].splits["test"].fingerprint == dataset_fingerprint(data["test"])
    for text in ("{", "[]", '{"format": 2, "datasets": []}', '{"format": 1, "datasets": [{}]}'):
        (tmp_path / SEEN_RECORD).write_text(text)
        with pytest.raises(InputError, match=r"seen\.json.*damaged"):
            read_seen(tmp_path)


def test_what_was_chosen_on_the_test_split_shares_it(tmp_path):
    data = load_person_dataset(write_people(tmp_path / "people"), validation_identities=2, test_identities=3)
    record = SeenData(datasets=[seen_dataset(data, "people", False, "test")])
    record.write(tmp_path)
    again = read_seen(tmp_path)
    assert again is not None
    assert again.selected_on == "test"
    (shared,) = again.shared_with(data, "test", "people", False)
    assert (shared.role, len(shared.people)) == ("chosen", 3)
    assert again.shared_with(data, "validation", "people", False) == []
    # Asked for, as the run was; but other weights may not be evaluated, or begun from, on what chose these.
    assert unfair_parts("test", [shared], again.selected_on) == []
    assert unfair_parts("test", [shared]) == [shared]
    with pytest.raises(InputError, match="the test split shares 3 identities"):
        seen_by_run(data, "people", False, start=again)


def test_a_run_goes_on_being_chosen_on_its_split(tmp_path):
    data = load_person_dataset(write_people(tmp_path / "people"), validation_identities=2, test_identities=3)
    record = SeenData(datasets=[seen_dataset(data, "people", False, "test")])
    assert seen_by_run(data, "people", False, resumed=record, selected_on="test") is record
    with pytest.raises(InputError, match="chosen on test: set select_on test"):
        seen_by_run(data, "people", False, resumed=record)


def test_a_split_of_very_many_images_is_recorded_by_its_fingerprint_alone(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("cffa_hf.data.seen.RECORDED_IMAGES", 5)
    data = load_person_dataset(write_people(tmp_path / "people"), validation_identities=1, test_identities=1)
    record = seen_dataset(data, "people", False)
    assert record.splits["train"].people == {}
    assert record.splits["test"].people
    assert "the train split has" in caplog.text
    rows = data["train"]
    assert seen_dataset(data, "people", False) == record
    for column, value in (("captions", ["another"]), ("person_id", 77), ("file_path", "elsewhere.jpg")):
        changed = rows.map(lambda row, place: {column: value if place == 3 else row[column]}, with_indices=True)  # noqa: B023
        other = seen_dataset(PersonDatasetDict({**data, "train": changed}, data.division), "people", False)
        assert other.splits["train"].fingerprint != record.splits["train"].fingerprint


def test_what_is_not_recorded_is_said_to_be_unknown(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("cffa_hf.data.seen.RECORDED_IMAGES", 5)
    data = load_person_dataset(write_people(tmp_path / "people"), validation_identities=1, test_identities=1)
    streamed = SeenSplit(fingerprint="0" * 16, people={}, unrecorded=5_000_000)
    stream = seen_by_run(PersonDatasetDict({}, data.division), "shards", False, streamed=streamed)
    record = SeenData(datasets=[*stream.datasets, seen_dataset(data, "people", False)])
    record.write(tmp_path)
    again = read_seen(tmp_path)
    assert again is not None
    told = [Unrecorded("trained", "shards", 5_000_000), Unrecorded("trained", "people", len(data["train"]))]
    assert again.unrecorded == told
    caplog.clear()
    seen_by_run(data, "people", False, start=stream)
    assert "among 5,000,000 images of shards that the checkpoint was trained on is unknown" in caplog.text
    entry = {"shared": [], "unrecorded": [asdict(part) for part in told]}
    assert "UNKNOWN whether its people are among 5,000,000 images of shards" in shared_sentence(entry)
    assert shared_sentence({"shared": [], "unrecorded": []}) == ""
    earlier = SeenData.model_validate(
        {"datasets": [{"name": "s", "rendered": False, "division": data.division, "splits": {}}]}
    )
    assert earlier.unrecorded == [Unrecorded("trained", "s", 0)]  # a stream, as it was recorded before
