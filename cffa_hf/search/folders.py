"""Which images a folder holds, and what changed there since they were embedded."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cffa_hf.errors import InputError, is_text, visible
from cffa_hf.files import file_digest
from cffa_hf.inputs.images import IMAGE_SUFFIXES
from cffa_hf.search.items import FileState


def find_images(folder: str | Path) -> list[str]:
    """Return the paths of all image files below a folder, sorted; links that lead out of it are left out with a warning.

    The folder itself may be a link.

    Raises:
        InputError: If there is no such folder, or no image in it.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of images.")
    root = folder.resolve()
    paths: list[str] = []
    outside: list[str] = []
    unnamed: list[str] = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            outside.append(str(path))
        elif not is_text(str(path)):
            unnamed.append(str(path))
        elif path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            paths.append(str(path))
    if outside:
        warnings.warn(
            f"{folder}: {len(outside)} links lead out of the folder and are left out, the first is {outside[0]}; copy "
            "what they point to.",
            stacklevel=2,
        )
    if unnamed:
        warnings.warn(
            f"{visible(str(folder))}: {len(unnamed)} names are no UTF-8 and are left out, the first is {visible(unnamed[0])}; "
            "rename them.",
            stacklevel=2,
        )
    if not paths:
        raise InputError(f"{folder}: there is no image below this folder.")
    return paths


@dataclass(frozen=True)
class Changes:
    """What is to be done so that a gallery holds a folder again.

    Attributes:
        new: Files to be embedded, added or changed, with their state.
        touched: Files that were written again with the same content.
        gone: Paths that the gallery holds and the folder no longer does.
    """

    new: dict[str, FileState]
    touched: dict[str, FileState]
    gone: list[str]


def find_changes(
    root: Path,
    paths: Sequence[str],
    known: Mapping[str, FileState],
    refused: Mapping[str, FileState],
) -> Changes:
    """Compare files with what is known of them: size and time first, then content.

    Args:
        root: Folder that the paths are relative to.
        paths: Of the files that are there.
        known: State of the files that were embedded.
        refused: State of the files that could not be read; they are tried again only when they changed.
    """
    new: dict[str, FileState] = {}
    touched: dict[str, FileState] = {}
    for path in paths:
        try:
            status = os.stat(root / path)
        except OSError:  # it vanished in between: reading it will say so
            new[path] = FileState()
            continue
        before = known.get(path) or refused.get(path)
        if before and (before.size, before.modified) == (status.st_size, status.st_mtime_ns):
            continue
        state = FileState(status.st_size, status.st_mtime_ns, file_digest(root / path))
        if path in known and known[path].digest == state.digest and state.digest:
            touched[path] = state
        else:
            new[path] = state
    there = set(paths)
    return Changes(new, touched, [path for path in (*known, *refused) if path not in there])
