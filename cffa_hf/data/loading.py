"""Loading of any dataset: a benchmark by its name, a folder, or the name of a dataset on the Hub."""

import json
import re
from pathlib import Path
from typing import Any

import datasets
from datasets import DatasetDict
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.file_download import repo_folder_name

from cffa_hf.data.annotations import ANNOTATION_FORMATS, load_annotations
from cffa_hf.data.division import PersonDatasetDict
from cffa_hf.data.large_sets import load_layout, refuse_test_identities
from cffa_hf.data.layouts import LAYOUTS, layout_named
from cffa_hf.data.own_data import METADATA_FILES, find_metadata, load_dataset_dict, load_folder
from cffa_hf.data.shard_rows import load_shards
from cffa_hf.data.shards import find_shards
from cffa_hf.errors import InputError, one_line

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
    name = str(dataset).strip()
    key = {spec.folder.lower(): spec.name for spec in ANNOTATION_FORMATS.values()}.get(name.lower(), name.lower())
    if key in ANNOTATION_FORMATS and not (root is None and Path(name).expanduser().is_dir()):
        root = _needed(root, name, ANNOTATION_FORMATS[key].folder)
        return _load_benchmark(key, root, annotation_file, validation_identities, test_identities, seed)

    if (layout := layout_named(name)) and not (root is None and Path(name).expanduser().is_dir()):
        refuse_test_identities(layout.name, test_identities)
        root = _needed(root, name, layout.folder)
        return load_layout(layout.name, root, annotation_file, validation_identities, seed, check_files)
    numbers: dict[str, Any] = {"validation_identities": validation_identities, "test_identities": test_identities}
    numbers["seed"] = seed
    folder = Path(root or "").expanduser() / Path(name).expanduser()
    if name and folder.is_dir():
        if benchmark := _benchmark_in(folder, annotation_file):
            return _load_benchmark(benchmark, folder, annotation_file, validation_identities, test_identities, seed)
        _refuse_annotation_file(annotation_file, name)
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            return _load_saved(folder, numbers)
        if find_metadata(folder):
            return load_folder(folder, **numbers)
        if find_shards(folder)[2]:
            return load_shards(folder, **numbers)
        raise InputError(f"{folder}: this folder holds no dataset of a known layout; {_possibilities()}.")
    if not _HUB_NAME.fullmatch(name):
        raise InputError(f"There is no dataset {name!r}, and no such folder ({folder}); {_possibilities()}.")
    _refuse_annotation_file(annotation_file, name)
    return load_dataset_dict(_load_from_hub(name), name, folders=_downloads_of(name), **numbers)


def _needed(root: str | Path | None, name: str, folder: str) -> str | Path:
    if root is None:
        raise InputError(f"The dataset {name!r} needs root, the folder that holds {folder}/; set it in the config.")
    return root


def _possibilities() -> str:
    names = ", ".join([*ANNOTATION_FORMATS, *LAYOUTS])
    return (
        f"dataset must be one of {names} (with root), a folder with {' or '.join(METADATA_FILES)}, a folder of shards "
        "(.tar or .parquet), a folder written by save_to_disk, or the name of a dataset on the Hub (owner/name)"
    )


def _refuse_annotation_file(annotation_file: str | Path | None, name: str) -> None:
    if annotation_file is not None:
        raise InputError(
            f"annotation_file is {str(annotation_file)!r}, but only {', '.join([*ANNOTATION_FORMATS, *LAYOUTS])} have one, "
            f"not {name!r}; leave the setting out."
        )


def _load_benchmark(
    name: str,
    root: str | Path,
    annotation_file: str | Path | None,
    validation_identities: int | None,
    test_identities: int | None,
    seed: int,
) -> PersonDatasetDict:
    if test_identities is not None:
        raise InputError(f"test_identities is {test_identities}, but {name} has a test split; leave the setting out.")
    return load_annotations(
        name, root, annotation_file=annotation_file, validation_identities=validation_identities, seed=seed
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
    """Read what `save_to_disk` wrote; its splits and Arrow files are its own, whatever its JSON files name."""
    try:
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
        return load_dataset_dict(datasets.load_from_disk(str(folder)), str(folder), folders=[folder], **numbers)
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(
            f"{folder}: the saved dataset cannot be read ({one_line(error, 200)}); save it again."
        ) from error


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
