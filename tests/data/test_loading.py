import json
from pathlib import Path

import datasets
import pytest

from cffa_hf.data.loading import load_person_dataset
from cffa_hf.data.own_data import load_folder
from cffa_hf.errors import InputError


def write_benchmark(root: Path) -> Path:
    folder = root / "RSTPReid"
    (folder / "imgs").mkdir(parents=True)
    (folder / "demo.json").write_text("{}")
    entries = [
        {"id": i, "img_path": f"{i:04d}_c1_0001.jpg", "captions": ["a", "b"], "split": split}
        for i, split in enumerate(["train"] * 6 + ["val"] * 2 + ["test"] * 2)
    ]
    (folder / "data_captions.json").write_text(json.dumps(entries))
    return folder


def write_folder(folder: Path, people: int = 10) -> Path:
    folder.mkdir(parents=True)
    rows = [{"file_name": f"{i}.jpg", "caption": f"person {i}", "person_id": f"p{i:03d}"} for i in range(people)]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def failure(*arguments: object, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        load_person_dataset(*arguments, **options)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize("name", ["rstpreid", "RSTPReid", "RSTPREID"])
def test_a_benchmark_by_name(tmp_path, name):
    write_benchmark(tmp_path)
    assert len(load_person_dataset(name, tmp_path)["train"]) == 6


def test_a_benchmark_by_its_folder(tmp_path):
    folder = write_benchmark(tmp_path)
    assert len(load_person_dataset(folder)["train"]) == 6
    assert len(load_person_dataset("RSTPReid", tmp_path)["test"]) == 2


def test_a_benchmark_needs_root_and_has_a_test_split(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = failure("cuhk_pedes")
    assert "needs root" in message
    assert "CUHK-PEDES/" in message
    write_benchmark(tmp_path)
    assert "leave the setting out" in failure("rstpreid", tmp_path, test_identities=3)


def test_a_folder_with_metadata_by_path_and_below_root(tmp_path):
    folder = write_folder(tmp_path / "mine")
    data = load_person_dataset(str(folder), validation_identities=2, test_identities=3, seed=4)
    assert [len(data[split]) for split in ("train", "validation", "test")] == [5, 2, 3]
    below = load_person_dataset("mine", tmp_path, validation_identities=2, test_identities=3, seed=4)
    assert below["test"].to_list() == data["test"].to_list()


def test_a_dataset_saved_to_disk(tmp_path):
    folder = write_folder(tmp_path / "mine")
    data = load_folder(folder)
    # Bytes instead of files, as in a dataset that was pushed to the Hub.
    data = datasets.DatasetDict(
        {
            split: rows.map(lambda row: {"image": {"path": row["file_path"], "bytes": b"x"}}, features=rows.features)
            for split, rows in data.items()
        }
    )
    data.save_to_disk(str(tmp_path / "saved"))
    again = load_person_dataset(tmp_path / "saved")
    assert again["test"].to_list() == data["test"].to_list()
    (tmp_path / "saved" / "dataset_dict.json").write_text("{")
    assert "save it again" in failure(tmp_path / "saved")


@pytest.mark.parametrize("name", ["market", "./nowhere", "a/b/c", "", "..\\data"])
def test_what_fits_nothing_lists_the_possibilities(name):
    message = failure(name)
    for words in ("cuhk_pedes, icfg_pedes, rstpreid", "metadata.jsonl", "save_to_disk", "Hub"):
        assert words in message


def test_a_file_in_place_of_its_folder_is_refused_without_a_network(tmp_path):
    (tmp_path / "metadata.csv").touch()
    with pytest.raises(InputError, match=r"metadata\.csv is a file; give its folder"):
        load_person_dataset(tmp_path / "metadata.csv")


@pytest.mark.parametrize(
    ("wrong", "meant"), [("cuhk_peds", "cuhk_pedes"), ("ICFG-PEDS", "icfg_pedes"), ("malls", "mals")]
)
def test_a_name_that_is_spelt_wrong(wrong, meant):
    with pytest.raises(InputError, match=f"There is no dataset '{wrong}'.*; did you mean '{meant}'"):
        load_person_dataset(wrong, None)


@pytest.mark.parametrize(
    ("url", "instead"),
    [("s3://bucket/set", "copy the shards into a folder"), ("hf://datasets/me/set", "give its name, me/set")],
)
def test_a_url_is_for_streams(url, instead):
    message = failure(url)
    assert message == f"{url}: a URL is read by training alone, with streaming: true; without it {instead}."


def test_a_folder_of_nothing_lists_the_possibilities(tmp_path):
    message = failure(tmp_path)
    assert message.startswith(f"{tmp_path}: this folder holds no dataset")
    assert "metadata.jsonl" in message


def test_a_hub_that_cannot_be_reached_is_explained(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = failure("someone/no-such-persons")
    assert "neither a folder here nor could it be loaded from the Hub" in message
    assert "network" in message
    assert "\n" not in message


def test_annotation_file_is_for_benchmarks_only(tmp_path):
    folder = write_folder(tmp_path / "mine")
    assert "annotation_file" in failure(folder, annotation_file="x.json")
    write_benchmark(tmp_path)
    message = failure(tmp_path / "RSTPReid", annotation_file="missing.json")
    assert "missing.json: there is no such annotation file" in message


@pytest.mark.parametrize("outside", ["../other/train", "/etc", "a::b", "link"])
def test_a_saved_dataset_stays_within_its_folder(tmp_path, outside):
    rows = {"image": [{"path": None, "bytes": b"x"}] * 4, "captions": [["a"]] * 4, "person_id": [1, 2, 3, 4]}
    part = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image(decode=False))
    datasets.DatasetDict(train=part).save_to_disk(str(tmp_path / "other"))
    datasets.DatasetDict(train=part).save_to_disk(str(tmp_path / "saved"))
    assert len(load_person_dataset(tmp_path / "saved")) == 3
    (tmp_path / "saved" / "link").symlink_to(tmp_path / "other" / "train")
    (tmp_path / "saved" / "dataset_dict.json").write_text(json.dumps({"splits": [outside]}))
    assert "which is not in it" in failure(tmp_path / "saved")
    datasets.DatasetDict(train=part).save_to_disk(str(tmp_path / "again"))
    state = json.loads((tmp_path / "again" / "train" / "state.json").read_text())
    (tmp_path / "again" / "train" / "link").symlink_to(next((tmp_path / "other" / "train").glob("*.arrow")))
    state["_data_files"] = [{"filename": outside}]
    (tmp_path / "again" / "train" / "state.json").write_text(json.dumps(state))
    assert "which is not in it" in failure(tmp_path / "again")
