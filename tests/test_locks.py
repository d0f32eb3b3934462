"""One program at a time in a folder, by name; and a folder that vanishes is not made again."""

import multiprocessing
import os
import shutil
import signal

import pytest

from cffa_hf.errors import InputError, RunStopped
from cffa_hf.files import new_folder, write_text
from cffa_hf.locks import folder_lock
from tests.disks import Disk, disk  # noqa: F401


def fill(target, ready):
    with new_folder(target) as folder:
        (folder / "a").write_text("a")
        ready.set()
        signal.pause()


def test_who_writes_a_folder_keeps_others_out_by_name_and_a_dead_one_does_not(tmp_path):
    context = multiprocessing.get_context("fork")
    target, ready = tmp_path / "out", context.Event()
    process = context.Process(target=fill, args=(target, ready))
    process.start()
    assert ready.wait(60)
    refusal = (
        rf"out is being written by another program \(process {process.pid} on .+ since 2.+\): wait for its end, or"
    )
    with pytest.raises(InputError, match=refusal), new_folder(target):
        pass
    assert (tmp_path / ".out.unfinished" / "a").is_file()
    process.kill()
    process.join()
    with new_folder(target) as folder:
        assert not any(folder.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_was_removed_is_not_made_again(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with folder_lock(folder):
        write_text(folder / "a" / "b.txt", "whole")
        shutil.rmtree(folder)
        with pytest.raises(RunStopped, match="run has vanished: it was removed, or its disk was unmounted"):
            write_text(folder / "a" / "b.txt", "whole")
        assert not folder.exists()
        folder.mkdir()
        (folder / "other").touch()
    write_text(folder / "b.txt", "afterwards it is like any other")


def test_a_new_folder_whose_unfinished_one_was_replaced_is_not_taken(tmp_path):
    filling = new_folder(tmp_path / "out")
    folder = filling.__enter__()
    folder.rename(tmp_path / "moved")
    folder.mkdir()
    with pytest.raises(RunStopped, match="has vanished"):
        filling.__exit__(None, None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]


def test_nothing_goes_into_the_folder_under_an_unmounted_disk(disk: Disk):  # noqa: F811
    with folder_lock(disk.folder, disk.folder / ".run"):
        write_text(disk.folder / "a.txt", "on the disk")
        disk.unmount()
        with pytest.raises(RunStopped, match="has vanished"):
            write_text(disk.folder / "b.txt", "underneath")
    assert os.listdir(disk.folder) == []
