"""The folder that results go to is tried before work begins."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from cffa_hf.errors import InputError


def make_output_folder(folder: str | os.PathLike[str]) -> Path:
    """Make a folder if it is not there, and write a file into it that vanishes again.

    Raises:
        InputError: If it cannot be made or nothing can be written into it.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another --output_dir.") from error
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
        raise InputError(f"{path}: cannot be read as JSON ({error}); write it anew, or remove it.") from error
    if not isinstance(record, dict):
        raise InputError(f"{path}: must hold a JSON object; write it anew, or remove it.")
    return record
