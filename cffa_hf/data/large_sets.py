"""Loading of what the table of layouts describes: sets for pre-training with millions of images, and others."""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from datasets import Dataset, DatasetDict

from cffa_hf.data.columns import column_array
from cffa_hf.data.division import Division, PersonDatasetDict
from cffa_hf.data.facts import count_split
from cffa_hf.data.layouts import LAYOUTS, Layout, find_annotations
from cffa_hf.data.own_data import division_numbers
from cffa_hf.data.row_cache import SetFacts, cached_rows
from cffa_hf.data.rows import SPLITS, drawn_places, held_out_number
from cffa_hf.errors import InputError

logger = logging.getLogger(__name__)


def load_layout(
    name: str,
    root: str | Path,
    annotation_file: str | Path | None = None,
    validation_identities: int | None = None,
    seed: int = 0,
    check_files: bool = True,
) -> PersonDatasetDict:
    """Load a data set of the table of layouts.

    Its annotation files are read once, as a stream; from then on its rows are memory-mapped, see
    `cffa_hf.data.row_cache`. Where a row has no identity, each image is one of its own. Blank captions, images without a
    caption, images that are listed twice and counts that differ from the published ones are told in one warning.

    Args:
        name: A key of `cffa_hf.data.layouts.LAYOUTS`.
        root: The folder of the data set, or the folder above.
        annotation_file: Another annotation file, for layouts with one split.
        validation_identities: Identities of train that are held out for validation; None: none for a set that has only a
            train split, otherwise as for the benchmarks.
        seed: Draws them.
        check_files: Whether every image must be there.

    Returns:
        Splits of the dataset form; `image_id` numbers the entries of all files.

    Raises:
        InputError: Names the file, the row and the remedy.
    """
    layout = LAYOUTS[name]
    folder, files = find_annotations(layout, Path(root).expanduser(), annotation_file)
    rows, facts = cached_rows(layout, folder, files, check_files=check_files)
    announce(layout, folder, facts)
    if validation_identities is None and set(rows) == {"train"}:
        validation_identities = 0
    return hold_out(rows, str(folder), validation_identities, seed)


def announce(layout: Layout, folder: Path, facts: SetFacts) -> None:
    """Tell the counts of a set in the log, and in one warning what is irregular in it."""
    parts = []
    for split, (identities, images, captions) in facts.counts.items():
        parts.append(f"{split} has {identities:,} identities, {images:,} images and {captions:,} captions")
    own = "; each image is an identity of its own" if layout.person_key is None else ""
    logger.info(f"{folder}: {', '.join(parts)}{own}.")
    remarks = [*facts.remarks, *differing_counts(layout, facts.counts)]
    if remarks:
        warnings.warn(f"{folder}: {'; '.join(remarks)}.", stacklevel=4)


def differing_counts(layout: Layout, counts: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Describe the counts that differ from the published ones, without the full stop.

    Args:
        layout: Of the set.
        counts: (identities, images, captions) of each split.
    """
    found = [sum(numbers) for numbers in zip(*counts.values(), strict=True)]
    return [
        f"{here:,} {what} instead of the {there:,} that are published"
        for what, here, there in zip(("identities", "images", "captions"), found, layout.counts, strict=True)
        if there is not None and here != there
    ]


def hold_out(rows: DatasetDict, source: str, validation_identities: int | None, seed: int) -> PersonDatasetDict:
    """Move identities of the train split to a validation split, as `cffa_hf.data.rows.hold_out_validation` does of rows.

    Args:
        rows: Splits of the dataset form.
        source: For messages.
        validation_identities: How many; 0: none; None: 200, or a tenth of fewer than 2,000.
        seed: Draws them.

    Raises:
        InputError: If there is a validation split already, or train cannot spare so many.
    """
    people = np.unique(column_array(rows["train"], "person_id")) if "train" in rows else np.empty(0, np.int64)
    number = held_out_number(len(people), "validation" in rows, source, validation_identities)
    result: dict[str, Dataset] = dict(rows)
    if number:
        result |= _select(rows["train"], {"validation": people[drawn_places(len(people), number, seed)]})
    return _in_order(result, "held out" if number else "source", seed)


def divide(
    rows: Dataset, source: str, validation_identities: int | None, test_identities: int | None, seed: int
) -> PersonDatasetDict:
    """Divide the identities of undivided rows, as `cffa_hf.data.own_data.assign_splits` does of rows.

    Args:
        rows: In the dataset form.
        source: For messages.
        validation_identities: How many; None: a tenth.
        test_identities: How many; None: a tenth.
        seed: Draws them.

    Raises:
        InputError: The numbers do not fit the data.
    """
    people = np.unique(column_array(rows, "person_id"))
    validation, test = division_numbers(len(people), source, validation_identities, test_identities, seed)
    drawn = people[drawn_places(len(people), validation + test, seed)]
    return _in_order(_select(rows, {"validation": drawn[:validation], "test": drawn[validation:]}), "divided", seed)


def _select(rows: Dataset, people: Mapping[str, np.ndarray]) -> dict[str, Dataset]:
    """Move the rows of some identities into splits of their own; the others are train."""
    identities = column_array(rows, "person_id")
    moved = {split: np.isin(identities, drawn) for split, drawn in people.items() if len(drawn)}
    moved["train"] = ~np.logical_or.reduce([*moved.values(), np.zeros(len(identities), bool)])
    return {split: rows.select(np.flatnonzero(chosen)) for split, chosen in moved.items()}


def _in_order(
    splits: Mapping[str, Dataset], how: Literal["source", "held out", "divided"], seed: int
) -> PersonDatasetDict:
    ordered = {split: splits[split] for split in SPLITS if split in splits}
    identities = {split: count_split(part)["identities"] for split, part in ordered.items()}
    return PersonDatasetDict(ordered, Division(how=how, seed=None if how == "source" else seed, identities=identities))


def refuse_test_identities(name: str, test_identities: int | None) -> None:
    """Refuse a number of test identities for a set whose splits are its files' own.

    Raises:
        InputError: If one is given.
    """
    if test_identities is not None:
        raise InputError(
            f"test_identities is {test_identities}, but the splits of {name} are those of its files; leave the setting "
            "out."
        )
