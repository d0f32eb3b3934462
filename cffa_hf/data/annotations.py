"""The annotation files of the three benchmarks: a table of formats, and one function that reads any of them."""

import json
import logging
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cffa_hf.data.division import PersonDatasetDict, division_between
from cffa_hf.data.rows import (
    SPLITS,
    PersonRow,
    Refuse,
    check_files,
    hold_out_validation,
    row_error,
    rows_to_dataset,
    shorten,
    stop,
    validate_rows,
    warn_of_repeated,
)
from cffa_hf.data.source_rows import SourceRows
from cffa_hf.errors import InputError, one_line
from cffa_hf.json_files import parse_json
from cffa_hf.names import DEMO_MARKER

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnnotationFormat:
    """What is particular about the files of one benchmark.

    Attributes:
        name: The name in a config.
        folder: The customary folder below the root of all data sets.
        files: Accepted names of the annotation file, the usual one first.
        path_key: The key that holds the image's path below imgs/.
        counts: Official (identities, images, captions) of each split that the file has.
        camera: Finds the camera in an image's path, in the one group that matches.
        request: Where one asks for the data set, in words.
        other_files: Names of other files in circulation, with what to say when one of them is found alone.
        other_identities: Identities of (train, validation, test) in an outdated file, with what to say about it.
    """

    name: str
    folder: str
    files: tuple[str, ...]
    path_key: str
    counts: dict[str, tuple[int, int, int]]
    camera: re.Pattern[str]
    request: str
    other_files: dict[str, str]
    other_identities: dict[tuple[int, ...], str]

    @property
    def has_validation(self) -> bool:
        """Whether the official file has a validation split."""
        return "validation" in self.counts


_NO_SPLIT = (
    "has the captions of CUHK-PEDES, but no 'split': it does not say which rows are train, val or test; ask the sender "
    "of the data set for reid_raw.json, which is the same list with the official split, and put it beside imgs/"
)

ANNOTATION_FORMATS: dict[str, AnnotationFormat] = {
    spec.name: spec
    for spec in (
        AnnotationFormat(
            name="cuhk_pedes",
            folder="CUHK-PEDES",
            files=("reid_raw.json",),
            path_key="file_path",
            counts={
                "train": (11003, 34054, 68126),
                "validation": (1000, 3078, 6158),
                "test": (1000, 3074, 6156),
            },
            camera=re.compile(r"^(cam_[ab])/|^Market/\d+_(c\d)s"),
            request="its authors send it on request, see the README of "
            "github.com/ShuangLI59/Person-Search-with-Natural-Language-Description",
            other_files={"caption_all.json": _NO_SPLIT},
            other_identities={},
        ),
        AnnotationFormat(
            name="icfg_pedes",
            folder="ICFG-PEDES",
            files=("ICFG-PEDES.json", "ICFG_PEDES.json"),
            path_key="file_path",
            counts={"train": (3102, 34674, 34674), "test": (1000, 19848, 19848)},
            camera=re.compile(r"(?:^|/)\d+_\d+_(\d\d)_"),
            request="its authors send it for a signed licence agreement, see the README of github.com/zifyloo/SSAN",
            other_files={},
            other_identities={},
        ),
        AnnotationFormat(
            name="rstpreid",
            folder="RSTPReid",
            files=("data_captions.json",),
            path_key="img_path",
            counts={
                "train": (3701, 18505, 37010),
                "validation": (200, 1000, 2000),
                "test": (200, 1000, 2000),
            },
            camera=re.compile(r"(?:^|/)\d+_(c\d+)_"),
            request="its authors send it for a signed licence agreement, see the README of "
            "github.com/NjtechCVLab/RSTPReid-Dataset",
            other_files={},
            other_identities={
                (3901, 100, 100): "this is the old split of RSTPReid (3,901/100/100 identities); published results are "
                "for the present one (3,701/200/200): ask for the newer data_captions.json, or do not compare"
            },
        ),
    )
}


