"""Images -> a gallery: embedded batch by batch, each batch kept at once, only what changed."""

import csv
import hashlib
import io
import re
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from cffa_hf.csv_files import csv_separator
from cffa_hf.errors import InputError, one_line
from cffa_hf.files import write_bytes, writing
from cffa_hf.inference.embedder import Embedder
from cffa_hf.inputs.images import IMAGE_FORMATS, ImageSource
from cffa_hf.inputs.packed import read_stored
from cffa_hf.json_files import parse_json
from cffa_hf.progress import progress_bar
from cffa_hf.search.filters import to_number
from cffa_hf.search.folders import find_changes, find_images
from cffa_hf.search.header import HEADER, write_header
from cffa_hf.search.items import FileState
from cffa_hf.search.parts import GalleryParts
from cffa_hf.search.saving import LOCK, finish, locked, open_gallery

G = TypeVar("G", bound=GalleryParts)
PICTURES = "images"
LEFT_OVER = re.compile(rf"data-[0-9a-f]{{16}}|\.{re.escape(HEADER)}\.\d+(\.unfinished)?|\{LOCK}\.(lock|holder)")
LARGEST = 2**30  # of a file of metadata
NUMBER = re.compile(r"[+-]?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


def gallery_of_folder(
    kind: type[G],
    embedder: Embedder,
    folder: str | Path,
    out: str | Path | None,
    *,
    metadata: Mapping[str, Mapping[str, Any]] | str | Path | None,
    index: str,
    progress: bool,
) -> G:
    """Embed what is new in a folder, as `Gallery.from_folder` says."""
    root = Path(folder).expanduser()
    paths = [Path(path).relative_to(root).as_posix() for path in find_images(root)]
    columns = read_metadata(metadata) if isinstance(metadata, (str, Path)) else dict(metadata or {})
    if unknown := columns.keys() - set(paths):
        raise InputError(
            f"The metadata name {len(unknown):,} images that are not below {root}, the first is {min(unknown)[:200]!r}; correct "
            "them, or leave them out."
        )
    with locked(out):
        gallery = _opened(kind, embedder, root, Path(out) if out else None, index)
        held = gallery.items.files()
        refused = gallery.items.refused()
        changes = find_changes(
            root,
            paths,
            {path: state for path, (_, state) in held.items()},
            {path: state for path, (state, _) in refused.items()},
        )
        gone = [path for path in changes.gone if path in held]
        gallery.index.remove(np.array([held[path][0] for path in gone], dtype=np.int64))
        gallery.items.remove([held[path][0] for path in gone])
        gallery.items.forget_refused([path for path in changes.gone if path in refused])
        for path, state in changes.touched.items():
            gallery.items.touch(path, state)
        kept = [path for path in columns if path in held and path not in changes.new]
        gallery.items.annotate({held[path][0]: columns[path] for path in kept})
        _send(gallery, [held[path][0] for path in kept])
        new = list(changes.new)
        if gallery.folder and (new or gone):
            gallery.header = gallery.header.model_copy(update={"complete": False})
            write_header(gallery.folder, gallery.header)
        sources = [root / path for path in new]
        rows = [columns.get(path, {}) for path in new]
        _embed(gallery, sources, new, rows, list(changes.new.values()), progress=progress)
        unreadable = gallery.items.refused()
        gallery.items.remove([held[path][0] for path in new if path in held and path in unreadable])
        _tell_refused(gallery, len(paths))
        if new or gone or not gallery.header.complete or index not in ("auto", gallery.header.index.kind):
            finish(gallery, index)
    return gallery


def gallery_of_dataset(
    kind: type[G], embedder: Embedder, dataset: Any, out: str | Path | None, *, index: str, progress: bool
) -> G:
    """Embed the images of a split, as `Gallery.from_dataset` says."""
    from datasets import Image as ImageFeature

    features = getattr(dataset, "features", None) or {}
    if "image" not in features:
        raise InputError("A gallery is made of a split with a column image; DatasetDict has splits: take one of them.")
    if isinstance(features["image"], ImageFeature):
        dataset = dataset.cast_column("image", ImageFeature(decode=False))
    simple = [name for name, kind in features.items() if getattr(kind, "dtype", "") in _SIMPLE]
    images, columns = dataset.select_columns(["image"]), dataset.select_columns(simple)
    folder = Path(out) if out else None
    with locked(out):
        gallery = _opened(kind, embedder, folder / PICTURES if folder else None, folder, index)
        held = gallery.items.files()
        files = _image_files(images)
        new = [name for name, (_, state) in files.items() if name not in held or held[name][1].digest != state.digest]
        gone = [name for name in held if name not in files]
        gallery.items.remove([held[name][0] for name in (*gone, *new) if name in held])
        gallery.items.forget_refused([name for name in gallery.items.refused() if name not in files])
        kept = [name for name in files if name in held and name not in new] if simple else []
        gallery.items.annotate({held[name][0]: columns[files[name][0]] for name in kept})
        _send(gallery, [held[name][0] for name in kept])
        places = [files[name][0] for name in new]
        sources = _DatasetImages(images, places, new, folder / PICTURES if folder else None)
        rows = [columns[place] if simple else {} for place in places]
        _embed(gallery, sources, new, rows, [files[name][1] for name in new], progress=progress)
        _tell_refused(gallery, len(dataset))
        if new or gone or not gallery.header.complete or index not in ("auto", gallery.header.index.kind):
            finish(gallery, index)
    return gallery


def _image_files(images: Any) -> dict[str, tuple[int, FileState]]:
    """Name the images of a split by their rows and contents: name -> row, and by what a changed one is known."""
    files = {}
    for place, row in enumerate(images):
        content = _content(row["image"]) or b""
        state = FileState(len(content), None, hashlib.sha256(content).hexdigest())
        files[f"{place:09d}.{_suffix(content)}"] = place, state
    return files


_SIMPLE = {
    "string",
    "large_string",
    "bool",
    *(f"{kind}{bits}" for kind in ("int", "uint", "float") for bits in (8, 16, 32, 64)),
}


class _DatasetImages(Sequence[ImageSource]):
    """The images of some rows; where the gallery is kept, a copy of each is written there when it is read."""

    def __init__(self, images: Any, places: Sequence[int], names: Sequence[str], copies: Path | None):
        self.images, self.places, self.names, self.copies = images, places, names, copies
        if copies:
            with writing(copies):
                copies.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number):
        image = self.images[self.places[number]]["image"]
        content = _content(image)
        if self.copies and content is not None:
            write_bytes(self.copies / self.names[number], content)
        return image


