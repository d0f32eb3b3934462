"""Output folders, checked before a long run starts, and JSON records that are read back."""

import os
import tempfile
from pathlib import Path
from typing import Any

from cffa_hf.errors import InputError, unwritable
from cffa_hf.json_files import read_object


def make_output_folder(folder: str | os.PathLike[str]) -> Path:
    """Create the output folder and check that it is writable.

    Raises:
        InputError: If it cannot be created or is not writable.
    """
    path = Path(folder)
    if not os.fspath(folder):
        raise InputError("output_dir is empty; name a folder.")
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise unwritable(path, error, "choose another output_dir") from error
    return path


def read_record(path: Path) -> dict[str, Any]:
    """Read a JSON object that a run or an evaluation has written; an absent file is an empty record.

    Raises:
        InputError: If the file is there but no JSON object.
    """
    return read_object(path, "write it again, or remove it") if os.path.lexists(path) else {}
