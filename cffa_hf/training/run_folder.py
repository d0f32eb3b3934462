"""The folder of a training run: one run at a time, and none over another one unless that is wanted."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from cffa_hf.errors import InputError
from cffa_hf.names import RUN_RECORD, STATE_FILE

LOCK, HOLDER = ".run.lock", ".run.holder"
MODEL_FILES = ("model.safetensors", "model.safetensors.index.json", RUN_RECORD, STATE_FILE)


def refuse_earlier_run(folder: str | Path, *, resuming: bool, overwrite: bool) -> None:
    """Refuse to start a run where another one has left its model or checkpoints.

    Args:
        folder: `output_dir` of the run.
        resuming: Whether it goes on from a checkpoint.
        overwrite: Whether the earlier run may be overwritten.

    Raises:
        InputError: Naming what is there, and what can be done.
    """
    if resuming or overwrite:
        return
    folder = Path(folder)
    found = [name for name in MODEL_FILES if (folder / name).exists()]
    found += sorted(path.name for path in folder.glob("checkpoint-*") if path.is_dir())[-1:]
    if found:
        raise InputError(
            f"{folder} holds an earlier run ({found[0]}), which would be overwritten: go on with it "
            "(--resume_from_checkpoint auto), give another --output_dir, or set --overwrite_output_dir true."
        )


@contextmanager
def run_lock(folder: str | Path) -> Iterator[None]:
    """Keep other runs out of a folder; a process that is dead holds nothing, and one that holds it may ask again.

    Args:
        folder: `output_dir` of the run.

    Raises:
        InputError: If another run holds it, naming that one.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(folder.resolve() / LOCK), is_singleton=True, thread_local=False)
        outermost = not lock.is_locked
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"{folder} is in use by another run ({_holder(folder)}): wait for its end, or give another --output_dir."
        ) from error
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}); choose another --output_dir.") from error
    try:
        if outermost:
            holder = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}
            with suppress(OSError):
                (folder / HOLDER).write_text(json.dumps(holder), encoding="utf-8")
        yield
    finally:
        if outermost:
            with suppress(OSError):
                (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(folder: Path) -> str:
    try:
        found = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"process {found['process']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "which has not left its name"
