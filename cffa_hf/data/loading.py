"""Loading of any dataset: a benchmark by its name, a folder, or the name of a dataset on the Hub."""

import difflib
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
from datasets import Dataset, DatasetDict
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.file_download import repo_folder_name

from cffa_hf.data.annotations import ANNOTATION_FORMATS, load_annotations
from cffa_hf.data.division import PersonDatasetDict
from cffa_hf.data.large_sets import load_layout, refuse_test_identities
from cffa_hf.data.layouts import LAYOUTS, layout_named
from cffa_hf.data.metadata import METADATA_FILES, find_metadata
from cffa_hf.data.own_data import load_dataset_dict, load_folder, read_dataset_rows
from cffa_hf.data.rows import Refuse, RowError, stop
from cffa_hf.data.shard_rows import load_shards
from cffa_hf.data.shards import find_shards
from cffa_hf.data.source_rows import SourceRows
from cffa_hf.errors import LONGEST_MESSAGE, InputError, one_line

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def load_person_dataset(
    dataset: str | Path,
    root: str | Path | None = None,
    *,
    annotation_file: str | Path | None = None,
    validation_identities: int | None = None,
    test_identities: int | None = None,
    seed: int = 0,
    check_files: bool = True,
) -> PersonDatasetDict:
    """Load person images with captions from a benchmark, a set for pre-training, a folder or the Hub.

    Args:
        dataset: "cuhk_pedes", "icfg_pedes" or "rstpreid"; or another name of `cffa_hf.data.layouts.LAYOUTS`; or a folder
            with a metadata file, in one of the three layouts, of shards (`cffa_hf.data.shards`), or written by
            `save_to_disk`; or the name of a dataset on the Hub, "owner/name".
        root: The folder that holds the benchmark's folder, or the benchmark's folder itself; for a folder of one's own
            the folder that `dataset` is relative to.
        annotation_file: Another annotation file, not for folders and the Hub.
        validation_identities: Identities held out for validation where there is no validation split; 0 for none, None
            for a sensible number.
        test_identities: Identities held out for test where the data have no splits; the benchmarks take only None.
        seed: Draws the identities that are held out.
        check_files: Whether the images of a set for pre-training must be there when its annotations are read.

    Returns:
        Splits "train", "validation" and "test", as far as there are any, with the columns `image` (not decoded),
        `captions`, `person_id`, `image_id`, `file_path` and `camera`; its `division` says how people came into them.

    Raises:
        InputError: Names what is wrong and the remedy, and what is possible when nothing fits.
    """
    place = locate_dataset(dataset, root, annotation_file)
    held_out: dict[str, Any] = {"validation_identities": validation_identities, "seed": seed}
    numbers = held_out | {"test_identities": test_identities}
    if place.kind in ("benchmark", "layout"):
        refuse_test_identities(place.name, test_identities)
    try:
        if place.kind == "benchmark":
            return load_annotations(place.name, place.folder, annotation_file=annotation_file, **held_out)
        if place.kind == "layout":
            return load_layout(place.name, place.folder, annotation_file, validation_identities, seed, check_files)
        if place.kind == "hub":
            return load_dataset_dict(
                _load_from_hub(place.name), place.name, folders=_downloads_of(place.name), **numbers
            )
        if place.kind == "saved":
            return _load_saved(place.folder, numbers)
        return (load_folder if place.kind == "folder" else load_shards)(place.folder, **numbers)
    except RowError as error:
        named = f" --dataset {place.name}" if place.kind in ("benchmark", "layout") else ""
        hint = f" (`cffa-hf check-data {shlex.quote(str(place.folder))}{named}` lists all problems)"
        if place.kind == "hub" or len(str(error)) + len(hint) > LONGEST_MESSAGE:
            raise
        raise InputError(f"{str(error)[:-1]}{hint}.") from error


@dataclass(frozen=True)
class Place:
    """Where a dataset is, and what it is.

    Attributes:
        kind: Of its files.
        name: Of the benchmark or layout, or on the Hub; otherwise as it was given.
        folder: The folder of the dataset, or for benchmarks and layouts perhaps the one above.
    """

    kind: Literal["benchmark", "layout", "saved", "folder", "shards", "hub"]
    name: str
    folder: Path


def locate_dataset(
    dataset: str | Path, root: str | Path | None = None, annotation_file: str | Path | None = None
) -> Place:
    """Find a dataset, and tell what it is.

    Args:
        dataset: As `load_person_dataset` has it.
        root: As `load_person_dataset` has it.
        annotation_file: As `load_person_dataset` has it.

    Raises:
        InputError: Names what is possible when nothing fits.
    """
    name = str(dataset).strip()
    key = {spec.folder.lower(): spec.name for spec in ANNOTATION_FORMATS.values()}.get(name.lower(), name.lower())
    if key in ANNOTATION_FORMATS and not (root is None and Path(name).expanduser().is_dir()):
        return Place("benchmark", key, Path(_needed(root, name, ANNOTATION_FORMATS[key].folder)).expanduser())
    if (layout := layout_named(name)) and not (root is None and Path(name).expanduser().is_dir()):
        return Place("layout", layout.name, Path(_needed(root, name, layout.folder)).expanduser())
    folder = Path(root or "").expanduser() / Path(name).expanduser()
    if name and folder.is_dir():
        if benchmark := _benchmark_in(folder, annotation_file):
            return Place("benchmark", benchmark, folder)
        _refuse_annotation_file(annotation_file, name)
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            return Place("saved", name, folder)
        if find_metadata(folder):
            return Place("folder", name, folder)
        if find_shards(folder)[2]:
            return Place("shards", name, folder)
        raise InputError(f"{folder}: this folder holds no dataset of a known layout; {_possibilities()}.")
    if name and folder.is_file():
        raise InputError(f"{folder} is a file; give its folder, {folder.parent}.")
    if "://" in name:
        hub = name.removeprefix("hf://datasets/")
        instead = "copy the shards into a folder" if hub == name else f"give its name, {hub}"
        raise InputError(f"{name}: a URL is read by training alone, with streaming: true; without it {instead}.")
    if not _HUB_NAME.fullmatch(name):
        close = difflib.get_close_matches(key, [*ANNOTATION_FORMATS, *LAYOUTS], n=1)
        hint = f"did you mean {close[0]!r}? Correct the setting 'dataset'" if close else _possibilities()
        raise InputError(f"There is no dataset {name!r}, and no such folder ({folder}); {hint}.")
    _refuse_annotation_file(annotation_file, name)
    return Place("hub", name, folder)


