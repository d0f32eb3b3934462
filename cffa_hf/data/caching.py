"""What the caches of rows and of token ids have in common: a folder that must be writable."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cffa_hf.errors import unwritable

REMEDY = "set HF_DATASETS_CACHE to another disk"


@contextmanager
def writable_cache(folder: Path) -> Iterator[None]:
    """Make the folder of a cache, and explain what keeps it from being written.

    Raises:
        InputError: In place of the system's error.
        RunStopped: If the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise unwritable(f"{folder}: the cache", error, REMEDY) from error
