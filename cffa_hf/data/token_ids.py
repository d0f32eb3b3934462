"""The token ids of captions: encoded once by several processes, kept as memory-mapped Arrow files, read one at a time."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset
from filelock import FileLock
from transformers import CLIPTokenizer

from cffa_hf.data.caching import REMEDY, is_whole, writable_cache, write_checksums
from cffa_hf.data.columns import caption_counts, caption_lists, captions_digest
from cffa_hf.data.mapped_pages import MappedPages
from cffa_hf.data.processes import ordered_map, processor_count
from cffa_hf.files import new_file, replace_folder
from cffa_hf.inputs.processor import encode_captions
from cffa_hf.progress import progress_bar

CACHED_CAPTIONS = 20_000
"""From so many captions on, their ids are kept in the cache of `datasets`; fewer are encoded in a second or two."""
PART_CAPTIONS = 20_000
"""About as many captions are one file: what an interrupted build loses, and what a process has in memory."""
_VERSION = 1


class TokenIds:
    """The ids of many captions, unpadded, by the number of the caption.

    Only the ends of the parts are kept as objects; ids are read from arrays, which may lie in files. A pickled copy opens
    the files again.

    Args:
        parts: Ends of the captions, beginning with 0, `(captions + 1,)`, and their ids one after the other; for each part.
        files: Where the parts lie, one file each, if they do.
    """

    def __init__(self, parts: Sequence[tuple[np.ndarray, np.ndarray]], files: Sequence[Path] = ()) -> None:
        self._parts = list(parts)
        self._files = list(files)
        self._starts = np.cumsum([0, *(len(ends) - 1 for ends, _ in parts)])
        self._pages = MappedPages([ids for _, ids in parts])

    @classmethod
    def from_files(cls, files: Sequence[Path]) -> "TokenIds":
        """Open the parts of a cache, memory-mapped."""
        return cls([_open_part(file) for file in files], files)

    def __reduce__(self) -> Any:
        return (TokenIds.from_files, (self._files,)) if self._files else (TokenIds, (self._parts,))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> list[int]:
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        ends, ids = self._parts[part]
        place = index - self._starts[part]
        self._pages.count_read()
        return ids[ends[place] : ends[place + 1]].tolist()


def encode_rows(rows: Dataset, tokenizer: CLIPTokenizer, context_length: int) -> TokenIds:
    """Encode all captions of a split, row after row, or open the cache that an earlier call has made of the same captions.

    The cache lies in that of `datasets`, under a digest of the captions, the tokenizer, the longest result and this
    format. A build that was interrupted goes on with the parts that it lacks; of several processes that begin at once, one
    builds and the others wait.

    Args:
        rows: In the dataset form; the column `captions` is used.
        tokenizer: Of `cffa_hf.inputs.processor`.
        context_length: Longest result in tokens.

    Raises:
        InputError: If the cache cannot be written.
    """
    captions = rows.select_columns(["captions"]).with_format("arrow")
    total = int(caption_counts(rows).sum())
    if total < CACHED_CAPTIONS:
        lists = [caption_lists(captions, 0, len(rows))] if len(rows) else []
        return TokenIds([_as_arrays(part.flatten().to_pylist(), tokenizer, context_length) for part in lists])
    rows_of_part = max(1, PART_CAPTIONS * len(rows) // total)
    key = [_VERSION, rows_of_part, captions_digest(rows), _tokenizer_digest(tokenizer), context_length]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "cffa_token_ids" / digest
    names = [f"part-{number:05d}.arrow" for number in range(-(-len(rows) // rows_of_part))]
    files = [folder / name for name in names]
    with writable_cache(folder.parent), FileLock(f"{folder}.lock"):
        if is_whole(folder, names):
            return TokenIds.from_files(files)
        if folder.is_dir():
            shutil.rmtree(folder)
        _build((captions, tokenizer, context_length, rows_of_part), folder, names)
    return TokenIds.from_files(files)


def _build(shared: tuple[Dataset, CLIPTokenizer, int, int], folder: Path, names: list[str]) -> None:
    """Write all parts that are not there into a folder beside the final one, and rename it when it is complete."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    wanted = [(number, unfinished / name) for number, name in enumerate(names) if not (unfinished / name).is_file()]
    bar = progress_bar(
        total=len(shared[0]),
        initial=(len(names) - len(wanted)) * shared[3],
        desc="tokenising captions",
        unit="image",
        disable=not datasets.is_progress_bar_enabled(),
        leave=False,
    )
    processes = max(1, min(processor_count(), len(wanted)))
    with bar:
        for rows in ordered_map(_write_part, wanted, shared=shared, processes=processes):
            bar.update(rows)
    for left in set(unfinished.iterdir()) - {unfinished / name for name in names}:
        left.unlink()  # by a killed attempt
    write_checksums(unfinished, names)
    replace_folder(unfinished, folder)


def _write_part(shared: tuple[Dataset, CLIPTokenizer, int, int], part: tuple[int, Path]) -> int:
    """Encode the captions of one part into its file, atomically, and return the number of its rows."""
    captions, tokenizer, context_length, rows_of_part = shared
    number, path = part
    start, end = number * rows_of_part, min(len(captions), (number + 1) * rows_of_part)
    ends, ids = _as_arrays(caption_lists(captions, start, end).flatten().to_pylist(), tokenizer, context_length)
    column = pa.ListArray.from_arrays(pa.array(ends), pa.array(ids))
    batch = pa.record_batch({"input_ids": column})
    with (
        new_file(path, remedy=REMEDY) as partial,
        partial.open("wb") as file,
        pa.ipc.new_file(file, batch.schema) as writer,
    ):
        writer.write_batch(batch)
    return end - start


def _as_arrays(texts: list[str], tokenizer: CLIPTokenizer, context_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Encode texts; return the ends of the captions, int32, and all ids in the smallest type that holds the vocabulary."""
    encoded = encode_captions(tokenizer, texts, context_length)
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    kind = np.uint16 if len(tokenizer) <= 2**16 else np.int32
    return ends, np.fromiter((index for ids in encoded for index in ids), dtype=kind, count=int(ends[-1]))


def _open_part(file: Path) -> tuple[np.ndarray, np.ndarray]:
    with pa.memory_map(str(file)) as source:
        column = pa.ipc.open_file(source).get_batch(0).column("input_ids")
    return column.offsets.to_numpy(), column.values.to_numpy()


def _tokenizer_digest(tokenizer: CLIPTokenizer) -> str:
    model = json.loads(tokenizer.backend_tokenizer.to_str())
    parts = {key: value for key, value in model.items() if key not in ("truncation", "padding")}
    parts["control"] = [str(tokenizer.bos_token), str(tokenizer.eos_token)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