def load_annotations(
    name: str,
    root: str | Path,
    *,
    annotation_file: str | Path | None = None,
    validation_identities: int | None = None,
    seed: int = 0,
) -> PersonDatasetDict:
    """Load one of the three benchmarks from its own files.

    Counts that differ from the official ones are a warning with both numbers (only an information in the log for
    rendered demo data, which a file `demo.json` beside the annotations marks).

    Args:
        name: "cuhk_pedes", "icfg_pedes" or "rstpreid".
        root: The folder of the data set (with imgs/ in it), or the folder above.
        annotation_file: Another annotation file of the same format; relative to the data set's folder or to the working
            directory. By default the data set's own.
        validation_identities: Identities of train that are held out for validation where the file has no validation
            split (ICFG-PEDES); None: 200, or a tenth of fewer than 2,000; 0: none. For a file with a validation split
            only None and 0 are accepted, and both leave it as it is.
        seed: Draws the identities that are held out, as `cffa_hf.data.rows.divide_identities` says.

    Returns:
        Splits of the dataset form, in the order of the file: `image` (not decoded), `captions` (cleaned, all that the
        file has), `person_id` (as in the file), `image_id` (row in the file), `file_path` (below imgs/), `camera` (None
        where the name of the image does not tell).

    Raises:
        InputError: Names the file, the row and the remedy.
    """
    spec = _format_named(name)
    read = read_annotations(name, root, annotation_file)
    rows, file = read.rows, read.files[0]
    warn_of_repeated(rows, file)
    if difference := count_differences(spec, rows, file):
        warnings.warn(difference, stacklevel=2)
    divided = divide_annotations(name, read, validation_identities, seed)
    return PersonDatasetDict(rows_to_dataset(divided, read.images), division_between(rows, divided, seed))


def read_annotations(
    name: str, root: str | Path, annotation_file: str | Path | None = None, refuse: Refuse = stop
) -> SourceRows:
    """Read the rows of one of the three benchmarks, before identities are held out.

    Args:
        name: As `load_annotations` has it.
        root: As `load_annotations` has it.
        annotation_file: As `load_annotations` has it.
        refuse: Is given every error of a row; the row is left out then.

    Raises:
        InputError: Names the file, the row and the remedy.
    """
    spec = _format_named(name)
    folder, file = _find(spec, Path(root).expanduser(), annotation_file)
    listed = _read_rows(spec, file, refuse)
    images = folder / "imgs"
    if not images.is_dir():
        raise InputError(
            f"{images}: the folder of the images of {spec.folder} is missing; {file.name} lists paths below it, so "
            "unpack the images there."
        )
    rows = check_files(listed, images, file, refuse=refuse)
    return SourceRows(file, folder, (file,), images, listed, rows, lambda row: (file, row))


def divide_annotations(
    name: str, read: SourceRows, validation_identities: int | None = None, seed: int = 0
) -> list[PersonRow]:
    """Hold out the identities that `load_annotations` holds out.

    Raises:
        InputError: The number does not fit the data.
    """
    if validation_identities is None and _format_named(name).has_validation:
        validation_identities = 0
    return hold_out_validation(read.rows, read.source, validation_identities, seed)


def _format_named(name: str) -> AnnotationFormat:
    if name not in ANNOTATION_FORMATS:
        raise InputError(f"There is no annotation format {name!r}; it must be one of {', '.join(ANNOTATION_FORMATS)}.")
    return ANNOTATION_FORMATS[name]


def _find(spec: AnnotationFormat, root: Path, annotation_file: str | Path | None) -> tuple[Path, Path]:
    """Return the folder of the data set and its annotation file."""
    folders = [folder for folder in (root / spec.folder, root) if folder.is_dir()]
    if not folders:
        raise InputError(f"{root}: there is no such folder; give the folder that holds {spec.folder}/ as root.")
    if annotation_file is not None:
        given = Path(annotation_file).expanduser()
        for file in (folders[0] / given, given):
            if file.is_file():
                return folders[0], file
        raise InputError(
            f"{given}: there is no such annotation file, neither in {folders[0]} nor in the working directory."
        )
    for folder in folders:
        for name in spec.files:
            if (folder / name).is_file():
                return folder, folder / name
    for folder in folders:
        for name, explanation in spec.other_files.items():
            if (folder / name).is_file():
                raise InputError(f"{folder / name}: this file {explanation}.")
    raise InputError(
        f"The annotations of {spec.folder} are missing: looked for {' or '.join(spec.files)} in "
        f"{root / spec.folder} and {root}; {spec.request}."
    )


