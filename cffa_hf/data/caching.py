"""What the caches of rows and of token ids have in common: a writable folder, whose files are known to be whole."""

import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cffa_hf.errors import InputError, unwritable
from cffa_hf.files import write_text
from cffa_hf.json_files import read_object

REMEDY = "set HF_DATASETS_CACHE to another disk"
CHECKSUMS = "checksums.json"


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


def write_checksums(folder: Path, names: Sequence[str]) -> None:
    """Keep the checksums of files beside them, for `is_whole`.

    Args:
        folder: Of the cache, complete but for this.
        names: Files in it.
    """
    write_text(folder / CHECKSUMS, json.dumps({name: _checksum(folder / name) for name in names}), remedy=REMEDY)


def is_whole(folder: Path, names: Sequence[str] | None = None) -> bool:
    """Tell whether the files of a cache are what was written: Arrow takes damaged offsets for true.

    Args:
        folder: Of the cache.
        names: The files that must be there; None: whichever were written.
    """
    try:
        known = read_object(folder / CHECKSUMS)
        if not known or (names is not None and set(names) != set(known)):
            return False
        return all((folder / name).is_file() and _checksum(folder / name) == known[name] for name in known)
    except (InputError, OSError):  # a disk has lost something
        return False


def _checksum(file: Path) -> int:
    checksum = 0
    with file.open("rb", buffering=0) as content:
        while part := content.read(2**20):
            checksum = zlib.crc32(part, checksum)
    return checksum
