import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from cffa_hf.data.own_data import assign_splits, load_dataset_dict, load_folder
from cffa_hf.data.rows import PersonRow, divide_identities
from cffa_hf.errors import InputError


def make_entries(people: int = 10, **more: object) -> list[dict]:
    return [
        {"file_name": f"{i}_{n}.jpg", "captions": [f"person {i}", f"view {n}"], "person_id": i, **more}
        for i in range(people)
        for n in range(2)
    ]


def write_lines(folder: Path, entries: list, name: str = "metadata.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text("\n".join(json.dumps(entry) for entry in entries) + "\n", encoding="utf-8")
    return file


def write_csv(folder: Path, entries: list[dict]) -> Path:
    file = folder / "metadata.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(entries[0]))
        writer.writeheader()
        writer.writerows(entries)
    return file


def all_rows(data: DatasetDict) -> list[dict]:
    return sorted((row for split in data.values() for row in split), key=lambda row: row["image_id"])


def failure(folder: Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        load_folder(folder, **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_metadata_without_splits_are_divided_by_identity(tmp_path):
    write_lines(tmp_path, make_entries(20, camera=3))
    data = load_folder(tmp_path)
    people = {split: set(rows["person_id"]) for split, rows in data.items()}
    assert {split: len(ids) for split, ids in people.items()} == {"train": 16, "validation": 2, "test": 2}
    assert set.union(*people.values()) == set(range(20))
    rows = all_rows(data)
    assert rows[3] == {
        "image": {"bytes": None, "path": str(tmp_path / "1_1.jpg")},
        "captions": ["person 1", "view 1"],
        "person_id": 1,
        "image_id": 3,
        "file_path": "1_1.jpg",
        "camera": "3",
    }


def test_the_three_kinds_of_metadata_give_the_same_dataset(tmp_path):
    entries = make_entries(6, split="train")
    for kind in ("jsonl", "csv", "parquet"):
        (tmp_path / kind / "images").mkdir(parents=True)
    write_lines(tmp_path / "jsonl", entries)
    write_csv(tmp_path / "csv", [{**entry, "captions": json.dumps(entry["captions"])} for entry in entries])
    pq.write_table(pa.Table.from_pylist(entries), tmp_path / "parquet" / "metadata.parquet")
    results = [
        [{**row, "image": None} for row in all_rows(load_folder(tmp_path / kind))]
        for kind in ("jsonl", "csv", "parquet")
    ]
    assert results[0] == results[1] == results[2]
    assert len(results[0]) == 12


def test_rows_of_one_image_with_single_captions_become_one_row(tmp_path):
    entries = [
        {"file_name": f"{i}.jpg", "caption": f"caption {n}, of {i}", "person_id": i} for n in range(3) for i in range(4)
    ]
    write_csv(tmp_path, entries)
    rows = all_rows(load_folder(tmp_path))
    assert [row["captions"] for row in rows] == [[f"caption {n}, of {i}" for n in range(3)] for i in range(4)]
    assert [row["image_id"] for row in rows] == [0, 1, 2, 3]


@pytest.mark.parametrize("field", ["person_id", "split"])
def test_rows_of_one_image_must_agree(tmp_path, field):
    first = {"file_name": "a.jpg", "caption": "x", "person_id": 1, "split": "train"}
    file = write_lines(tmp_path, [first, {**first, field: "test" if field == "split" else 2}])
    message = failure(tmp_path)
    assert message.startswith(f"{file}: row 2 (image 'a.jpg') has the {field}")
    assert "row 1" in message


def test_splits_of_the_metadata_are_kept_and_validation_is_held_out_where_it_is_missing(tmp_path):
    entries = [{**entry, "split": "Train" if entry["person_id"] < 10 else "TEST"} for entry in make_entries(15)]
    write_lines(tmp_path, entries)
    data = load_folder(tmp_path)
    assert [len(set(data[split]["person_id"])) for split in ("train", "validation", "test")] == [9, 1, 5]
    assert "validation" not in load_folder(tmp_path, validation_identities=0)
    assert "divided into splits already" in failure(tmp_path, test_identities=3)


def test_some_rows_without_split_are_an_error(tmp_path):
    entries = make_entries(5, split="train")
    del entries[4]["split"]
    file = write_lines(tmp_path, entries)
    message = failure(tmp_path)
    assert message.startswith(f"{file}: row 5 (image '2_0.jpg') has no split")


def test_a_metadata_file_in_each_split_folder(tmp_path):
    write_lines(tmp_path / "train", make_entries(6))
    write_lines(tmp_path / "val", make_entries(2))
    file = write_lines(tmp_path / "test", make_entries(3))
    data = load_folder(tmp_path)
    assert {split: len(rows) for split, rows in data.items()} == {"train": 12, "validation": 4, "test": 6}
    assert data["test"][0]["file_path"] == "test/0_0.jpg"
    assert data["test"][0]["image"]["path"] == str(tmp_path / "test" / "0_0.jpg")
    assert data["test"]["image_id"][:] == list(range(16, 22))

    write_lines(tmp_path / "test", [*make_entries(1), {"file_name": "/x.jpg", "caption": "a", "person_id": 1}])
    message = failure(tmp_path)
    assert message.startswith(f"{file}: row 3 ")
    assert "absolute" in message


def test_identities_written_as_text_are_numbered_in_sorted_order(tmp_path):
    entries = make_entries(3)
    for entry, person in zip(entries, ["p7", "p7", "0012", "0012", "12", "12"], strict=True):
        entry["person_id"] = person
    write_lines(tmp_path, entries)
    assert [row["person_id"] for row in all_rows(load_folder(tmp_path))] == [2, 2, 0, 0, 1, 1]


def test_whole_numbers_written_as_text_stay_what_they_are(tmp_path):
    entries = [{**entry, "person_id": str(entry["person_id"] * 100)} for entry in make_entries(4)]
    write_lines(tmp_path, entries)
    assert {row["person_id"] for row in all_rows(load_folder(tmp_path))} == {0, 100, 200, 300}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"file_name": None}, ["has None as 'file_name'"]),
        ({"file_name": "../a.jpg"}, ["'../a.jpg'", "'..'"]),
        ({"captions": []}, ["has no captions"]),
        ({"captions": None}, ["no 'captions'"]),
        ({"captions": ["fine", ""]}, ["blank caption (number 2"]),
        ({"person_id": None}, ["no 'person_id'"]),
        ({"person_id": 1.5}, ["has 1.5 as 'person_id'"]),
        ({"person_id": True}, ["has True as 'person_id'"]),
        ({"split": "query"}, ["unknown split 'query'"]),
        ({"camera": [1]}, ["'camera'"]),
    ],
)
def test_a_bad_value_is_named_with_file_and_row(tmp_path, change, expected):
    entries = make_entries(5, split="train")
    entries[3] |= change
    file = write_lines(tmp_path, entries)
    message = failure(tmp_path)
    assert message.startswith(f"{file}: row 4 ")
    for words in expected:
        assert words in message


