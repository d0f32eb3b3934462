"""Files and folders that are whole or not there, also when the process is killed or the disk is full."""

import multiprocessing
import os
import random
import resource
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from cffa_hf.errors import InputError, RunStopped
from cffa_hf.files import file_digest, new_folder, write_tensors, write_text


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_what_is_written_replaces_what_was_there_and_may_be_read_as_the_umask_says(tmp_path, umask):
    write_text(tmp_path / "new" / "a.txt", "ünï")
    write_text(tmp_path / "new" / "a.txt", "again")
    assert (tmp_path / "new" / "a.txt").read_text() == "again"
    write_tensors(tmp_path / "a.safetensors", {"x": torch.arange(3)})
    assert load_file(tmp_path / "a.safetensors")["x"].tolist() == [0, 1, 2]
    for path in (tmp_path / "a.safetensors", tmp_path / "new" / "a.txt"):
        assert path.stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.safetensors", "a.txt", "new"]
    assert len(file_digest(tmp_path / "a.safetensors")) == 64


def test_a_new_folder_is_whole_or_not_there(tmp_path, umask):
    target = tmp_path / "out"
    target.mkdir()
    (tmp_path / ".out.unfinished").mkdir()
    (tmp_path / ".out.unfinished" / "left.txt").write_text("by a killed attempt")
    with new_folder(target) as folder:
        (folder / "a.txt").write_text("a")
        (folder / "a.txt").chmod(0o600)
        assert not any(target.iterdir())
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "a.txt"]
    assert (target / "a.txt").stat().st_mode & 0o777 == 0o644
    with pytest.raises(InputError, match="exists and is not empty"), new_folder(target):
        pass
    with pytest.raises(KeyError), new_folder(tmp_path / "other"):
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def write_on_a_full_disk(kind, folder, answer):
    """Nothing of more than 100 kB can be written any more, as with a quota or a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        if kind == "text":
            write_text(folder / "a", "x" * 10**6)
        elif kind == "tensors":
            write_tensors(folder / "a", {"x": torch.zeros(10**6)})
        else:
            with new_folder(folder / "b") as new:
                (new / "a").write_text("x" * 10**6)
    except RunStopped as error:
        answer.put(str(error))


@pytest.mark.parametrize("kind", ["text", "tensors", "folder"])
def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(tmp_path, kind):
    (tmp_path / "a").write_text("as it was")
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    process = context.Process(target=write_on_a_full_disk, args=(kind, tmp_path, answer))
    process.start()
    process.join(60)
    message = answer.get()
    assert "cannot be written" in message
    assert "make room" in message
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "as it was"


def write_for_ever(path):
    for number in range(10**9):
        write_text(path, str(number % 10) * 300_000)


def test_killed_at_any_moment_the_file_is_whole(tmp_path):
    context = multiprocessing.get_context("fork")
    path = tmp_path / "a.txt"
    for seed in range(15):
        process = context.Process(target=write_for_ever, args=(path,))
        process.start()
        while not path.exists():
            time.sleep(0.001)
        time.sleep(random.Random(seed).uniform(0, 0.02))
        process.kill()
        process.join()
        text = path.read_text()
        assert len(text) == 300_000
        assert len(set(text)) == 1