def _content(image: Any) -> bytes | None:
    if isinstance(image, dict) and image.get("bytes") is not None:
        return image["bytes"]
    if isinstance(image, dict) and image.get("path"):
        with writing(image["path"]):
            return read_stored(image["path"])
    return None


def _suffix(content: bytes) -> str:
    """Return the suffix of an image by its content, `bin` where it is none that is read."""
    try:
        with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as opened:
            return (opened.format or "bin").lower().replace("jpeg", "jpg")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return "bin"


def add_images(
    gallery: GalleryParts,
    sources: Sequence[ImageSource],
    paths: Sequence[str] | None,
    metadata: Sequence[Mapping[str, Any]] | None,
    *,
    progress: bool,
) -> list[int]:
    """Embed images and add them, as `Gallery.add` says."""
    if paths is None:
        if not all(isinstance(source, (str, Path)) for source in sources):
            raise InputError("Images that are no files need paths: say what to call each of them.")
        paths = [str(source) for source in sources]
    rows = list(metadata) if metadata is not None else [{}] * len(paths)
    if not len(sources) == len(paths) == len(rows) or len(set(paths)) != len(paths):
        raise InputError(
            f"{len(sources)} images were given with {len(paths)} paths and {len(rows)} rows of metadata; each image needs one "
            "of its own."
        )
    with locked(gallery.folder):
        before = gallery.items.rows
        failures = _embed(gallery, sources, paths, rows, [FileState()] * len(paths), progress=progress)
    if failures and len(failures) == len(paths):
        reason = failures[0]
        raise InputError(f"None of the {len(paths)} images can be read: {reason}")
    if failures:
        warnings.warn(f"{len(failures)} of {len(paths)} images left out: {' '.join(failures[:3])}", stacklevel=3)
    return list(range(before, gallery.items.rows))


