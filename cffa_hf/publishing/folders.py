"""The folders whose content is published."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from cffa_hf.errors import InputError


@contextmanager
def new_folder() -> Iterator[Path]:
    """Make an empty folder that is gone afterwards, readable to others like any folder (temporary ones are not)."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "out"
        folder.mkdir()
        yield folder


def replace_folder(source: Path, out: Path, *, mark: str, protected: Path | None = None) -> None:
    """Move the content of a folder; only what was moved to the same place earlier is replaced.

    Args:
        source: The folder whose content is moved.
        out: Where to.
        mark: A file or folder that an earlier one has, beside a card.
        protected: A folder that must not be overwritten, nor those above it.

    Raises:
        InputError: If there is something else at the place.
    """
    if is_earlier(out, mark=mark, protected=protected):
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        shutil.move(path, out / path.name)


def is_earlier(out: Path, *, mark: str, protected: Path | None = None) -> bool:
    """Say whether there is an earlier dry run at a place, and not nothing.

    Args:
        out: The place.
        mark: As for `replace_folder`.
        protected: As for `replace_folder`.

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
