"""Images within shards: a member of a tar file or a row of a Parquet file, named by one path and read without unpacking."""

import os
import re
from functools import lru_cache

from cffa_hf.errors import InputError, one_line

_TAR = re.compile(r"tar::(\d+):(\d+):(.+)", re.DOTALL)
_PARQUET = re.compile(r"parquet::(\d+):(\d+):(.+)", re.DOTALL)
MAX_IMAGE_BYTES = 2**28
"""The largest file of an image that is read out of a shard."""


def tar_member_path(file: str, offset: int, size: int) -> str:
    """Name the bytes of a member of a local tar file.

    Such a path lies below no folder: where images must lie in the folder of a dataset, it is refused.

    Example:
        >>> tar_member_path("/data/0001.tar", 1536, 20000)
        'tar::1536:20000:/data/0001.tar'
    """
    return f"tar::{offset}:{size}:{file}"


def parquet_row_path(file: str, group: int, row: int) -> str:
    """Name the image in a row of a row group of a local Parquet file; both count from 0."""
    return f"parquet::{group}:{row}:{file}"


def shard_of(path: str) -> str | None:
    """Return the shard that a path names a part of; None if it is the path of a file."""
    found = _TAR.fullmatch(path) or _PARQUET.fullmatch(path)
    return found[3] if found else None


def file_of(path: str) -> str:
    """Return the file on the disk that holds an image: its own, or the shard that its path names a part of."""
    return shard_of(path) or path


def read_stored(path: str) -> bytes:
    """Read the content of an image file, or of an image in a shard.

    Raises:
        OSError: If the file cannot be read.
        InputError: The shard is missing, shorter than it was, or damaged.
    """
    packed = read_packed(path)
    if packed is not None:
        return packed
    with open(path, "rb") as file:
        return file.read()


def stored_size(path: str) -> int:
    """Return how many bytes `read_stored` reads; of a file and of a member of a tar file without reading it.

    Raises:
        OSError: If the file or the shard is not there.
        InputError: If a Parquet shard is damaged.
    """
    size = os.stat(file_of(path)).st_size
    if found := _TAR.fullmatch(path):
        return int(found[2])
    return size if shard_of(path) is None else len(read_stored(path))


def read_packed(path: str) -> bytes | None:
    """Read an image out of its shard; None if the path is that of a file.

    Raises:
        InputError: The shard is missing, shorter than it was, or damaged.
    """
    if found := _TAR.fullmatch(path):
        return _read_member(found[3], int(found[1]), int(found[2]))
    if found := _PARQUET.fullmatch(path):
        image = _row_group(found[3], int(found[1]), os.getpid()).column("image")[int(found[2])].as_py()
        return image_bytes(image, found[3])
    return None


def image_bytes(value: object, source: str) -> bytes:
    """Return the bytes of the `image` of a Parquet row: binary, or a struct with `bytes`.

    Raises:
        InputError: It has none, or too many.
    """
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise InputError(f"{source}: a row has no bytes in its column 'image'; write the shard with the images in it.")
    if len(content) > MAX_IMAGE_BYTES:
        raise InputError(f"{source}: an image of {len(content):,} bytes is refused; scale it down.")
    return content


def _read_member(file: str, offset: int, size: int) -> bytes:
    if size > MAX_IMAGE_BYTES:
        raise InputError(f"{file}: an image of {size:,} bytes is refused; scale it down.")
    try:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            content = os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise InputError(f"{file}: the shard cannot be read ({error.strerror}); put it back.") from error
    if len(content) < size:
        raise InputError(f"{file}: the shard is shorter than it was when it was indexed; copy it again.")
    return content


@lru_cache(maxsize=4)
def _row_group(file: str, group: int, process: int):
    """Read the images of one row group; `process` keeps a forked process from sharing them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file).read_row_group(group, columns=["image"], use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file}: the Parquet file cannot be read ({one_line(error, 120)}); copy it again.") from error
