"""Atomic writes: files and folders are written beside their place and renamed when they are complete."""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from cffa_hf.errors import InputError, one_line


def write_text(path: str | Path, text: str, *, remedy: str = "choose another place") -> None:
    """Write a UTF-8 file, over the one that is there, atomically.

    Args:
        path: The file; folders above it are made.
        text: Its content.
        remedy: What the error proposes besides freeing disk space.

    Raises:
        InputError: If it cannot be written; what was there is untouched.
    """
    with _replacing(Path(path), remedy) as partial:
        partial.write_text(text, encoding="utf-8")


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file atomically, with the permissions that the umask gives.

    Raises:
        InputError: If it cannot be written; what was there is untouched.
    """
    with _replacing(Path(path)) as partial:
        mode = stat.S_IMODE(partial.stat().st_mode)
        save_file(dict(tensors), partial)
        partial.chmod(mode)  # safetensors makes files that only their owner may read


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def new_folder(target: str | Path) -> Iterator[Path]:
    """Fill a folder beside its place, and rename it when it is complete.

    What a killed attempt for the same target left behind is removed.

    Args:
        target: A path that is free, or an empty folder.

    Raises:
        InputError: If something is there, or the folder cannot be written.
    """
    target = Path(target).absolute()
    partial = target.with_name(f".{target.name}.unfinished")
    try:
        if target.is_file() or (target.is_dir() and any(target.iterdir())):
            raise InputError(f"{target} exists and is not empty; give a new folder.")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            for file in sorted(partial.rglob("*")):
                if file.is_file() and file.stat().st_nlink == 1:  # a hard link belongs to another folder too
                    file.chmod(stat.S_IMODE(partial.stat().st_mode) & 0o666)  # of weights too, as the umask says
                    _flush(file)
            os.replace(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except (OSError, SafetensorError) as error:
        raise _unwritable(target, error) from error


@contextmanager
def writing(target: str | Path) -> Iterator[None]:
    """Turn errors of the file system into an InputError that names the target.

    Args:
        target: What is written.

    Raises:
        InputError: In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise _unwritable(Path(target), error) from error


@contextmanager
def _replacing(path: Path, remedy: str = "choose another place") -> Iterator[Path]:
    """Give an empty file beside a path, and rename it to that path when it is written and flushed."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(b"")
        yield partial
        _flush(partial)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        raise _unwritable(path, error, remedy) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _flush(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def _unwritable(path: Path, error: Exception, remedy: str = "choose another place") -> InputError:
    reason = (getattr(error, "strerror", None) or one_line(error))[:200]
    return InputError(f"{path} cannot be written ({reason}); make room, or {remedy}.")