def test_missing_file_name_and_a_row_that_is_no_object(tmp_path):
    file = write_lines(tmp_path, [{"image": "a.jpg", "caption": "x", "person_id": 1}])
    assert failure(tmp_path).startswith(f"{file}: row 1 has no 'file_name'")
    write_lines(tmp_path, [*make_entries(1), 5])
    assert f"{file}: row 3 is 5, not an object" in failure(tmp_path)


def test_damaged_metadata(tmp_path):
    file = write_lines(tmp_path / "a", make_entries(2))
    file.write_text(file.read_text() + '\n{"file_name": "x')
    assert failure(tmp_path / "a").startswith(f"{file}: row 6 is no valid JSON")
    file.write_text("\n")
    assert "no rows" in failure(tmp_path / "a")
    file.write_bytes(b'{"caption": "caf\xe9"}')
    assert "UTF-8" in failure(tmp_path / "a")

    (tmp_path / "b").mkdir()
    file = tmp_path / "b" / "metadata.csv"
    file.write_text("file_name,caption,person_id\na.jpg,red, with a bag,1\n")
    assert f"{file}: row 2 (image 'a.jpg') has not the 3 fields" in failure(tmp_path / "b")
    file.write_text("file_name,captions,person_id\na.jpg,red,1\n")
    assert "no JSON list" in failure(tmp_path / "b")

    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "metadata.parquet").write_bytes(b"PAR1 no more")
    assert "metadata.parquet: the file cannot be read" in failure(tmp_path / "c")


