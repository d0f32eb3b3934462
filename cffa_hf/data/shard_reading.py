"""Samples out of shards: bytes and captions of one sample at a time, and whole folders in the dataset form."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cffa_hf.data.rows import Refuse, shorten, stop
from cffa_hf.data.shards import Shard, ShardFolder, caption_column
from cffa_hf.errors import InputError, one_line
from cffa_hf.inputs.captions import LONGEST_CAPTION, clean_caption
from cffa_hf.inputs.packed import image_bytes

OPEN_FILES = 4
BLOCK_BYTES = 2**22
"""What is read ahead of a remote file."""


@dataclass(frozen=True)
class ShardSample:
    """An image as it lies in a shard, with its captions.

    Attributes:
        image: The bytes of the image file; None: they were not asked for.
        captions: Cleaned, at least one.
        person_id: As the shard says, or a digest of it where that is text; None: it says nothing.
    """

    image: bytes | None
    captions: list[str]
    person_id: int | None


class ShardReader:
    """Read samples of shards, fast where they are asked for in their order.

    A reader is made in the process that uses it: it keeps a few files open, and the row group that was read last.

    Args:
        folder: The shards.
    """

    def __init__(self, folder: ShardFolder) -> None:
        self.folder = folder
        self._files = copy(folder.files)  # a connection to S3 or the like is none in a process that was forked
        self._open: OrderedDict[str, Any] = OrderedDict()
        self._group: tuple[tuple[str, int, bool], pa.Table] | None = None

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._open.popitem()[1].close()

    def read(self, sample: int, *, image: bool = True) -> ShardSample:
        """Read one sample.

        Args:
            sample: Its number among those of all shards.
            image: Whether the image is wanted.

        Raises:
            InputError: Names the shard and the sample.
        """
        shard, row = self.folder.locate(sample)
        where = f"{shard.path}: sample {row}"
        try:
            if shard.kind == "tar":
                return self._of_tar(shard, row, where, image)
            return self._of_parquet(shard, row, where, image)
        except InputError:
            raise
        except Exception as error:  # every file system has errors of its own
            self.close()
            raise InputError(f"{where} cannot be read ({one_line(error, 200)}); copy the shard again.") from error

    def _of_tar(self, shard: Shard, row: int, where: str, image: bool) -> ShardSample:
        offset, size, text_offset, text_size, is_json = map(int, shard.table[row])
        file = self._file(shard.path)
        parts = []
        wanted = [(offset, size)] * image + [(text_offset, text_size)]
        for start, length in sorted(wanted):  # forwards, as the shard is laid out
            file.seek(start)
            parts.append((start, file.read(length)))
            if len(parts[-1][1]) < length:
                raise InputError(f"{where} is cut off; copy the shard again.")
        found = dict(parts)
        record = _parse(found[text_offset], bool(is_json), where)
        return _sample(found.get(offset) if image else None, record, "id", where)

    def _of_parquet(self, shard: Shard, row: int, where: str, image: bool) -> ShardSample:
        group, row = group_of(shard, row)
        key = (shard.path, group, image)
        if self._group is None or self._group[0] != key:
            self._group = None  # the old one is let go of before the new one is read
            parquet = pq.ParquetFile(self._file(shard.path))
            names = parquet.schema_arrow.names
            columns = [caption_column(names, shard.path), *(["person_id"] if "person_id" in names else [])]
            table = parquet.read_row_group(group, columns=[*columns, *(["image"] * image)], use_threads=False)
            self._group = (key, table)
        record = self._group[1].slice(row, 1).to_pylist()[0]
        content = image_bytes(record["image"], where) if image else None
        return _sample(content, record, "person_id", where)

    def _file(self, path: str) -> Any:
        if path not in self._open:
            while len(self._open) >= OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            local = "file" in str(self._files.protocol)
            options = {} if local else {"block_size": BLOCK_BYTES, "cache_type": "readahead"}
            self._open[path] = self._files.open(path, "rb", **options)
        self._open.move_to_end(path)
        return self._open[path]


def group_of(shard: Shard, row: int) -> tuple[int, int]:
    """Return the row group of a row of a Parquet shard, and its row there."""
    ends = np.cumsum(shard.table[:, 0])
    group = int(np.searchsorted(ends, row, side="right"))
    return group, row - (int(ends[group - 1]) if group else 0)


def _parse(content: bytes, is_json: bool, where: str) -> dict[str, Any]:
    try:
        text = content.decode("utf-8-sig")
        if not is_json:
            return {"caption": text}
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where} has captions that are no {'JSON in ' * is_json}UTF-8 ({one_line(error, 80)}); write it anew."
        ) from error
    if not isinstance(record, dict):
        raise InputError(
            f"{where} has {shorten(record)} as JSON, where an object with captions belongs; write it anew."
        )
    return record


def _sample(image: bytes | None, record: dict[str, Any], id_key: str, where: str) -> ShardSample:
    found = record.get("captions", record.get("caption"))
    texts = [found] if isinstance(found, str) else found
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{where} has {shorten(found)} as captions, where a list of texts belongs; write it anew.")
    if any(len(text) > LONGEST_CAPTION for text in texts):
        raise InputError(f"{where} has a caption of more than {LONGEST_CAPTION:,} characters; shorten it.")
    captions = [cleaned for cleaned in map(clean_caption, texts) if cleaned]
    if not captions:
        raise InputError(f"{where} has no caption with a word in it; leave it out.")
    return ShardSample(image, captions, _person_id(record.get(id_key), where))


def _person_id(value: Any, where: str) -> int | None:
    if isinstance(value, str) and value:
        return int.from_bytes(hashlib.blake2b(value.encode("utf-8", "replace"), digest_size=8).digest(), "big") >> 1
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63):
        return value
    raise InputError(f"{where} has {shorten(value)} as identity; it must be a whole number from 0 or text.")


def iterate(folder: ShardFolder) -> Iterator[ShardSample]:
    """Read all samples without their images, in the order of the shards."""
    yield from (sample for _, sample in samples_of(folder, stop))


def samples_of(folder: ShardFolder, refuse: Refuse) -> Iterator[tuple[int, ShardSample]]:
    """Read all samples without their images, by their number."""
    reader = ShardReader(folder)
    try:
        for number in range(folder.samples):
            try:
                yield number, reader.read(number, image=False)
            except InputError as error:
                refuse(error)
    finally:
        reader.close()
