"""Every command on a disk that is full or read-only: one sentence, nothing half-written under its name."""

import os
import socket
from pathlib import Path

import pytest

from cffa_hf.cli import main
from cffa_hf.errors import InputError, RunStopped
from cffa_hf.locks import folder_lock
from tests.disks import Disk
from tests.torture import caches
from tests.torture.scenarios import write_inputs

OUT = "disk/out"
COMMANDS = {
    "demo-data": ("demo-data", OUT, "--identities", "40", "2", "4"),
    "convert": ("convert", "clip", OUT, "--image-size", "64", "32"),
    "index": ("index", "images", OUT, "--checkpoint", "checkpoint", "--precision", "float32"),
    "search": ("search", "images", "a coat", "--checkpoint", "checkpoint", "--sheet", f"{OUT}/sheet.png"),
    "push": ("push", "checkpoint", "--repo-id", "me/it", "--dry-run", OUT),
    "push-dataset": ("push-dataset", "cuhk_pedes", "--dataset-root", "data", "--repo-id", "me/it", "--dry-run", OUT),
    "evaluate": ("evaluate", "checkpoint", "--config", "run.yaml", "--output_dir", OUT, "--device", "cpu"),
    "train": ("train", "--config", "run.yaml", "--output_dir", OUT),
    "export": ("export", "checkpoint", OUT),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs") / "inputs"
    write_inputs(folder)
    return folder


@pytest.fixture
def place(inputs, tmp_path, monkeypatch):
    """A working folder with the inputs, and with the caches elsewhere."""
    for path in inputs.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


def names_under(folder: Path) -> list[str]:
    """Files under a final name: neither hidden nor in a folder that is."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [str(path) for path in paths if not any(part.startswith(".") for part in path.parts)]


def check_sentence(status: int, wanted: int, printed: str) -> None:
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert status == wanted, printed
    assert len(errors) == 1, printed
    assert errors[0].endswith("."), printed
    assert len(errors[0]) < 520, printed
    assert "Traceback" not in printed, printed
    assert "bug of cffa_hf" not in printed, printed


@pytest.mark.slow
@pytest.mark.parametrize("state", ["full", "read-only"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_takes_nothing_more(place, capsys, name, state):
    disk = Disk(place / "disk", 120)
    try:
        if state == "read-only":
            disk.make_read_only()
        else:  # 20 KiB are free: the first files fit, the later ones do not
            (disk.folder / ".filler").write_bytes(os.urandom(100_000))
        status = main(list(COMMANDS[name]))
        captured = capsys.readouterr()
        # A full disk stops a run, a read-only one is a wrong place; training says of both what is saved.
        check_sentence(status, 1 if state == "full" else 2, captured.out + captured.err)
        left = names_under(disk.folder)
        if name == "demo-data":  # whole images stay, and the next attempt goes on
            left = [path for path in left if not path.endswith((".jpg", "demo.json"))]
        if name == "index":  # the table and the header of a gallery that the same command goes on with
            left = [path for path in left if not path.endswith(("gallery.json", "items.sqlite", "vectors.float16"))]
        assert left == []
    finally:
        disk.unmount()


LOCKS = {
    "demo-data": f"{OUT}/.CUHK-PEDES",
    "index": f"{OUT}/.gallery",
    "evaluate": f"{OUT}/.evaluation",
    "train": f"{OUT}/.run",
    "push-dataset": "disk/..out.unfinished",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "search"])
def test_a_second_one_at_the_same_time_is_refused_by_name(place, capsys, name):
    stem = place / LOCKS.get(name, "disk/.out")
    with folder_lock(place / OUT, stem):
        before = {path: path.stat().st_mtime_ns for path in (place / "disk").rglob("*") if path.is_file()}
        status = main(list(COMMANDS[name]))
        captured = capsys.readouterr()
        check_sentence(status, 2, captured.out + captured.err)
        assert f"by another program (process {os.getpid()} on {socket.gethostname()} since 2" in captured.err
        assert {path: path.stat().st_mtime_ns for path in (place / "disk").rglob("*") if path.is_file()} == before


@pytest.mark.slow
@pytest.mark.parametrize("state", ["full", "read-only"])
def test_a_cache_on_a_disk_that_takes_nothing_more(place, monkeypatch, state):
    disk = Disk(place / "disk", 120)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", disk.folder)
    try:
        if state == "read-only":
            disk.make_read_only()
        with pytest.raises(
            RunStopped if state == "full" else InputError,
            match=r"cannot be written .*; (make room, or )?set HF_DATASETS_CACHE",
        ):
            caches.main()
        assert [path for path in names_under(disk.folder) if not path.endswith((".lock", ".digest"))] == []
    finally:
        disk.unmount()
