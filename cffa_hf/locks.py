"""One program at a time in a folder: the second is refused by the name of the first, and a dead process holds nothing."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from cffa_hf.errors import InputError, RunStopped, unwritable

# Folders that this process works in: device and inode by which each is known again.
_held: dict[Path, tuple[int, int]] = {}


@contextmanager
def folder_lock(
    folder: str | Path,
    stem: Path | None = None,
    *,
    what: str = "is being written",
    remedy: str = "give another folder",
    reentrant: bool = False,
) -> Iterator[None]:
    """Keep other programs out of a folder, and notice if it vanishes meanwhile (`check_still_there`).

    Args:
        folder: Of which one program at a time may change the content.
        stem: The lock is `STEM.lock` and who holds it stands in `STEM.holder`; None: `.NAME` beside the folder. They are
            gone afterwards, and the system frees the lock of a process that dies.
        what: What the message says that the folder is or does, before "by another program".
        remedy: What it proposes besides waiting.
        reentrant: Whether this process may ask again while it holds the lock.

    Raises:
        InputError: If another program holds it, naming its process, host and time; or if the lock cannot be written.
    """
    folder = Path(folder).absolute()
    stem = stem or folder.with_name(f".{folder.name}")
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        path = stem.parent.resolve() / f"{stem.name}.lock"
        lock = FileLock(str(path), is_singleton=reentrant, thread_local=False)
        outermost = not lock.is_locked
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"{folder} {what} by another program ({_holder(stem)}): wait for its end, or {remedy}."
        ) from error
    except OSError as error:
        raise unwritable(folder, error) from error
    holder = stem.with_name(f"{stem.name}.holder")
    try:
        if outermost:
            content = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}
            with suppress(OSError):
                holder.write_text(json.dumps(content), encoding="utf-8")
            remember(folder)
        yield
    finally:
        if outermost:
            forget(folder)
            for left in (holder, path):  # while it is held: who waits for a file that has gone begins again
                with suppress(OSError):
                    left.unlink(missing_ok=True)
        lock.release()


def remember(folder: Path) -> None:
    """Note by what a folder is known again; nothing if it is not there."""
    with suppress(OSError):
        _held[folder] = _identity(folder)


def forget(folder: Path) -> None:
    """Look after a folder no longer."""
    _held.pop(folder, None)


def check_still_there(path: str | Path) -> None:
    """Refuse to write into a folder that took the place of the one that this process works in.

    A folder that was removed would be made again, and where a disk was unmounted there is the empty folder underneath.

    Args:
        path: What is about to be written: a folder that is held, or anything in it.

    Raises:
        RunStopped: If the folder is another one now.
    """
    path = Path(path).absolute()
    for folder, known in _held.items():
        if path == folder or folder in path.parents:
            try:
                there = _identity(folder)
            except OSError:
                there = None
            if there != known:
                raise RunStopped(
                    f"{folder} has vanished: it was removed, or its disk was unmounted, and nothing is written into what took "
                    "its place; put it back and run the same command again."
                )


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _holder(stem: Path) -> str:
    try:
        found = json.loads(stem.with_name(f"{stem.name}.holder").read_text(encoding="utf-8"))
        return f"process {found['process']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "which has not left its name"