def _read_rows(spec: AnnotationFormat, file: Path, refuse: Refuse) -> list[PersonRow]:
    entries = read_json(file)
    if not isinstance(entries, list):
        raise InputError(
            f"{file}: holds {shorten(entries)}, but must be a list with one object for each image; use the original "
            "file."
        )
    if not entries:
        raise InputError(f"{file}: the list of images is empty; use the original file.")
    if not any(isinstance(entry, dict) and "split" in entry for entry in entries):
        explanation = _NO_SPLIT if spec.name == "cuhk_pedes" else "has no 'split' in any row; use the original file"
        raise InputError(f"{file}: this file {explanation}.")
    names = {"file_path": spec.path_key, "person_id": "id"}
    records = [_record(spec, row, entry) for row, entry in enumerate(entries)]
    rows = validate_rows(records, file, names, refuse=refuse)
    for row in rows:
        if row.split is None:
            refuse(row_error(file, row.image_id, row.file_path, "has no 'split'; it must be train, val or test"))
    return [row for row in rows if row.split is not None]


def _record(spec: AnnotationFormat, row: int, entry: Any) -> Any:
    """Rename the keys of an entry to the fields of `PersonRow`; what is missing stays missing."""
    if not isinstance(entry, dict):
        return entry
    record = {key: entry[key] for key in ("captions", "split", "camera") if key in entry}
    record["image_id"] = row
    if "id" in entry:
        record["person_id"] = entry["id"]
    if spec.path_key in entry:
        path = record["file_path"] = entry[spec.path_key]
        if "camera" not in record and isinstance(path, str) and (found := spec.camera.search(path)):
            record["camera"] = found[found.lastindex or 0]
    return record


def read_json(file: Path) -> Any:
    """Read a JSON file; InputError says where it is damaged."""
    try:
        return parse_json(file.read_bytes().decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{file}: no valid JSON at line {error.lineno}, column {error.colno} ({error.msg}); the file is truncated "
            "or damaged: copy or unpack it again."
        ) from error
    except ValueError as error:
        raise InputError(
            f"{file}: no valid JSON in UTF-8 ({one_line(error, 120)}); copy or unpack the file again."
        ) from error
    except OSError as error:
        raise InputError(f"{file}: the file cannot be read ({error.strerror}); check its permissions.") from error


def count_rows(rows: Sequence[PersonRow]) -> dict[str, tuple[int, int, int]]:
    """Count (identities, images, captions) of each split that has images."""
    counts = {}
    for split in SPLITS:
        chosen = [row for row in rows if row.split == split]
        if chosen:
            captions = sum(len(row.captions) for row in chosen)
            counts[split] = (len({row.person_id for row in chosen}), len(chosen), captions)
    return counts


def count_differences(spec: AnnotationFormat, rows: Sequence[PersonRow], file: Path) -> str | None:
    """Say in a sentence how the counts differ from the official ones; None if they do not.

    Of rendered demo data, which a file `demo.json` beside the annotations marks, it is only an information in the log.
    """
    found = count_rows(rows)
    differences = []
    for split in SPLITS:
        official = spec.counts.get(split, (0, 0, 0))
        for what, here, there in zip(
            ("identities", "images", "captions"), found.get(split, (0, 0, 0)), official, strict=True
        ):
            if here != there:
                differences.append(f"{split} {what} {here:,} instead of {there:,}")
    if not differences:
        return None
    identities = tuple(found.get(split, (0, 0, 0))[0] for split in SPLITS)
    known = spec.other_identities.get(identities)
    message = (
        f"{file}: differs from the official counts of {spec.folder}: {', '.join(differences)}; "
        f"{known or 'results on it are not comparable with published ones'}."
    )
    if (file.parent / DEMO_MARKER).exists():
        logger.info(message)
        return None
    return message
