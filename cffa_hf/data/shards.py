"""Shards: tar files in the convention of WebDataset and Parquet files, here or behind a URL, and an index of their samples.

A sample of a tar is `KEY.jpg` (or another image) beside `KEY.json` (`{"captions": [...], "id": ...}`) or `KEY.txt`; one of
a Parquet file is a row with `image` (bytes, or a struct with `bytes`), `captions` or `caption`, and perhaps `person_id`.
"""

import hashlib
import posixpath
import tarfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import datasets
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cffa_hf.data.rows import SPLITS, Refuse, count, shorten, stop
from cffa_hf.errors import InputError, RunStopped, one_line
from cffa_hf.files import write_tensors
from cffa_hf.inputs.images import IMAGE_SUFFIXES
from cffa_hf.inputs.packed import MAX_IMAGE_BYTES

SUFFIXES = {".tar": "tar", ".parquet": "parquet"}
MAX_TEXT_BYTES = 2**20
"""The largest file of captions of one image."""
MAX_GROUP_BYTES = 2**31
"""The largest row group of a Parquet file: all of it is in memory at once."""
INDEX_VERSION = 1


@dataclass(frozen=True)
class Shard:
    """One file of samples.

    Attributes:
        path: As its file system names it.
        kind: "tar" or "parquet".
        split: "train", "validation" or "test".
        table: Of a tar `(samples, 5)`: offset and size of the image, offset and size of the text, 1 if that is JSON. Of
            a Parquet file `(row groups, 1)`: rows. int64.
        identity: A digest that changes with the place, size and time of the file.
    """

    path: str
    kind: str
    split: str
    table: np.ndarray
    identity: str

    @property
    def samples(self) -> int:
        """Return the number of samples."""
        return len(self.table) if self.kind == "tar" else int(self.table.sum())