def _needed(root: str | Path | None, name: str, folder: str) -> str | Path:
    if root is None:
        raise InputError(f"The dataset {name!r} needs root, the folder that holds {folder}/; set it in the config.")
    return root


def _possibilities() -> str:
    others = ", ".join(name for name in LAYOUTS if not name.endswith(tuple(ANNOTATION_FORMATS)))
    return (
        f"dataset is the name of a benchmark ({', '.join(ANNOTATION_FORMATS)}) or of a set for pre-training ({others}), with "
        f"root; a folder with {' or '.join(METADATA_FILES)}, of shards (.tar, .parquet) or of save_to_disk; or "
        "owner/name on the Hub"
    )


def _refuse_annotation_file(annotation_file: str | Path | None, name: str) -> None:
    if annotation_file is not None:
        raise InputError(
            f"annotation_file is {str(annotation_file)!r}, but only {', '.join([*ANNOTATION_FORMATS, *LAYOUTS])} have one, "
            f"not {name!r}; leave the setting out."
        )


def _benchmark_in(folder: Path, annotation_file: str | Path | None) -> str | None:
    """Recognise one of the three layouts by the name of its annotation file."""
    given = Path(annotation_file).name if annotation_file else None
    for spec in ANNOTATION_FORMATS.values():
        names = (*spec.files, *spec.other_files)
        if given in names or any((folder / name).is_file() for name in names):
            return spec.name
    return None


# What the libraries below raise when an Arrow file, or a JSON file beside it, is not what they wrote.
_DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
    RuntimeError,
    SystemError,
)


def _load_saved(folder: Path, numbers: dict[str, Any]) -> PersonDatasetDict:
    with _readable(folder):
        _check_saved(folder)
        return load_dataset_dict(datasets.load_from_disk(str(folder)), str(folder), folders=[folder], **numbers)


def read_dataset(place: Place, refuse: Refuse = stop) -> tuple[SourceRows, Dataset, DatasetDict | Dataset]:
    """Read the rows of a dataset that is saved on disk or on the Hub, before its identities are divided.

    Args:
        place: Of the kind "saved" or "hub".
        refuse: Is given every error of a row; the row is left out then.

    Returns:
        The rows, the images of all records by their `image_id`, and the dataset as it is there.

    Raises:
        InputError: If it cannot be read.
    """
    if place.kind == "hub":
        data = _load_from_hub(place.name)
        return (*read_dataset_rows(data, place.name, _downloads_of(place.name), refuse)[:2], data)
    with _readable(place.folder):
        _check_saved(place.folder)
        saved = datasets.load_from_disk(str(place.folder))
        return (*read_dataset_rows(saved, str(place.folder), [place.folder], refuse)[:2], saved)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Turn what the libraries raise of damaged files into an InputError."""
    try:
        yield
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(
            f"{folder}: the saved dataset cannot be read ({one_line(error, 200)}); save it again."
        ) from error


def _check_saved(folder: Path) -> None:
    """Check what `save_to_disk` wrote: its splits and Arrow files are its own, whatever its JSON files name."""
    parts = [folder]
    if (folder / "dataset_dict.json").is_file():
        splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        parts = [_own_file(folder, split) for split in splits]
    for part in parts:
        for file in ("state.json", "dataset_info.json", *(path.name for path in part.glob("*.arrow"))):
            if not _own_file(part, file).is_file():
                raise ValueError(f"{part.name}/{file} is no file")
        for entry in json.loads((part / "state.json").read_text(encoding="utf-8"))["_data_files"]:
            _own_file(part, entry["filename"])


def _downloads_of(name: str) -> list[Path]:
    """Return the folders into which the files of a dataset on the Hub are downloaded and unpacked."""
    repository = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="dataset")
    return [repository, Path(datasets.config.DOWNLOADED_DATASETS_PATH), Path(datasets.config.EXTRACTED_DATASETS_PATH)]


def _own_file(folder: Path, name: str) -> Path:
    """Return a file or folder directly in a folder; ValueError if it is elsewhere, through its name or as a link."""
    path = folder / name
    if Path(name).name != name or ":" in name or path.resolve().parent != folder.resolve():
        raise ValueError(f"it names {name!r}, which is not in it")
    return path


def _load_from_hub(name: str) -> DatasetDict:
    try:
        return datasets.load_dataset(name)
    except (OSError, ValueError, RuntimeError) as error:  # no network, no such name, no such format, no permission
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"The dataset {name!r} is neither a folder here nor could it be loaded from the Hub ({reason}); check its "
            f"name, the network and, for a private one, `hf auth login`: {_possibilities()}."
        ) from error
