"""The check of a dataset: rows, splits and images, in this order."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets

from cffa_hf.data.large_sets import refuse_test_identities
from cffa_hf.data.loading import Place, locate_dataset
from cffa_hf.data_check.findings import DIVISION, FILE, Report
from cffa_hf.data_check.image_findings import check_images_of
from cffa_hf.data_check.opening import DEFAULT_DIVISION, open_rows
from cffa_hf.data_check.row_findings import check_rows, check_splits
from cffa_hf.errors import InputError

KINDS_OF_DATA = {"folder": "own data", "saved": "saved dataset", "shards": "shards", "hub": "dataset on the Hub"}
"""What a report calls data that have no name of a benchmark or a set for pre-training."""


def check_dataset(
    root: str | Path,
    name: str | None = None,
    *,
    validation_identities: int | None = None,
    test_identities: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> Report:
    """Find all problems of a dataset.

    There is no error in the report exactly where `load_person_dataset` loads the dataset and each of its images can be read.

    Args:
        root: The folder of a dataset, or the folder above; or the name of a dataset on the Hub.
        name: Of a benchmark or a set for pre-training; None: it is told by the files.
        validation_identities: Those that training is to hold out, as `load_person_dataset` has it.
        test_identities: As `load_person_dataset` has it.
        seed: Draws them.
        workers: Threads that read images; None: one for each processor, at most 16.
        progress: Show progress bars on standard error.

    Raises:
        InputError: There is no such folder.
    """
    report = Report(str(root))
    try:
        place = find_place(root, name)
    except InputError as error:
        if not Path(root).expanduser().is_dir():
            raise
        report.refuse(error)
        return report
    division = {"validation_identities": validation_identities, "test_identities": test_identities, "seed": seed}
    check_place(place, report, division=division, workers=workers, progress=progress)
    return report


def find_place(root: str | Path, name: str | None) -> Place:
    """Find a dataset by its folder alone, or by its name in or below a folder.

    Raises:
        InputError: There is none.
    """
    return locate_dataset(str(root)) if name is None else locate_dataset(name, root)


def check_place(
    place: Place,
    report: Report,
    *,
    division: Mapping[str, Any] = DEFAULT_DIVISION,
    images: bool = True,
    workers: int | None = None,
    progress: bool = True,
) -> None:
    """Check a dataset that was found.

    Args:
        place: Of the dataset.
        report: Receives the findings.
        division: How data without splits are divided.
        images: Whether images are read.
        workers: As `check_dataset` has it.
        progress: As `check_dataset` has it.
    """
    report.dataset = KINDS_OF_DATA.get(place.kind, place.name)
    bars = datasets.is_progress_bar_enabled()
    if not progress:
        datasets.disable_progress_bars()
    try:
        with TemporaryDirectory(prefix="cffa-check-") as work:
            _check(place, report, division, Path(work), images, workers, progress)
    finally:
        if bars:
            datasets.enable_progress_bars()


def _check(
    place: Place,
    report: Report,
    division: Mapping[str, Any],
    work: Path,
    images: bool,
    workers: int | None,
    progress: bool,
) -> None:
    try:
        opened = open_rows(place, report, work, division)
    except InputError as error:
        report.refuse(error, FILE)
        return
    report.folder, report.files, report.image_folder = opened.folder, opened.files, opened.images
    check_rows(opened, report, one_row_an_image=place.kind in ("benchmark", "layout"))
    try:
        if place.kind in ("benchmark", "layout"):
            refuse_test_identities(place.name, division["test_identities"])
        divided = opened.divide()
    except InputError as error:
        report.refuse(error, DIVISION)
        divided = opened.undivided
    check_splits(divided, opened, report)
    if images:
        check_images_of(divided, opened, report, workers=workers, progress=progress)
