"""Output folders, checked before a long run starts, and JSON records that are read back."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from cffa_hf.errors import InputError, one_line


def make_output_folder(folder: str | os.PathLike[str]) -> Path:
    """Create the output folder and check that it is writable.

    Raises:
        InputError: If it cannot be created or is not writable.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another output_dir.") from error
    return path


def read_record(path: Path) -> dict[str, Any]:
    """Read a JSON object that a run or an evaluation has written; an absent file is an empty record.

    Raises:
        InputError: If the file is there but no JSON object.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read as JSON ({one_line(error)}); write it again, or remove it."
        ) from error
    if not isinstance(record, dict):
        raise InputError(f"{path}: must hold a JSON object; write it again, or remove it.")
    return record
