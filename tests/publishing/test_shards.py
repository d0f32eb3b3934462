"""Parquet files of a dataset: every row once, one group in memory, and what was finished is not written again."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, load_dataset
from hypothesis import given
from hypothesis import strategies as st

from cffa_hf.cli import main
from cffa_hf.data.rows import FEATURES
from cffa_hf.errors import InputError, RunStopped
from cffa_hf.publishing import shards
from cffa_hf.publishing.shards import cut, write_shards
from tests.processes import kill_when_it_waits, python_child
from tests.tiny import person_rows


@pytest.fixture
def files(tmp_path) -> Dataset:
    """A split whose images are files."""
    rows = person_rows(10)
    images = []
    for row in rows:
        path = tmp_path / "imgs" / row["file_path"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(row["image"]["bytes"])
        images.append({"path": str(path), "bytes": None})
    return Dataset.from_dict({**rows.to_dict(), "image": images}, features=FEATURES)


@given(sizes=st.lists(st.integers(0, 50), max_size=40), limit=st.integers(1, 120))
def test_cuts_cover_everything_once_and_reach_the_limit(sizes, limit):
    bounds = cut(np.array(sizes, np.int64), limit)
    assert [place for begin, end in bounds for place in range(begin, end)] == list(range(len(sizes)))
    for number, (begin, end) in enumerate(bounds):
        assert sum(sizes[begin : end - 1]) < limit
        assert number == len(bounds) - 1 or sum(sizes[begin:end]) >= limit


@pytest.mark.parametrize("order", ["as it is", "selected"])
def test_every_row_comes_back_from_many_files(tmp_path, monkeypatch, files, order):
    monkeypatch.setattr(shards, "SHARD_BYTES", 20_000)
    monkeypatch.setattr(shards, "GROUP_BYTES", 8_000)
    train = files if order == "as it is" else files.select(range(19, -1, -2))
    write_shards({"train": train, "test": person_rows(2)}, tmp_path / "data", tmp_path / "finished")
    names = sorted(path.name for path in (tmp_path / "data").iterdir())
    assert len(names) > 2
    assert names[0].startswith("test-00000-of-")
    again = load_dataset(str(tmp_path / "data"), cache_dir=str(tmp_path / "cache")).cast(FEATURES)
    assert again["train"].remove_columns("image").to_list() == train.remove_columns("image").to_list()
    for here, there in zip(again["train"]["image"], train["image"], strict=True):
        assert here == {"bytes": Path(there["path"]).read_bytes(), "path": Path(there["path"]).name}
    assert again["test"].to_list()[0]["image"]["bytes"] == person_rows(2)[0]["image"]["bytes"]


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}


def test_finished_files_stay_and_changed_ones_are_written_again(tmp_path, monkeypatch, files):
    monkeypatch.setattr(shards, "SHARD_BYTES", 20_000)
    write_shards({"train": files}, tmp_path / "data", tmp_path / "finished")
    before = times(tmp_path / "data")
    write_shards({"train": files}, tmp_path / "data", tmp_path / "finished")
    assert times(tmp_path / "data") == before
    os.utime(files[19]["image"]["path"], (1, 1))
    write_shards({"train": files}, tmp_path / "data", tmp_path / "finished")
    after = times(tmp_path / "data")
    assert [name for name in sorted(before) if after[name] != before[name]] == sorted(before)[-1:]
    write_shards({"train": files.select(range(5))}, tmp_path / "data", tmp_path / "finished")
    assert sum(1 for _ in (tmp_path / "data").iterdir()) < len(before)  # what belongs to no row any more is gone


def test_an_image_that_has_gone_is_named(tmp_path, files):
    Path(files[3]["image"]["path"]).unlink()
    with pytest.raises(InputError, match=r"row 3: .*3\.png cannot be read .*put the image back\."):
        write_shards({"train": files}, tmp_path / "data", tmp_path / "finished")


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, files, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(RunStopped, match=r"need 0\.0 GB, and 0\.0 GB are free"):
        write_shards({"train": files}, tmp_path / "data", tmp_path / "finished")
    assert not list((tmp_path / "data").iterdir())


def test_only_a_group_of_images_is_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "GROUP_BYTES", 500_000)
    (tmp_path / "noise").write_bytes(os.urandom(250_000))
    rows = person_rows(20).to_dict()
    rows["image"] = [{"path": str(tmp_path / "noise"), "bytes": None}] * 40
    tracemalloc.start()
    write_shards({"train": Dataset.from_dict(rows, features=FEATURES)}, tmp_path / "data", tmp_path / "finished")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "data" / "train-00000-of-00001.parquet").stat().st_size > 4_000_000
    assert peak < 3_000_000


def test_a_dry_run_that_was_killed_goes_on(tmp_path, capsys, monkeypatch, files):
    lines = files.remove_columns("image").to_pandas().rename(columns={"file_path": "file_name"})
    lines["split"] = "train"
    lines.to_json(tmp_path / "imgs" / "metadata.jsonl", orient="records", lines=True)
    code = """
    import sys, time
    import cffa_hf.publishing.shards as shards
    from cffa_hf.cli import main
    shards.SHARD_BYTES = 20_000
    write_shard, written = shards.write_shard, []
    def slow(*words):
        if len(written) == 2:
            print("waiting", flush=True)
            time.sleep(600)
        written.append(write_shard(*words))
    shards.write_shard = slow
    main(sys.argv[1:])
    """
    words = ["push-dataset", str(tmp_path / "imgs"), "--repo-id", "me/people", "--dry-run", str(tmp_path / "out")]
    words += ["--validation-identities", "0"]
    kill_when_it_waits(python_child(code, tmp_path / "cache", *words))
    before = times(tmp_path / ".out.unfinished" / "out" / "data")
    assert len(before) == 2
    monkeypatch.setattr(shards, "SHARD_BYTES", 20_000)
    assert main(words) == 0
    after = times(tmp_path / "out" / "data")
    assert len(after) > 2
    assert {name: after[name] for name in before} == before
    assert (tmp_path / "out" / "README.md").is_file()
    assert not list(tmp_path.glob(".out*"))
    again = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert again["train"]["file_path"][:] == files["file_path"][:]