def test_no_metadata_and_too_many(tmp_path):
    assert "metadata.jsonl, metadata.csv, metadata.parquet" in failure(tmp_path)
    write_lines(tmp_path, make_entries())
    (tmp_path / "metadata.csv").touch()
    assert "keep only one" in failure(tmp_path)


def test_too_few_people_to_divide(tmp_path):
    write_lines(tmp_path, make_entries(2))
    message = failure(tmp_path)
    assert "has 2 identities, too few" in message
    assert "0 leaves a split out" in message
    assert list(load_folder(tmp_path, validation_identities=0, test_identities=1)) == ["train", "test"]
    assert "0 or more" in failure(tmp_path, validation_identities=-1)


def make_dataset(people: int = 10, **columns: list) -> Dataset:
    entries = make_entries(people)
    images = [{"path": None, "bytes": bytes([i])} for i in range(len(entries))]
    data = {
        "image": images,
        "captions": [entry["captions"] for entry in entries],
        "person_id": [entry["person_id"] for entry in entries],
        **columns,
    }
    return Dataset.from_dict(data).cast_column("image", Image(decode=False))


def test_a_dataset_with_splits_keeps_them():
    data = load_dataset_dict(DatasetDict(train=make_dataset(8), val=make_dataset(2), test=make_dataset(3)), "mine")
    assert {split: len(rows) for split, rows in data.items()} == {"train": 16, "validation": 4, "test": 6}
    assert data["test"][1]["image"]["bytes"] == bytes([1])
    assert data["test"][1]["file_path"] == "test/1"
    assert data["test"].column_names == ["image", "captions", "person_id", "image_id", "file_path", "camera"]
    assert data["test"].features["image"].decode is False


def test_a_dataset_of_one_split_is_divided_and_every_image_keeps_its_caption():
    source = make_dataset(10, file_name=[f"{i}.png" for i in range(20)], image_id=[i + 100 for i in range(20)])
    reversed_rows = source.select(range(19, -1, -1))
    data = load_dataset_dict(DatasetDict(train=reversed_rows), "mine")
    assert set(data) == {"train", "validation", "test"}
    rows = all_rows(data)
    assert [row["image"]["bytes"][0] for row in rows] == list(range(20))
    assert [row["image_id"] for row in rows] == list(range(100, 120))
    assert [row["file_path"] for row in rows] == [f"{i}.png" for i in range(20)]
    assert all(row["captions"][0] == f"person {row['person_id']}" for row in rows)


def test_what_was_saved_in_the_dataset_form_comes_back_equal(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (6, 8, 4, 3), np.uint8)
    for i, pixels in enumerate(images):
        PillowImage.fromarray(pixels).save(tmp_path / f"{i // 2}_{i % 2}.jpg", format="PNG")
    write_lines(tmp_path, make_entries(3, camera="c1"))
    data = load_folder(tmp_path)
    data.save_to_disk(str(tmp_path / "saved"))
    again = load_dataset_dict(DatasetDict.load_from_disk(str(tmp_path / "saved")), "saved")
    for split in data:
        assert again[split].remove_columns("image").to_list() == data[split].remove_columns("image").to_list()
        assert all(image["bytes"] for image in again[split]["image"])


def path_only(paths):
    """A dataset that names images instead of holding them."""
    images = [{"path": str(path), "bytes": None} for path in paths]
    people = [[f"person {i}"] for i in range(len(paths))]
    data = {"image": images, "captions": people, "person_id": list(range(len(paths)))}
    return Dataset.from_dict(data).cast_column("image", Image(decode=False))


def test_damaged_offsets_of_a_saved_dataset_are_refused_before_they_end_the_process(tmp_path):
    data = make_dataset(10, file_name=[f"{i * '0'}.png" for i in range(20)])
    data.save_to_disk(tmp_path / "saved")
    (file,) = (tmp_path / "saved").glob("*.arrow")
    offsets = data.data.column("file_name").chunk(0).buffers()[1].to_pybytes()[: 4 * 21]
    content = file.read_bytes()
    assert content.count(offsets) == 1
    file.write_bytes(content.replace(offsets, offsets[:8] + b"\xff" * 4 + offsets[12:]))
    with pytest.raises(InputError, match="Arrow files are damaged"):
        load_dataset_dict(Dataset.load_from_disk(tmp_path / "saved"), "saved")


