"""Shards: indexed without being unpacked, read at random, and refused in one sentence where they are damaged."""

import os

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cffa_hf.data.checks import check_images
from cffa_hf.data.fingerprints import image_digests
from cffa_hf.data.image_cache import cache_images
from cffa_hf.data.leaks import find_leaks
from cffa_hf.data.loading import load_person_dataset
from cffa_hf.data.own_data import contain_images
from cffa_hf.data.pairs import ImageDataset
from cffa_hf.data.rows import divide_identities
from cffa_hf.data.shard_reading import ShardReader
from cffa_hf.data.shard_rows import load_shards
from cffa_hf.data.shards import open_shards, split_of
from cffa_hf.errors import InputError
from cffa_hf.inputs.packed import read_packed, tar_member_path
from cffa_hf.publishing.dataset import write_dataset_folder
from tests.hub_server import Repository, running_hub
from tests.shards import write_parquet, write_shards, write_tar
from tests.tiny import IMAGE_SIZE, person_rows

ROWS = person_rows(5, 2).to_list()
ALL = {"validation_identities": 0, "test_identities": 0}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write(path, rows=ROWS):
    return write_tar(path, rows) if path.suffix == ".tar" else write_parquet(path, rows)


@pytest.mark.parametrize("name", ["0.tar", "0.parquet"])
def test_every_image_is_found_by_its_path(tmp_path, name):
    write(tmp_path / "data" / name)
    rows = load_person_dataset(tmp_path / "data", **ALL)["train"]
    assert rows["person_id"][:] == [row["person_id"] for row in ROWS]
    assert rows["captions"][:] == [row["captions"] for row in ROWS]
    for index in (9, 0, 4):
        assert read_packed(rows[index]["image"]["path"]) == ROWS[index]["image"]["bytes"]
    plain = person_rows(5, 2)
    assert image_digests(rows) == image_digests(plain)
    check_images(load_person_dataset(tmp_path / "data", **ALL), progress=False)
    assert not find_leaks(load_person_dataset(tmp_path / "data"))
    wanted = ImageDataset(plain, IMAGE_SIZE)
    for images in (rows, cache_images(rows, IMAGE_SIZE, progress=False)):
        found = ImageDataset(images, IMAGE_SIZE)
        assert all(found[i]["pixel_values"].equal(wanted[i]["pixel_values"]) for i in range(10))


def test_an_index_is_made_once_and_again_when_the_shard_changes(tmp_path, monkeypatch):
    path = write(tmp_path / "data" / "0.tar")
    assert open_shards(tmp_path / "data").samples == 10
    with monkeypatch.context() as patch:
        patch.setattr("cffa_hf.data.shards.index_tar", None)
        assert open_shards(tmp_path / "data").samples == 10
    write_tar(path, ROWS[:3])
    assert open_shards(tmp_path / "data").samples == 3


@pytest.mark.parametrize("place", [-1, -9, 9])
def test_a_damaged_index_is_made_again(tmp_path, place):
    write(tmp_path / "data" / "0.tar")
    expected = open_shards(tmp_path / "data").shards[0].table
    (index,) = (tmp_path / "cache" / "cffa_shards").iterdir()
    whole = index.read_bytes()
    damaged = bytearray(whole)
    damaged[place] ^= 1
    index.write_bytes(damaged)
    assert np.array_equal(open_shards(tmp_path / "data").shards[0].table, expected)
    assert index.read_bytes() == whole


def test_samples_are_numbered_through_all_shards(tmp_path):
    shards = open_shards(write_shards(tmp_path / "data"))
    assert [shard.kind for shard in shards.shards] == ["tar", "parquet", "tar", "parquet"]
    reader = ShardReader(shards)
    expected = person_rows(24, 1, first_id=0)
    for number in (23, 7, 0, 8, 19, 20):
        assert reader.read(number).image == expected[number]["image"]["bytes"]
        assert reader.read(number, image=False).captions == expected[number]["captions"]
    reader.close()


def test_names_tell_the_split_and_samples_without_identity_get_their_own(tmp_path):
    write_tar(tmp_path / "data" / "train-0.tar", ROWS[:4], ids=False)
    write_parquet(tmp_path / "data" / "val" / "00.parquet", ROWS[6:])
    data = load_shards(tmp_path / "data")
    assert {split: len(rows) for split, rows in data.items()} == {"train": 4, "validation": 4}
    assert len(set(data["train"]["person_id"])) == 4
    assert not set(data["train"]["person_id"]) & set(data["validation"]["person_id"])
    assert data.division.how == "source"
    names = {"test.tar": "test", "a/b-0.tar": "train", "Val_03.tar": "validation", "test/0.tar": "test"}
    assert {name: split_of(name) for name in names} == names


