"""Whole folders of shards in the dataset form: captions and identities in memory-mapped files, images where they are."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, is_progress_bar_enabled

from cffa_hf.data.division import PersonDatasetDict
from cffa_hf.data.entries import AT_ONCE
from cffa_hf.data.large_sets import divide, hold_out
from cffa_hf.data.processes import ordered_map, processor_count
from cffa_hf.data.row_cache import open_or_build, write_facts
from cffa_hf.data.rows import FEATURES, PersonRow, Refuse, stop
from cffa_hf.data.shard_reading import ShardReader, group_of, samples_of
from cffa_hf.data.shards import Shard, ShardFolder, open_shards
from cffa_hf.data.source_rows import SourceRows
from cffa_hf.errors import InputError
from cffa_hf.inputs.packed import parquet_row_path, tar_member_path
from cffa_hf.progress import progress_bar

_VERSION = 1
_NO_IDENTITY = -1


def load_shards(
    source: str | Path,
    *,
    validation_identities: int | None = None,
    test_identities: int | None = None,
    seed: int = 0,
) -> PersonDatasetDict:
    """Load the shards of a local folder in the dataset form; images stay where they are and are read one by one.

    All captions are read once; from then on the rows are memory-mapped, see `cffa_hf.data.row_cache`, until a shard is
    another one. A sample without an identity is one of its own. Splits are read from names (train-00000.tar, or a folder
    of the name); where there is none but train, identities are divided as those of one's own data are.

    Args:
        source: The folder.
        validation_identities: As `load_person_dataset` has it.
        test_identities: As `load_person_dataset` has it.
        seed: Draws the identities that are held out.

    Raises:
        InputError: Names the shard and the sample that cannot be used.
    """
    folder = open_shards(source)
    root = str(Path(source).expanduser().absolute())
    key = ["shards", _VERSION, root, [(shard.split, shard.identity) for shard in folder.shards]]
    rows, _ = open_or_build(key, partial(_build, folder, root))
    if set(rows) == {"train"}:
        return divide(rows["train"], str(source), validation_identities, test_identities, seed)
    if test_identities is not None:
        raise InputError(
            f"test_identities is {test_identities}, but {source} is divided into splits already; leave the setting out."
        )
    return hold_out(rows, str(source), validation_identities, seed)


def read_shard_rows(source: str | Path, refuse: Refuse = stop) -> tuple[SourceRows, dict[int, str]]:
    """Read the rows that `load_shards` divides.

    Args:
        source: The folder.
        refuse: Is given every error of a shard or a sample, which is left out then.

    Returns:
        The rows, and the path of each image by `image_id`.

    Raises:
        InputError: Names the shard and the sample that cannot be used.
    """
    folder = open_shards(source, refuse)
    divided = {shard.split for shard in folder.shards} != {"train"}
    samples = dict(samples_of(folder, refuse))
    unnamed = 1 + max((sample.person_id for sample in samples.values() if sample.person_id is not None), default=-1)
    if unnamed + folder.samples >= 2**63:
        unnamed = 0  # digests of text: one of them equals a small number once in 10^12 data sets
    rows, paths = [], {}
    for number, sample in samples.items():
        shard, row = folder.locate(number)
        rows.append(
            PersonRow.model_construct(
                image_id=number,
                file_path=f"{os.path.relpath(shard.path, Path(source).expanduser())}/{row}",
                captions=sample.captions,
                person_id=unnamed + number if sample.person_id is None else sample.person_id,
                split=shard.split if divided else None,
                camera=None,
            )
        )
        paths[number] = _path_of(shard, row)

    def locate(number: int) -> tuple[str, int]:
        shard, row = folder.locate(number)
        return shard.path, row

    root = Path(source).expanduser()
    return SourceRows(source, root, (), root, rows, rows, locate), paths


def _build(folder: ShardFolder, root: str, unfinished: Path) -> None:
    """Read all samples in several processes; number those without identity when all identities are known."""
    splits = list(dict.fromkeys(shard.split for shard in folder.shards))
    parts = list(_parts(folder))
    identities: dict[str, list[np.ndarray]] = {split: [] for split in splits}
    bar = progress_bar(
        total=folder.samples, desc="reading captions", unit="image", disable=not is_progress_bar_enabled(), leave=False
    )
    with bar, ExitStack() as opened:
        writers = {split: _writer(opened, unfinished / f"{split}.unnumbered.arrow") for split in splits}
        processes = min(processor_count(), len(parts))
        for split, batch in ordered_map(_make_part, parts, shared=(folder, root), processes=processes):
            writers[split].write_batch(batch)
            identities[split].append(batch.column("person_id").to_numpy())
            bar.update(len(batch))
    unnamed = 1 + max(int(part.max()) for parts in identities.values() for part in parts)
    if unnamed + folder.samples >= 2**63:
        unnamed = 0  # digests of text: one of them equals a small number once in 10^12 data sets
    for split in splits:
        _number(unfinished / f"{split}.unnumbered.arrow", unfinished / f"{split}.arrow", unnamed)
    write_facts(unfinished, {split: Dataset.from_file(str(unfinished / f"{split}.arrow")) for split in splits}, [])


def _writer(opened: ExitStack, path: Path) -> Any:
    return opened.enter_context(pa.ipc.new_stream(opened.enter_context(path.open("wb")), FEATURES.arrow_schema))


def _parts(folder: ShardFolder) -> Iterator[tuple[int, int]]:
    """Divide the samples into runs of one shard each, `(first, after the last)`."""
    begin = 0
    for end in folder.ends.tolist():
        for first in range(begin, end, AT_ONCE):
            yield first, min(first + AT_ONCE, end)
        begin = end


def _make_part(shared: tuple[ShardFolder, str], part: tuple[int, int]) -> tuple[str, pa.RecordBatch]:
    """Read the samples of one run as rows; the identity of one that has none is `_NO_IDENTITY`."""
    folder, root = shared
    reader = ShardReader(folder)
    try:
        samples = [reader.read(number, image=False) for number in range(*part)]
    finally:
        reader.close()
    shard, first = folder.locate(part[0])
    places = range(first, first + len(samples))
    name = os.path.relpath(shard.path, root)
    columns: dict[str, list[Any]] = {
        "image": [{"path": _path_of(shard, place), "bytes": None} for place in places],
        "captions": [sample.captions for sample in samples],
        "person_id": [_NO_IDENTITY if sample.person_id is None else sample.person_id for sample in samples],
        "image_id": list(range(*part)),
        "file_path": [f"{name}/{place}" for place in places],
        "camera": [None] * len(samples),
    }
    return shard.split, pa.RecordBatch.from_pydict(columns, schema=FEATURES.arrow_schema)


def _number(source: Path, target: Path, unnamed: int) -> None:
    """Copy rows, and give those without identity one of their own: `unnamed` and the number of the sample."""
    place = FEATURES.arrow_schema.get_field_index("person_id")
    with pa.memory_map(str(source)) as mapped, ExitStack() as opened:
        writer = _writer(opened, target)
        for batch in pa.ipc.open_stream(mapped):
            people, numbers = (batch.column(name).to_numpy() for name in ("person_id", "image_id"))
            people = pa.array(np.where(people == _NO_IDENTITY, unnamed + numbers, people))
            writer.write_batch(batch.set_column(place, FEATURES.arrow_schema.field(place), people))
    source.unlink()


def _path_of(shard: Shard, row: int) -> str:
    """Name the image of a sample of a local shard."""
    if shard.kind == "tar":
        return tar_member_path(shard.path, int(shard.table[row, 0]), int(shard.table[row, 1]))
    return parquet_row_path(shard.path, *group_of(shard, row))
