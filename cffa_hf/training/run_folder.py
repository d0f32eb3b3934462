"""The folder of a training run: one run at a time, and none over another one unless that is wanted."""

from contextlib import AbstractContextManager
from pathlib import Path

from cffa_hf.errors import InputError
from cffa_hf.locks import folder_lock
from cffa_hf.names import RUN_RECORD, STATE_FILE

RUN_LOCK = ".run"
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
    checkpoints = [path.name for path in folder.glob("checkpoint-*") if path.is_dir()]
    found += sorted(checkpoints, key=lambda name: (len(name), name))[-1:]  # checkpoint-15 comes after checkpoint-2
    if found:
        raise InputError(
            f"{folder} holds an earlier run ({found[0]}), which would be overwritten: go on with it "
            "(--resume_from_checkpoint auto), give another --output_dir, or set --overwrite_output_dir true."
        )


def run_lock(folder: str | Path) -> AbstractContextManager[None]:
    """Keep other runs out of a folder; a process that is dead holds nothing, and one that holds it may ask again.

    Args:
        folder: `output_dir` of the run.

    Raises:
        InputError: If another run holds it, naming that one.
    """
    folder = Path(folder)
    return folder_lock(folder, folder / RUN_LOCK, what="is in use", remedy="give another --output_dir", reentrant=True)