def test_what_push_dataset_writes_is_read(tmp_path):
    data = datasets.DatasetDict({"train": person_rows(5, 2)})
    data["train"].to_parquet(str(tmp_path / "data" / "train-00000-of-00001.parquet"))
    assert load_shards(tmp_path / "data", **ALL)["train"]["captions"][:] == data["train"]["captions"][:]


def test_shards_of_one_kind_are_published_as_the_other(tmp_path):
    write_tar(tmp_path / "data" / "0.tar", ROWS)
    (tmp_path / "out").mkdir()
    data = load_shards(tmp_path / "data", **ALL)
    write_dataset_folder(data, tmp_path / "out", "data", "me/data", rendered=True)
    again = load_shards(tmp_path / "out" / "data", **ALL)
    assert image_digests(again["train"]) == image_digests(data["train"])


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.97])
@pytest.mark.parametrize("name", ["0.tar", "0.parquet"])
def test_a_truncated_shard_is_named(tmp_path, name, share):
    path = write(tmp_path / "data" / name)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    # A tar is padded with zeros to 10 kB: there nothing may be missing yet.
    whole = name == "0.tar" and not content[int(len(content) * share) :].strip(b"\0") and share > 0.9
    if whole:
        assert open_shards(tmp_path / "data").samples == 10
        return
    with pytest.raises(InputError, match=rf"{name}: the .* file is truncated.*; copy it again\.$"):
        open_shards(tmp_path / "data")


def test_a_tar_cut_between_two_members_is_truncated(tmp_path):
    path = write(tmp_path / "data" / "0.tar")
    table = open_shards(tmp_path / "data").shards[0].table
    path.write_bytes(path.read_bytes()[: int(table[5, 0]) - 512])
    with pytest.raises(InputError, match=r"0\.tar: the tar file is truncated \(it has no end mark after 5 samples"):
        open_shards(tmp_path / "data")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda names: names.remove("1.png"), r"sample 1 \('1'\) has no image"),
        (lambda names: names.remove("1.json"), r"sample 1 \('1'\) has no \.json or \.txt"),
        (lambda names: names.insert(3, "1.jpg"), r"sample 1 \('1'\) has two files of the kind image"),
    ],
)
def test_an_incomplete_sample_is_named(tmp_path, change, message):
    import tarfile

    from tests.shards import add_member

    names = ["0.png", "0.json", "1.png", "1.json", "__index__", "notes.md"]
    change(names)
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in names:
            add_member(tar, name, b"{}")
    with pytest.raises(InputError, match=message):
        open_shards(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"captions": 3}', "has 3 as captions"),
        (b'{"captions": []}', "has no caption with a word"),
        (b'{"captions": ["a"], "id": -1}', "has -1 as identity"),
        (b"[1]", r"has \[1\] as JSON"),
        (b"{", "no JSON in UTF-8"),
        (b'"\xff"', "no JSON in UTF-8"),
    ],
)
def test_captions_that_are_none_are_named_before_training(tmp_path, text, message):
    import tarfile

    from tests.shards import add_member

    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        add_member(tar, "0.png", b"x")
        add_member(tar, "0.json", text)
    with pytest.raises(InputError, match=rf"0\.tar: sample 0 .*{message}"):
        load_shards(tmp_path)


def test_a_picture_that_cannot_be_decoded_is_named_before_training(tmp_path):
    rows = person_rows(5, 2).to_list()
    rows[3]["image"]["bytes"] = b"no picture"
    write_tar(tmp_path / "data" / "0.tar", rows)
    with pytest.raises(InputError, match=r"1 of 10 images .*train row 3 \(0\.tar/3: the image cannot be read"):
        check_images(load_person_dataset(tmp_path / "data", **ALL), progress=False)


def test_links_and_names_that_lead_elsewhere_are_not_followed(tmp_path):
    import tarfile

    from tests.shards import add_member

    (tmp_path / "secret.png").write_bytes(ROWS[0]["image"]["bytes"])
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        link = tarfile.TarInfo("0.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.png")
        tar.addfile(link)
        add_member(tar, "0.txt", b"a person")
    with pytest.raises(InputError, match="has no image"):
        open_shards(tmp_path)
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        add_member(tar, "../../0.png", ROWS[0]["image"]["bytes"])
        add_member(tar, "../../0.txt", b"a person")
    assert load_shards(tmp_path, **ALL)["train"][0]["file_path"] == "0.tar/0"
    assert not (tmp_path.parent / "0.png").exists()


def test_data_of_others_cannot_name_parts_of_files_elsewhere(tmp_path):
    path = write(tmp_path / "0.tar")
    outside = tar_member_path(str(path), 512, 100)
    images = datasets.Dataset.from_dict(
        {"image": [{"path": outside, "bytes": None}]},
        features=datasets.Features({"image": datasets.Image(decode=False)}),
    )
    (tmp_path / "own").mkdir()
    contained = contain_images(images, "x", [tmp_path / "own"])
    assert read_packed(contained[0]["image"]["path"]) is None  # the name of a file that is not there
    with pytest.raises(InputError, match="outside of the dataset"):
        contain_images(images, "x", [])


