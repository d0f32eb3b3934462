"""The folder that results go to is tried before work begins."""

import os
import tempfile
from pathlib import Path

from cffa_hf.errors import InputError


def make_output_folder(folder: str | os.PathLike[str]) -> Path:
    """Make a folder if it is not there, and write a file into it that vanishes again.

    Raises:
        InputError: if it cannot be made or nothing can be written into it.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another --output_dir.") from error
    return path