def read_metadata(path: str | Path) -> dict[str, dict[str, Any]]:
    """Read columns of images from a CSV or JSON-lines file, by the column `file_name`.

    Raises:
        InputError: Names the file and the row.
    """
    path = Path(path)
    columns: dict[str, dict[str, Any]] = {}
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            raise InputError(f"{path}: there is no file of metadata of at most {LARGEST // 2**20} MiB.")
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".csv":
                separator = csv_separator(file.readline())
                file.seek(0)
                rows: Iterable[Any] = csv.DictReader(file, delimiter=separator)
            else:
                rows = map(parse_json, file)
            first = 2 if path.suffix.lower() == ".csv" else 1  # as a spreadsheet and an editor count them
            for number, row in enumerate(rows, start=first):
                name = row.pop("file_name", None) if isinstance(row, dict) else None
                if not isinstance(name, str) or None in row:
                    raise InputError(
                        f"{path}, row {number}: each row needs file_name, and as many fields as the header."
                    )
                if name in columns:
                    raise InputError(
                        f"{path}, row {number}: {name[:200]!r} has a row already; keep one for each image."
                    )
                columns[name] = {key: value for key, value in row.items() if _is_simple(value)}
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: the metadata cannot be read ({one_line(error, 120)}).") from error
    if path.suffix.lower() == ".csv":
        _numbers(columns)
    return columns


def _is_simple(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and value != ""


def _numbers(columns: dict[str, dict[str, Any]]) -> None:
    """Make numbers of the columns of a CSV file whose every value is one; 007 is a name."""
    for name in {name for row in columns.values() for name in row}:
        values = {path: row[name].strip() for path, row in columns.items() if name in row}
        if all(NUMBER.fullmatch(value) for value in values.values()):
            for path, value in values.items():
                columns[path][name] = to_number(value)


def download_gallery(repo_id: str, revision: str | None) -> Path:
    """Fetch a gallery from the Hub into its cache.

    Raises:
        InputError: If it cannot be had.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo_id, repo_type="dataset", revision=revision))
    except Exception as error:  # connection, permission, name: whatever it was, the remedy is the same
        raise InputError(
            f"The gallery {repo_id[:200]!r} cannot be had from the Hub ({one_line(error, 200)}); check its name and your rights."
        ) from error


def _opened(kind: type[G], embedder: Embedder, root: Path | None, folder: Path | None, index: str) -> G:
    """Open the gallery of a folder of images that is there, or begin one."""
    if folder is None:
        return kind.new(embedder, root=root)
    if not (folder / HEADER).is_file():
        left = list(folder.iterdir())
        if not all(LEFT_OVER.fullmatch(path.name) for path in left):
            raise InputError(f"{folder} exists and is no gallery; give a new folder.")
        for path in left:  # begun and killed before its header was written
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
        return kind.new(embedder, folder, root=root)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it was interrupted: it goes on now
        gallery = open_gallery(kind, folder, embedder, None, None if index == "auto" else index)
    there = gallery.root
    if gallery.folder is None or there is None or root is None or there.resolve() != root.resolve():
        raise InputError(f"{folder} holds a gallery of {there or 'images without a folder'}; give a new folder.")
    return gallery


def _embed(
    gallery: GalleryParts,
    sources: Sequence[ImageSource],
    paths: Sequence[str],
    metadata: Sequence[Mapping[str, Any]],
    states: Sequence[FileState],
    *,
    progress: bool,
) -> list[str]:
    """Embed images and keep each batch; return why some were left out."""
    gallery.items.declare(metadata)
    failures: list[str] = []
    bar = progress_bar(
        total=len(paths), desc="Embedding images", unit="image", disable=not progress or not paths, leave=False
    )
    with bar:
        for indices, vectors, failed in gallery.embedder.image_batches(sources):
            refused = [(paths[place], states[place], reason) for place, reason in failed]
            stale = gallery.items.ids_of([paths[place] for place in indices])
            ids = gallery.items.append(
                [paths[place] for place in indices],
                vectors.numpy().reshape(len(indices), gallery.items.width),
                [metadata[place] for place in indices],
                [states[place] for place in indices],
                refused,
            )
            gallery.index.remove(np.array(list(stale.values()), dtype=np.int64))
            _send(gallery, ids)
            failures += [reason for _, reason in failed]
            bar.update(len(indices) + len(failed))
    return failures


def _send(gallery: GalleryParts, ids: Sequence[int]) -> None:
    """Tell the index of images, with their metadata as filters compare them."""
    if ids:
        numbers, known = np.array(ids, dtype=np.int64), gallery.items.get(ids)
        gallery.index.add(numbers, gallery.items.vectors[numbers].astype(np.float32), [known[each][1] for each in ids])


def _tell_refused(gallery: GalleryParts, total: int) -> None:
    refused = [reason for _, reason in gallery.items.refused().values()]
    if refused and not len(gallery):
        reason = refused[0]
        raise InputError(f"None of the {total} images can be read: {reason}")
    if refused:
        warnings.warn(f"{len(refused)} of {total} images left out: {' '.join(refused[:3])}", stacklevel=4)