def test_rows_are_cached_until_a_shard_is_another_one(tmp_path, monkeypatch):
    write_shards(tmp_path / "data", (7, 3), ids=True)
    first = load_shards(tmp_path / "data", **ALL)["train"]
    assert first.cache_files  # memory-mapped
    assert first["person_id"][:] == [*range(7), 7, 8, 9]
    assert first["file_path"][6:8] == ["train-000.tar/6", "train-001.parquet/0"]
    monkeypatch.setattr("cffa_hf.data.shard_rows._make_part", None)
    assert load_shards(tmp_path / "data", **ALL)["train"].to_list() == first.to_list()
    monkeypatch.undo()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write_tar(tmp_path / "data" / "train-000.tar", ROWS[:5], ids=False)
    again = load_shards(tmp_path / "data", **ALL)["train"]
    assert again["captions"][:5] == [row["captions"] for row in ROWS[:5]]
    assert again["person_id"][:] == [10, 11, 12, 13, 14, 7, 8, 9]  # those without identity after the others


def test_shards_are_divided_as_rows_are(tmp_path):
    rows = person_rows(30, 2, first_id=0)
    write(tmp_path / "0.tar", rows.to_list())
    data = load_shards(tmp_path, validation_identities=4, test_identities=None, seed=3)
    expected = divide_identities(range(30), 4, 3, 3)
    for split, part in data.items():
        assert part["person_id"][:] == [person for person in rows["person_id"] if expected[person] == split]
    assert data.division.identities == {"train": 23, "validation": 4, "test": 3}
    assert data.division.how == "divided"
    with pytest.raises(InputError, match="too few to take 20 for validation and 20 for test"):
        load_shards(tmp_path, validation_identities=20, test_identities=20)


def test_shards_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="there are no shards"):
        open_shards(tmp_path)
    with pytest.raises(InputError, match="cannot be listed"):
        open_shards("nowhere://x")
    pq.write_table(pa.table({"picture": [b""]}), tmp_path / "0.parquet")
    with pytest.raises(InputError, match=r"needs the columns image and captions \(or caption\), and has picture"):
        open_shards(tmp_path)
    pq.write_table(pa.table({"image": [b""], "caption": ["x"]}).slice(0, 0), tmp_path / "0.parquet")
    with pytest.raises(InputError, match="1 shard hold no sample"):
        open_shards(tmp_path)


def everything(source) -> list[tuple[bytes | None, list[str]]]:
    reader = ShardReader(open_shards(source))
    try:
        samples = [reader.read(number) for number in range(reader.folder.samples)]
    finally:
        reader.close()
    return [(sample.image, sample.captions) for sample in samples]


EXPECTED = [(row["image"]["bytes"], row["captions"]) for row in ROWS]


def test_shards_behind_urls_are_those_of_a_folder(tmp_path):
    write(tmp_path / "set" / "0.tar", ROWS[:6])
    write(tmp_path / "set" / "1.parquet", ROWS[6:])
    fsspec.filesystem("memory").put(str(tmp_path / "set"), "/urls/set", recursive=True)
    assert everything(tmp_path / "set") == EXPECTED
    assert everything(f"file://{tmp_path}/set") == EXPECTED
    assert everything("memory://urls/set") == EXPECTED


def test_shards_of_the_hub_are_those_of_a_folder(tmp_path, monkeypatch):
    write(tmp_path / "0.tar", ROWS[:6])
    write(tmp_path / "1.parquet", ROWS[6:])
    with running_hub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
        template = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        repository = hub.repositories["datasets", "me/people"] = Repository()
        files = {f"data/train-{path.name}": path.read_bytes() for path in (tmp_path / "0.tar", tmp_path / "1.parquet")}
        repository.commit("main", files, "Shards")
        assert everything("hf://datasets/me/people") == EXPECTED


def test_remote_parquet_is_read_with_ranges():
    import io

    content = io.BytesIO()
    table = pa.table({"image": [row["image"]["bytes"] for row in ROWS], "caption": ["a person"] * 10})
    pq.write_table(table, content, row_group_size=3)
    fsspec.filesystem("memory").pipe("/rows/0.parquet", content.getvalue())
    reader = ShardReader(open_shards("memory://rows"))
    assert reader.read(7).image == ROWS[7]["image"]["bytes"]
    assert reader.read(7).person_id is None


def test_a_pipe_in_place_of_a_shard_is_not_waited_for(tmp_path):
    write(tmp_path / "0.parquet")
    os.mkfifo(tmp_path / "1.parquet")
    with pytest.raises(InputError, match=r"1\.parquet: the shard is no regular file"):
        open_shards(tmp_path)
