"""Atomic writes: files and folders are written beside their place, flushed, and renamed when they are complete.

What a killed program leaves of them is removed by the next one that writes into the same folder.
"""

import ctypes
import filecmp
import hashlib
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from cffa_hf.errors import InputError, RunStopped, unwritable
from cffa_hf.locks import check_still_there, folder_lock, forget, remember

UNFINISHED = re.compile(r"\..+\.(?P<process>\d+)\.unfinished")
"""Names of files that are being written: `.NAME.PROCESS.unfinished`. Folders are `.NAME.unfinished`, under a lock."""
_swept: set[tuple[int, Path]] = set()
_AT_WORKING_FOLDER, _RENAME_EXCHANGE = -100, 2  # of Linux' renameat2


def write_text(path: str | Path, text: str, *, remedy: str = "choose another place") -> None:
    """Write a UTF-8 file, over the one that is there, atomically.

    Args:
        path: The file; folders above it are made.
        text: Its content.
        remedy: What the error proposes besides freeing disk space.

    Raises:
        InputError: If it cannot be written; what was there is untouched.
        RunStopped: If the disk is full; what was there is untouched.
    """
    write_bytes(path, text.encode(), remedy=remedy)


def write_bytes(path: str | Path, content: bytes, *, remedy: str = "choose another place", one_of_many=False) -> None:
    """Write a file, over the one that is there, atomically.

    Args:
        path: The file; folders above it are made.
        content: Its content.
        remedy: As for `write_text`.
        one_of_many: Leave it to the caller to flush the folder, once, by `flush`.

    Raises:
        InputError: If it cannot be written; what was there is untouched.
        RunStopped: If the disk is full; what was there is untouched.
    """
    with new_file(path, remedy=remedy, one_of_many=one_of_many) as partial:
        partial.write_bytes(content)


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically, with the permissions that the umask gives.

    Args:
        path: The file; folders above it are made.
        tensors: By name.
        metadata: Of the file's header.

    Raises:
        InputError: If it cannot be written; what was there is untouched.
        RunStopped: If the disk is full; what was there is untouched.
    """
    with new_file(path) as partial:
        save_file(dict(tensors), partial, metadata=metadata)


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def new_file(path: str | Path, *, remedy: str = "choose another place", one_of_many: bool = False) -> Iterator[Path]:
    """Give an empty file beside a path, and rename it to that path when it is written and flushed.

    Args:
        path: The file; folders above it are made.
        remedy: As for `write_text`.
        one_of_many: As for `write_bytes`.

    Yields:
        The file to be filled; its suffix is not that of the path.

    Raises:
        InputError: If it cannot be written; what was there is untouched.
        RunStopped: If the disk is full; what was there is untouched.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        check_still_there(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        partial.write_bytes(b"")
        mode = stat.S_IMODE(partial.stat().st_mode)
        yield partial
        if stat.S_IMODE(partial.stat().st_mode) != mode:
            partial.chmod(mode)  # safetensors makes files that only their owner may read
        flush(partial)
        check_still_there(path)
        os.replace(partial, path)
        if not one_of_many:
            flush(path.parent)
    except Exception as error:
        if not _is_of_writing(error):
            raise
        raise unwritable(path, error, remedy) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def new_folder(target: str | Path, *, over: bool = False, remedy: str = "choose another place") -> Iterator[Path]:
    """Fill a folder beside its place, and rename it when it is complete; one program at a time.

    What a killed attempt for the same target left behind is removed.

    Args:
        target: A path that is free, or an empty folder.
        over: Replace the folder that is there.
        remedy: As for `write_text`.

    Raises:
        InputError: If something is there, another program writes it, or the folder cannot be written.
        RunStopped: If the folder vanished meanwhile.
    """
    target = Path(target).absolute()
    partial = target.with_name(f".{target.name}.unfinished")
    try:
        with folder_lock(target):
            _refuse_used(target, over)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            remember(partial)
            try:
                yield partial
                complete(partial)
                check_still_there(partial)
                replace_folder(partial, target)
            finally:
                forget(partial)
                shutil.rmtree(partial, ignore_errors=True)
    except Exception as error:
        if not _is_of_writing(error):
            raise
        raise unwritable(target, error, remedy) from error


def check_free(target: str | Path) -> None:
    """Refuse, before long work, a target that `new_folder` would refuse after it.

    Raises:
        InputError: If something is there, or another program writes it.
    """
    with folder_lock(target):
        _refuse_used(Path(target))


def complete(folder: str | Path) -> None:
    """Give all files of a folder the permissions that the umask gives, and have the system write them to the disk.

    Even a power cut leaves them whole then.
    """
    folder = Path(folder)
    mode = stat.S_IMODE(folder.stat().st_mode) & 0o666
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1:  # a hard link belongs to another too
            if stat.S_IMODE(path.stat().st_mode) != mode:
                path.chmod(mode)
            flush(path)
        elif path.is_dir():
            flush(path)
    flush(folder)


def replace_folder(source: str | Path, target: str | Path) -> None:
    """Move a folder to another name; the folder that may have it is removed.

    Where the system can exchange two names there is no moment without one of them, and never one with a part of either.

    Args:
        source: On the same disk.
        target: A path that is free, or a folder.

    Raises:
        OSError: If the system refuses.
    """
    source, target = Path(source), Path(target).resolve()
    old = source.with_name(f"{source.name}-old")
    if not target.is_dir() or not any(target.iterdir()):
        os.replace(source, target)
    elif _exchange(source, target):
        old = source
    else:
        shutil.rmtree(old, ignore_errors=True)
        os.replace(target, old)
        os.replace(source, target)
    flush(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def move_files(source: Path, target: Path, *, first_gone: str) -> None:
    """Move all files of a folder that belong together into another one, over those that are there.

    A file that is there with the same content stays. If more than one is to be replaced, the one without which nobody reads
    the others is removed first and moved last, so that never old and new ones are read together.

    Args:
        source: Holds the new files; it is gone afterwards, and so is the folder that holds it, if nothing else is in it.
        target: A folder on the same disk.
        first_gone: Name of that file.
    """
    complete(source)
    check_still_there(target)
    new = [path.relative_to(source) for path in sorted(source.rglob("*")) if path.is_file()]
    new = [name for name in new if not _same(source / name, target / name)]
    if len(new) > 1:
        (target / first_gone).unlink(missing_ok=True)
        if (source / first_gone).is_file():
            new = [*(name for name in new if name != Path(first_gone)), Path(first_gone)]
    for name in new:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(source / name, target / name)
    flush(target)
    shutil.rmtree(source, ignore_errors=True)
    with suppress(OSError):
        source.parent.rmdir()  # if nothing else is in it


@contextmanager
def writing(target: str | Path) -> Iterator[None]:
    """Turn errors of the file system into one that names the target.

    Args:
        target: What is written.

    Raises:
        InputError: In place of an OSError.
        RunStopped: In its place if the disk is full.
    """
    try:
        yield
    except Exception as error:
        if not _is_of_writing(error):
            raise
        raise unwritable(Path(target), error) from error


def flush(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError:
        if not path.is_dir():  # some file systems flush no folders
            raise
    finally:
        os.close(number)


def sweep(folder: Path) -> None:
    """Remove files that killed programs have left unfinished in a folder; once for each process, so that it costs nothing."""
    if (os.getpid(), folder) in _swept:
        return
    _swept.add((os.getpid(), folder))
    for path in folder.iterdir():
        found = UNFINISHED.fullmatch(path.name)
        if found and path.is_file() and _is_dead(int(found["process"]), path):
            path.unlink(missing_ok=True)


def _refuse_used(target: Path, over: bool = False) -> None:
    if target.is_file() or (not over and target.is_dir() and any(target.iterdir())):
        raise InputError(f"{target} exists and is not empty; give a new folder.")


def _is_dead(process: int, path: Path) -> bool:
    """Say whether the process that began a file has ended; another one that got its number has begun later."""
    try:
        return psutil.Process(process).create_time() > path.stat().st_mtime + 2
    except (psutil.NoSuchProcess, OverflowError):
        return True
    except (psutil.Error, OSError):
        return False


def _exchange(first: Path, second: Path) -> bool:
    """Exchange the names of two folders at once, if the system can."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    names = os.fsencode(first), os.fsencode(second)
    return rename(_AT_WORKING_FOLDER, names[0], _AT_WORKING_FOLDER, names[1], _RENAME_EXCHANGE) == 0


def _same(first: Path, second: Path) -> bool:
    return second.is_file() and not second.is_symlink() and filecmp.cmp(first, second, shallow=False)


def _is_of_writing(error: Exception) -> bool:
    """Say whether an error is one of writing: of Python, of safetensors, or of another library written in Rust."""
    if isinstance(error, InputError | RunStopped):
        return False
    return isinstance(error, OSError | SafetensorError) or "(os error " in str(error)
