"""The folders whose content is published: where they are written, and which of them may be replaced."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
from huggingface_hub import HfApi

from cffa_hf.errors import InputError
from cffa_hf.files import writing
from cffa_hf.locks import folder_lock


@contextmanager
def working_folder(target: Path) -> Iterator[Path]:
    """Give a folder that stays when it is left by an error, so that the next attempt goes on; otherwise it is removed.

    Args:
        target: Of which attempt it is; a second one at the same time is refused.

    Raises:
        InputError: If it cannot be written, or another program has it.
    """
    with writing(target), folder_lock(target):
        target.mkdir(exist_ok=True)
        yield target
        shutil.rmtree(target)


@contextmanager
def upload_folder(repo_id: str, kind: str) -> Iterator[Path]:
    """Give an empty folder for what goes to a repository; it is gone afterwards, or at the next attempt if this one is killed.

    Args:
        repo_id: Of the repository.
        kind: Of what goes there: two kinds do not share a folder.

    Raises:
        InputError: If it cannot be written, or another program publishes there.
    """
    with working_folder(upload_place(repo_id, kind)) as work:
        out = work / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        try:
            yield out
        finally:
            shutil.rmtree(out, ignore_errors=True)


def upload_place(repo_id: str, kind: str) -> Path:
    """Say where in the cache of `datasets` the folder for a repository lies."""
    key = hashlib.sha256(f"{HfApi().endpoint} {repo_id} {kind}".encode()).hexdigest()[:32]
    return Path(datasets.config.HF_DATASETS_CACHE) / "cffa_publishing" / key


def is_earlier(out: Path, *, mark: str, protected: Path | None = None) -> bool:
    """Say whether there is an earlier dry run at a place, and not nothing.

    Args:
        out: The place.
        mark: A file or folder that an earlier one has, beside a card.
        protected: A folder that must not be overwritten, nor those above it.

    Raises:
        InputError: If there is something else.
    """
    if protected and out.resolve() in (protected.resolve(), *protected.resolve().parents):
        raise InputError(f"{out}: the dry run would overwrite {protected}; give another folder.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not ((out / mark).exists() and (out / "README.md").is_file()) or (out / ".git").exists():
            raise InputError(f"{out}: is not empty and no earlier dry run; give another folder, or remove this one.")
        return True
    return False