def test_a_dataset_may_only_name_images_in_its_own_folder(tmp_path):
    folder = tmp_path / "saved"
    (folder / "imgs").mkdir(parents=True)
    for place in range(4):
        PillowImage.new("RGB", (4, 8), (place, 0, 0)).save(folder / "imgs" / f"{place}.png")
    secret = tmp_path / "secret.png"
    PillowImage.new("RGB", (4, 8)).save(secret)
    (folder / "imgs" / "link.png").symlink_to(secret)
    inside = ["imgs/0.png", "imgs/1.png", "imgs/2.png", str(folder / "imgs" / "3.png")]
    data = load_dataset_dict(DatasetDict(train=path_only(inside)), "mine", folders=[folder])
    paths = [row["image"]["path"] for row in all_rows(data)]
    assert sorted(paths) == [str(folder / "imgs" / f"{place}.png") for place in range(4)]
    outside = [str(secret), "../secret.png", "imgs/link.png", "/etc/hostname", "hf://datasets/a/b/c.png", "", "a\0b"]
    for path in outside[:4] + outside[5:]:
        with pytest.raises(InputError, match=r"mine \(train\): row 3 .*outside of the dataset"):
            load_dataset_dict(DatasetDict(train=path_only([*inside[:3], path])), "mine", folders=[folder])
    for path in outside:
        with pytest.raises(InputError, match="outside of the dataset"):
            load_dataset_dict(DatasetDict(train=path_only([path] * 4)), "mine")


def test_errors_of_a_dataset_name_its_split_and_row():
    broken = make_dataset(3).to_dict()
    broken["captions"][4] = []
    part = Dataset.from_dict(broken).cast_column("image", Image(decode=False))
    with pytest.raises(InputError, match=r"mine \(test\): row 4 .*has no captions"):
        load_dataset_dict(DatasetDict(train=make_dataset(3), test=part), "mine")
    with pytest.raises(InputError, match=r"has no column 'image' .*captions, person_id"):
        load_dataset_dict(DatasetDict(train=make_dataset(3).remove_columns("image")), "mine")
    with pytest.raises(InputError, match=r"unknown split 'gallery'"):
        load_dataset_dict(DatasetDict(train=make_dataset(3), gallery=make_dataset(3)), "mine")
    with pytest.raises(InputError, match="holds no images"):
        load_dataset_dict(
            DatasetDict(train=Dataset.from_dict({"image": [1], "caption": ["a"], "person_id": [1]})), "mine"
        )


@given(
    identities=st.lists(st.integers(0, 10**6), min_size=3, max_size=60, unique=True),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_a_division_keeps_everybody_once_and_can_be_repeated(identities, seed, data):
    validation = data.draw(st.integers(0, len(identities) - 1))
    test = data.draw(st.integers(0, len(identities) - 1 - validation))
    division = divide_identities(identities, validation, test, seed)
    assert set(division) == set(identities)
    splits = list(division.values())
    assert splits.count("validation") == validation
    assert splits.count("test") == test
    assert splits.count("train") == len(identities) - validation - test
    shuffled = data.draw(st.permutations(identities))
    assert divide_identities(shuffled, validation, test, seed) == division


@settings(max_examples=50)
@given(people=st.lists(st.integers(0, 30), min_size=1, max_size=60), seed=st.integers(0, 1000))
def test_undivided_rows_are_all_kept_and_no_identity_crosses_the_splits(people, seed):
    rows = [
        PersonRow(image_id=i, file_path=f"{i}.jpg", captions=["a"], person_id=person) for i, person in enumerate(people)
    ]
    numbers = {"validation_identities": None, "test_identities": None, "seed": seed}
    if len(set(people)) < 3:
        with pytest.raises(InputError, match="too few"):
            assign_splits(rows, "here", **numbers)
        return
    divided = assign_splits(rows, "here", **numbers)
    assert [row.image_id for row in divided] == list(range(len(people)))
    assert {row.split for row in divided} == {"train", "validation", "test"}
    assert len({(row.person_id, row.split) for row in divided}) == len(set(people))
