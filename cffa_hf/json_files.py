"""Safe reading of JSON that others may have written: regular files of a bounded size, however deep and long their content."""

import json
import os
import stat
from pathlib import Path
from typing import Any

from cffa_hf.errors import InputError, one_line

LARGEST = 2**27
"""Bytes; a tokenizer of a million words has some 50 million."""


def parse_json(text: str | bytes, *, each_once: bool = False) -> Any:
    """Parse JSON.

    Args:
        text: The document.
        each_once: Whether a name that an object has twice is refused; otherwise the last one counts.

    Raises:
        ValueError: If it is none, is nested until the parser gives up, or holds a number of thousands of digits.

    Example:
        >>> parse_json('{"steps": 3}')
        {'steps': 3}
    """
    try:
        return json.loads(text, object_pairs_hook=_each_once if each_once else None)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{twice!r} is set twice")
    return dict(pairs)


def read_json(path: str | Path, remedy: str = "get the file again") -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        remedy: What the error proposes.

    Raises:
        InputError: If it is not there, no regular file (a pipe would be waited for), too large, or damaged.
    """
    path = Path(path)
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
            raise InputError(f"{path} is no file of at most {LARGEST // 2**20} MiB; {remedy}.")
        return parse_json(path.read_bytes().decode("utf-8-sig"))
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({one_line(error, 200)}); {remedy}.") from error


def read_object(path: str | Path, remedy: str = "get the file again") -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: The file.
        remedy: What the error proposes.

    Raises:
        InputError: As `read_json`, or if it holds something else.
    """
    content = read_json(path, remedy)
    if not isinstance(content, dict):
        raise InputError(f"{path} is no JSON file with names and values; {remedy}.")
    return content