@dataclass(frozen=True)
class ShardFolder:
    """Shards in their order, by name.

    Attributes:
        files: The file system, of fsspec.
        shards: At least one.
        source: The folder or URL as it was given.
    """

    files: Any
    shards: tuple[Shard, ...]
    source: str

    @cached_property
    def ends(self) -> np.ndarray:
        """Number the samples of all shards through: `(shards,)`, int64, the first number after each shard."""
        return np.cumsum([shard.samples for shard in self.shards])

    @property
    def samples(self) -> int:
        """Return the number of samples of all shards."""
        return int(self.ends[-1])

    @property
    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that stand for the names of the shards and where their samples lie."""
        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(posixpath.basename(shard.path).encode())
            digest.update(np.ascontiguousarray(shard.table).tobytes())
        return digest.hexdigest()[:16]

    def locate(self, sample: int) -> tuple[Shard, int]:
        """Return the shard of a sample and its row there."""
        index = int(np.searchsorted(self.ends, sample, side="right"))
        return self.shards[index], sample - (int(self.ends[index - 1]) if index else 0)

    def of_split(self, split: str) -> "ShardFolder":
        """Keep the shards of one split.

        Raises:
            InputError: There are none.
        """
        shards = tuple(shard for shard in self.shards if shard.split == split)
        if not shards:
            raise InputError(f"{self.source}: no shard is of the split {split}; name one {split}-00000.tar.")
        return ShardFolder(self.files, shards, self.source)


def find_shards(source: str | Path) -> tuple[Any, str, list[str]]:
    """List the shards below a folder, or a URL that fsspec knows, such as `hf://datasets/owner/name`.

    Returns:
        The file system, the folder in it, and the paths of the shards, by name.

    Raises:
        InputError: The folder cannot be listed.
    """
    import fsspec

    name = str(source)
    try:
        files, root = fsspec.core.url_to_fs(str(Path(name).expanduser()) if "://" not in name else name)
        found = sorted(path for path in files.find(root) if posixpath.splitext(path)[1] in SUFFIXES)
    except Exception as error:  # every file system has errors of its own
        raise InputError(
            f"{name}: the shards cannot be listed ({one_line(error, 200)}); check the name, the network and the package "
            "that fsspec needs for such a URL."
        ) from error
    hidden = [path for path in found if posixpath.basename(path).startswith((".", "metadata."))]
    return files, root, [path for path in found if path not in hidden]


def open_shards(source: str | Path, refuse: Refuse = stop) -> ShardFolder:
    """Find and index the shards of a folder or URL; an index that was made before is read from the cache of `datasets`.

    Args:
        source: The folder or URL.
        refuse: Is given the error of each shard that cannot be indexed, which is left out then.

    Raises:
        InputError: There are none, or one of them is damaged; the file and the sample are named.
    """
    files, root, paths = find_shards(source)
    if not paths:
        raise InputError(f"{source}: there are no shards (.tar or .parquet) in it; give the folder that holds them.")
    with ThreadPoolExecutor(8) as pool:
        indexed = [pool.submit(_shard, files, root, path) for path in paths]
    shards = []
    for each in indexed:
        try:
            shards.append(each.result())
        except InputError as error:
            refuse(error)
    filled = tuple(shard for shard in shards if shard.samples)
    if not filled:
        raise InputError(f"{source}: its {count(len(paths), 'shard')} hold no sample.")
    return ShardFolder(files, filled, str(source))


def split_of(path: str) -> str:
    """Read the split from the name of a shard, or of its folder below that of all, as in train-00000.parquet.

    Without one it is train.
    """
    folder, name = posixpath.split(path)
    for part in (name, posixpath.basename(folder)):
        word = part.lower().replace("_", "-").replace(".", "-").partition("-")[0]
        word = "validation" if word == "val" else word
        if word in SPLITS:
            return word
    return "train"


def _shard(files: Any, root: str, path: str) -> Shard:
    kind = SUFFIXES[posixpath.splitext(path)[1]]
    try:
        identity = _identity(files, path)
    except InputError:
        raise
    except Exception as error:  # every file system has errors of its own
        raise _unreadable(path, error) from error
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "cffa_shards" / f"{identity}.safetensors"
    table = _cached_table(cache)
    if table is None:
        table = _index(files, path, kind)
        checksum = torch.tensor(zlib.crc32(table.tobytes()))
        with suppress(InputError, RunStopped):  # a full or read-only cache costs only the time of the next index
            write_tensors(cache, {"table": torch.from_numpy(table), "checksum": checksum})
    return Shard(path, kind, split_of(posixpath.relpath(path, root)), table, identity)


def _cached_table(cache: Path) -> np.ndarray | None:
    """Read the index that was made before, if it is there and what was written."""
    try:
        found = load_file(cache) if cache.is_file() else {}
        table = found["table"].numpy()
        return table if zlib.crc32(table.tobytes()) == found["checksum"] else None
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError):
        return None


def _identity(files: Any, path: str) -> str:
    """Digest what tells that a file has changed."""
    info = files.info(path)
    if info.get("type") != "file":
        raise InputError(f"{path}: the shard is no regular file, and a pipe would be waited for; copy it again.")
    tells = [str(info.get(key)) for key in ("size", "mtime", "ETag", "etag", "LastModified", "sha", "blob_id")]
    return hashlib.sha256("\0".join([str(INDEX_VERSION), str(files.protocol), path, *tells]).encode()).hexdigest()


def _index(files: Any, path: str, kind: str) -> np.ndarray:
    try:
        with files.open(path, "rb") as file:
            return index_tar(file, path) if kind == "tar" else index_parquet(file, path)
    except InputError:
        raise
    except Exception as error:  # every file system has errors of its own
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> InputError:
    return InputError(f"{path}: the shard cannot be read ({one_line(error, 200)}); copy it again.")


def index_tar(file: BinaryIO, source: str) -> np.ndarray:
    """Index a tar file by its headers; nothing is unpacked.

    Args:
        file: Open for reading, seekable.
        source: For messages.

    Returns:
        As `Shard.table`.

    Raises:
        InputError: The file is truncated, or a sample has no image or no captions, or more than one of them.
    """
    samples: list[dict[str, tuple[int, int]]] = []
    keys: list[str] = []
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or all headers stay in memory
                folder, _, name = member.name.rpartition("/")
                key, _, extension = name.partition(".")
                kind = _part(f".{extension.rpartition('.')[2].lower()}")
                if not member.isreg() or member.sparse is not None or not key or kind is None:
                    continue
                key = f"{folder}/{key}"
                if not keys or keys[-1] != key:
                    samples.append({})
                    keys.append(key)
                where = f"{source}: sample {len(keys) - 1} ({shorten(key.lstrip('/'))})"
                if kind in samples[-1]:
                    raise InputError(f"{where} has two files of the kind {kind}; write the shard anew.")
                if member.size > (MAX_IMAGE_BYTES if kind == "image" else MAX_TEXT_BYTES):
                    raise InputError(f"{where} has a file of {member.size:,} bytes, which is refused; leave it out.")
                samples[-1][kind] = (member.offset_data, member.size)
            end = tar.offset
    except tarfile.TarError as error:
        reason = f"{one_line(error)}, after {count(len(keys), 'sample')}"
        raise InputError(f"{source}: the tar file is truncated or damaged ({reason}); copy it again.") from error
    file.seek(end)
    if len(file.read(512)) < 512:  # it ends with blocks of zeros
        raise InputError(
            f"{source}: the tar file is truncated (it has no end mark after {count(len(keys), 'sample')}); copy it again."
        )
    return np.array([_entry(parts, source, row, keys[row]) for row, parts in enumerate(samples)], np.int64).reshape(
        -1, 5
    )


def _part(suffix: str) -> str | None:
    return {".json": "json", ".txt": "txt"}.get(suffix, "image" if suffix in IMAGE_SUFFIXES else None)


def _entry(parts: dict[str, tuple[int, int]], source: str, row: int, key: str) -> tuple[int, ...]:
    missing = [name for name, there in (("image", "image" in parts), (".json or .txt", len(parts) > 1)) if not there]
    if "image" not in parts or missing:
        raise InputError(
            f"{source}: sample {row} ({shorten(key.lstrip('/'))}) has no {missing[0]}; its files must follow each other in "
            "the tar: write it anew."
        )
    return (*parts["image"], *parts.get("json", parts.get("txt", (0, 0))), int("json" in parts))


def index_parquet(file: BinaryIO, source: str) -> np.ndarray:
    """Index a Parquet file by its footer.

    Args:
        file: Open for reading, seekable.
        source: For messages.

    Returns:
        As `Shard.table`.

    Raises:
        InputError: The file is truncated, or lacks a column, or a row group is too large.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{source}: the Parquet file is truncated or damaged ({one_line(error, 120)}); copy it again."
        ) from error
    caption_column(parquet.schema_arrow.names, source)
    groups = [parquet.metadata.row_group(index) for index in range(parquet.metadata.num_row_groups)]
    if large := [group for group in groups if group.total_byte_size > MAX_GROUP_BYTES]:
        raise InputError(
            f"{source}: a row group of {large[0].total_byte_size:,} bytes is refused, since it is read at once; write the "
            "file with row groups of some hundred rows."
        )
    return np.array([group.num_rows for group in groups], np.int64).reshape(-1, 1)


def caption_column(names: Sequence[str], source: str) -> str:
    """Return the column of captions.

    Raises:
        InputError: It or `image` is missing.
    """
    column = next((name for name in ("captions", "caption") if name in names), None)
    if column is None or "image" not in names:
        raise InputError(
            f"{source}: the Parquet file needs the columns image and captions (or caption), and has {', '.join(names)}."
        )
    return column
