"""Rows of a large set as memory-mapped Arrow files: read, validated and written once, opened in a moment from then on."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset, DatasetDict
from filelock import FileLock
from pydantic import TypeAdapter

from cffa_hf.data.caching import REMEDY, is_whole, writable_cache, write_checksums
from cffa_hf.data.entries import Entry, batched, merge_entries, number_identities, read_entries
from cffa_hf.data.facts import count_split
from cffa_hf.data.layouts import Layout
from cffa_hf.data.mapped_pages import MappedPages
from cffa_hf.data.processes import ordered_map
from cffa_hf.data.row_building import Notices, Source, make_part
from cffa_hf.data.rows import FEATURES, SPLITS, Refuse, row_error, stop
from cffa_hf.errors import InputError
from cffa_hf.files import file_digest, new_folder, write_text
from cffa_hf.json_files import read_object
from cffa_hf.progress import progress_bar

_VERSION = 1
_FACTS = "facts.json"
# Images that are looked for to find the folder that paths are relative to.
_PROBED = 64


@dataclass
class SetFacts:
    """What is known of a large set once it has been read.

    Attributes:
        counts: (identities, images, captions) of each split.
        remarks: What is irregular in it, one sentence each, without the full stop.
    """

    counts: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def cached_rows(
    layout: Layout, folder: Path, files: Sequence[tuple[str, Path]], *, check_files: bool = True
) -> tuple[DatasetDict, SetFacts]:
    """Open the rows of a large set, after reading its annotation files if they were not read before.

    The cache lies in that of `datasets`, under a digest of the files' content, the layout, the folder and this format. What
    an interrupted build has left is removed; of several processes that begin at once, one builds and the others wait.

    Args:
        layout: Of the files.
        folder: Of the data set.
        files: (split, file), as `cffa_hf.data.layouts.find_annotations` gives them.
        check_files: Whether every image must be there and within its folder.

    Raises:
        InputError: Names the file, the row and the remedy.
    """
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "cffa_rows"
    with writable_cache(cache):
        content = [(split, str(file.absolute()), _content_digest(file, cache)) for split, file in files]
    key = [_VERSION, asdict(layout), str(folder.absolute()), content, check_files]
    return open_or_build(key, partial(_build, layout, folder, list(files), check_files))


def open_or_build(key: list[Any], build: Callable[[Path], None]) -> tuple[DatasetDict, SetFacts]:
    """Open the rows that are cached under a key, after building them if they are not there, or damaged.

    Args:
        key: All that the rows depend on, as JSON.
        build: Writes `SPLIT.arrow` of each split into a folder, and then `write_facts`.

    Raises:
        InputError: If the cache cannot be written, or from `build`.
    """
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "cffa_rows"
    with writable_cache(cache):
        target = cache / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        with FileLock(f"{target}.lock"):
            if not is_whole(target):
                if target.is_dir():
                    shutil.rmtree(target)
                with new_folder(target, remedy=REMEDY) as unfinished:
                    build(unfinished)
                    write_checksums(unfinished, sorted(file.name for file in unfinished.iterdir()))
            return open_rows(target)


def open_rows(folder: Path) -> tuple[DatasetDict, SetFacts]:
    """Open a folder of whole rows, memory-mapped."""
    facts = TypeAdapter(SetFacts).validate_python(read_object(folder / _FACTS))
    result = DatasetDict()
    for split in facts.counts:
        result[split] = Dataset.from_file(str(folder / f"{split}.arrow"))
        MappedPages(result[split]).release()  # opening reads something of every part of the file
    return result, facts


def _content_digest(file: Path, cache: Path) -> str:
    """Digest a file; as long as its path, size and time stay the same, it is read only once."""
    status = file.stat()
    name = hashlib.sha256(f"{file.absolute()}\0{status.st_size}\0{status.st_mtime_ns}".encode()).hexdigest()[:32]
    known = cache / f"{name}.digest"
    with suppress(OSError, ValueError):
        digest = known.read_text(encoding="utf-8") if known.is_file() else ""
        if re.fullmatch("[0-9a-f]{64}", digest):
            return digest
    digest = file_digest(file)
    write_text(known, digest, remedy=REMEDY)
    return digest


def _build(layout: Layout, folder: Path, files: list[tuple[str, Path]], check_files: bool, unfinished: Path) -> None:
    noticed = write_rows(layout, folder, files, unfinished, check_files=check_files)
    noticed.refuse_missing()
    rows = written_rows(unfinished, files)
    write_facts(unfinished, rows, noticed.remarks(rows))


def written_rows(folder: Path, files: Sequence[tuple[str, Path]]) -> DatasetDict:
    """Open what `write_rows` wrote.

    Raises:
        InputError: There is no row in it.
    """
    found = {split: folder / f"{split}.arrow" for split in SPLITS if (folder / f"{split}.arrow").is_file()}
    if not found:
        raise InputError(f"{files[0][1]}: no image in it has a caption; use the original file.")
    return DatasetDict({split: Dataset.from_file(str(file)) for split, file in found.items()})


def write_rows(
    layout: Layout,
    folder: Path,
    files: list[tuple[str, Path]],
    target: Path,
    *,
    check_files: bool = True,
    refuse: Refuse = stop,
) -> Notices:
    """Read all entries in this process, turn them into rows in others, and write these as they come.

    Args:
        layout: Of the files.
        folder: Of the data set.
        files: (split, file).
        target: A folder, into which an Arrow file of each split is written.
        check_files: Whether images must be within the folder, and it is noticed which are missing.
        refuse: Is given every error; what is wrong is left out then.

    Returns:
        What was noticed of the rows.

    Raises:
        InputError: Names the file, the row and the remedy.
    """
    entries = (
        merge_entries(layout, files, target, refuse) if layout.by_base_name else read_entries(layout, files, refuse)
    )
    first = list(islice(entries, _PROBED))
    if not first:
        raise InputError(f"{files[0][1]}: there are no images in it; use the original file.")
    try:
        images = _image_folder(layout, folder, files, first, check_files)
    except InputError as error:
        refuse(error)
        images = _image_folder(layout, folder, files, first, False)
    source = Source(layout, files, images, check_files)
    entries = chain(first, entries)
    if layout.person_key is not None:
        entries = number_identities(layout, files, entries, refuse)
    noticed = Notices(source, refuse)
    writers: dict[str, Any] = {}
    bar = progress_bar(
        desc=f"reading {layout.name}", unit="image", disable=not datasets.is_progress_bar_enabled(), leave=False
    )
    with ExitStack() as opened:
        opened.enter_context(bar)
        for part in ordered_map(make_part, batched(enumerate(entries)), shared=source):
            for split, batch in part.batches.items():
                if not len(batch):
                    continue
                if split not in writers:
                    stream = opened.enter_context((target / f"{split}.arrow").open("wb"))
                    writers[split] = opened.enter_context(pa.ipc.new_stream(stream, FEATURES.arrow_schema))
                writers[split].write_batch(batch)
            bar.update(noticed.add(part))
    return noticed


def write_facts(folder: Path, rows: Mapping[str, Dataset], remarks: list[str]) -> None:
    """Count the rows of each split, and write what is known of them beside their files."""
    counts = {split: count_split(part) for split, part in rows.items()}
    facts = SetFacts(
        {split: (each["identities"], each["images"], each["captions"]) for split, each in counts.items()}, remarks
    )
    write_text(folder / _FACTS, json.dumps(asdict(facts)), remedy=REMEDY)


def _image_folder(
    layout: Layout, folder: Path, files: Sequence[tuple[str, Path]], first: Sequence[Entry], check_files: bool
) -> Path:
    """Return the first folder in which one of the images is; where they are not checked, the first that exists.

    Raises:
        InputError: None of the first images is in any of them.
    """
    candidates = [folder / name if name else folder for name in layout.images]
    paths = []
    for entry in first:
        path = entry.path
        if path is None and isinstance(entry.content, dict):
            path = entry.content.get(layout.path_key)
        if isinstance(path, str) and "\0" not in path:
            paths.append(path)
    for candidate in candidates:
        if any((candidate / path).is_file() for path in paths):
            return candidate
    if not check_files or not paths:  # an entry without a path is explained where it is validated
        return next((candidate for candidate in candidates if candidate.is_dir()), folder)
    looked = ", ".join(map(str, candidates))
    problem = f"names an image that is not there, and so do the rows after it; unpack the images in one of {looked}"
    raise row_error(files[first[0].file][1], first[0].row, paths[0], problem)
