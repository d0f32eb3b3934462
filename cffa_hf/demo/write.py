"""Write the demo dataset in the on-disk layout of one of the three benchmarks."""

import json
import logging
import multiprocessing
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from cffa_hf.demo.attributes import Attributes, View, sample_people, sample_views, visible
from cffa_hf.demo.captions import Caption, write_captions
from cffa_hf.demo.render import render
from cffa_hf.demo.scene import CAMERAS
from cffa_hf.errors import InputError
from cffa_hf.files import flush, sweep, write_bytes, write_text, writing
from cffa_hf.locks import folder_lock, remember
from cffa_hf.names import ATTRIBUTES_FILE, DEMO_MARKER
from cffa_hf.progress import progress_bar

logger = logging.getLogger(__name__)

_VERSION = 3  # Raise it whenever the same seed gives other pictures or captions: an older dataset is then redone.
_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class DemoImage:
    """An image that is to be rendered: person, view, captions and path."""

    image_id: int
    split: str
    person_id: int
    person: Attributes
    view: View
    captions: tuple[Caption, ...]
    file_path: str


@dataclass(frozen=True)
class Layout:
    """How a benchmark lies on the disk.

    Attributes:
        folder: Name of the dataset's folder.
        annotations: Name of its JSON file.
        path_key: Key of the image path in a row.
        first_id: The first train identity.
        captions: Captions per image.
        validation: Whether there is a validation split; without one its people belong to train.
        processed_tokens: Whether rows carry tokenised captions.
        file_path: Path of an image, relative to imgs/.
    """

    folder: str
    annotations: str
    path_key: str
    first_id: int
    captions: int
    validation: bool
    processed_tokens: bool
    file_path: Callable[[DemoImage, int], str]


def _cuhk_path(image: DemoImage, number: int) -> str:
    person, camera = image.person_id, image.view.camera
    query = "test_query" if image.split == "test" else "train_query"
    return (
        f"cam_a/{person:04d}_{number:02d}.jpg",
        f"cam_b/{person:04d}_{number:02d}.jpg",
        f"CUHK01/{person:04d}{number:03d}.jpg",
        f"CUHK03/{person:04d}_1_{number:02d}.jpg",
        f"Market/{person:04d}_c1s1_{image.image_id:06d}_{number:02d}.jpg",
        f"Market/{person:04d}_c2s1_{image.image_id:06d}_{number:02d}.jpg",
        f"{query}/p{person}_s{image.image_id}.jpg",
        f"{query}/p{person}_s{image.image_id}.jpg",
    )[camera]


def _icfg_path(image: DemoImage, number: int) -> str:
    # As in the original, the folders train/ and test/ and their numbers are another dataset's and not this one's split.
    folder = "test" if image.person_id % 3 == 0 else "train"
    time = ("morning", "noon", "afternoon")[image.image_id % 3]
    name = f"{image.person_id:04d}_{number:03d}_{image.view.camera + 1:02d}_0303{time}_{image.image_id:04d}_0.jpg"
    return f"{folder}/{image.person_id:04d}/{name}"


def _rstp_path(image: DemoImage, number: int) -> str:
    return f"{image.person_id:04d}_c{image.view.camera + 1}_{number:04d}.jpg"


LAYOUTS: dict[str, Layout] = {
    "cuhk_pedes": Layout("CUHK-PEDES", "reid_raw.json", "file_path", 1, 2, True, True, _cuhk_path),
    "icfg_pedes": Layout("ICFG-PEDES", "ICFG-PEDES.json", "file_path", 0, 1, False, True, _icfg_path),
    "rstpreid": Layout("RSTPReid", "data_captions.json", "img_path", 0, 2, True, False, _rstp_path),
}


def get_layout(name: str) -> Layout:
    """Return a layout by its name.

    Raises:
        InputError: If there is no such layout.
    """
    if name not in LAYOUTS:
        raise InputError(f"there is no demo layout {name!r}; choose one of {', '.join(LAYOUTS)}.")
    return LAYOUTS[name]


def write_demo_dataset(
    root: str | Path,
    layout: str = "cuhk_pedes",
    *,
    identities: tuple[int, int, int] = (1100, 50, 100),
    images_per_identity: int = 4,
    seed: int = 0,
    workers: int = 2,
) -> Path:
    """Render the demo dataset into `root`, in the layout of a benchmark.

    Beside `imgs/` and the annotation file the folder gets `attributes.jsonl` (a row an image: the person's attributes,
    the visible ones, and those each caption mentions) and `demo.json` (what the dataset was made from). What is
    already there from the same parameters is kept, so that a second call renders nothing and a call after an
    interruption renders the rest; a demo of other parameters is replaced. The same parameters give the same bytes,
    whatever `workers` is.

    Args:
        root: Folder that is to hold the dataset's folder, e.g. `ROOT` of `ROOT/CUHK-PEDES`.
        layout: "cuhk_pedes", "icfg_pedes" or "rstpreid". ICFG-PEDES has one caption per image and no validation split:
            there the validation people belong to train.
        identities: Number of people in train, validation and test; no person is in two splits.
        images_per_identity: Number of images of each person.
        seed: Decides everything that is drawn.
        workers: Number of processes that render.

    Returns:
        The dataset's folder, `root/CUHK-PEDES` for "cuhk_pedes".

    Raises:
        InputError: If the layout is unknown, a number is too small, or the folder holds a dataset that is not a demo.
    """
    spec = get_layout(layout)
    _check_numbers(identities, images_per_identity, seed)
    folder = Path(root) / spec.folder
    parameters = {
        "generator": "cffa_hf demo",
        "version": _VERSION,
        "layout": layout,
        "identities": list(identities),
        "images_per_identity": images_per_identity,
        "seed": seed,
    }
    with writing(folder), folder_lock(folder):
        _prepare_folder(folder, spec, parameters)
        remember(folder.absolute())
        images = plan(layout, identities=identities, images_per_identity=images_per_identity, seed=seed)
        _render_missing(images, folder / "imgs", seed, workers)
        _write_tables(folder, spec, images)
    return folder


def _check_numbers(identities: tuple[int, int, int], images_per_identity: int, seed: int) -> None:
    if min(identities) < 0 or sum(identities) == 0 or images_per_identity < 1 or seed < 0:
        raise InputError(
            f"a demo of {identities} identities, {images_per_identity} images each and seed {seed} cannot be drawn; "
            "give at least one identity and one image, and no negative number."
        )


def plan(layout: str, *, identities: tuple[int, int, int], images_per_identity: int, seed: int) -> list[DemoImage]:
    """Decide everything about a demo dataset but its pixels: people, views, captions and paths, ordered by identity."""
    spec = get_layout(layout)
    images: list[DemoImage] = []
    taken: set[Attributes] = set()
    person_id = spec.first_id
    for place, (split, count) in enumerate(zip(_SPLITS, identities, strict=True)):
        if split == "validation" and not spec.validation:
            split = "train"
        for person in sample_people(count, np.random.default_rng([seed, 0, place]), taken):
            rng = np.random.default_rng([seed, 3, len(images)])
            for number, view in enumerate(sample_views(images_per_identity, len(CAMERAS), rng)):
                captions = tuple(write_captions(person, view, rng)[: spec.captions])
                image = DemoImage(len(images), split, person_id, person, view, captions, "")
                images.append(replace(image, file_path=spec.file_path(image, number)))
            person_id += 1
    return images


def _prepare_folder(folder: Path, spec: Layout, parameters: dict) -> None:
    """Keep a demo of the same parameters, remove one of others, and refuse to touch anything else."""
    record = folder / DEMO_MARKER
    if folder.is_dir():
        sweep(folder)
    if folder.is_dir() and any(folder.iterdir()):
        try:
            found = json.loads(record.read_text())
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict) or found.get("generator") != parameters["generator"]:
            raise InputError(
                f"{folder} already holds files that are not a demo dataset; give another folder to render into."
            )
        if found == parameters:
            return
        if "seed" in found:
            logger.warning(
                "the demo in %s, of %s with seed %s, is replaced",
                folder,
                " + ".join(map(str, found.get("identities", ()))) + " identities",
                found["seed"],
            )
        # Removal may be cut short: the folder must stay recognisable as a demo, and as an incomplete one.
        write_text(record, json.dumps({"generator": parameters["generator"]}))
        for name in (spec.annotations, ATTRIBUTES_FILE):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "imgs", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(record, json.dumps(parameters, indent=2) + "\n")


def _render_missing(images: list[DemoImage], folder: Path, seed: int, workers: int) -> None:
    """Render the images that are not there, and have their names written to the disk."""
    missing = [image for image in images if not (folder / image.file_path).is_file()]
    directories = sorted({(folder / image.file_path).parent for image in images})
    for directory in directories:
        directory.mkdir(parents=True, exist_ok=True)
        sweep(directory)
    if missing:
        _render_all(missing, folder, seed, workers)
        for directory in (*directories, folder):
            flush(directory)


def _render_all(images: list[DemoImage], folder: Path, seed: int, workers: int) -> None:
    work = partial(_render_one, folder=folder, seed=seed)
    progress = partial(progress_bar, total=len(images), desc="rendering the demo", unit="image", mininterval=0.5)
    if workers < 2 or len(images) < 32:
        _consume(progress(map(work, images)))
        return
    # Forked workers start at once; spawned ones, the only kind elsewhere, first import the package again.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with context.Pool(workers) as pool:
        _consume(progress(pool.imap_unordered(work, images, chunksize=16)))


def _consume(items: Iterable) -> None:
    for _ in items:
        pass


def _render_one(image: DemoImage, folder: Path, seed: int) -> None:
    content = render(image.person, image.view, seed, image.image_id)
    write_bytes(folder / image.file_path, content, one_of_many=True)


def _write_tables(folder: Path, spec: Layout, images: list[DemoImage]) -> None:
    """Write the attributes, then the annotations: a reader that finds these finds everything."""
    rows, details = [], []
    for image in images:
        texts = [caption.text for caption in image.captions]
        row = {
            "split": {"validation": "val"}.get(image.split, image.split),
            "captions": texts,
            spec.path_key: image.file_path,
            "id": image.person_id,
        }
        if spec.processed_tokens:
            row["processed_tokens"] = [re.findall(r"[a-z]+(?:-[a-z]+)*", text.lower()) for text in texts]
        rows.append(row)
        details.append(
            {
                "file_path": image.file_path,
                "split": image.split,
                "person_id": image.person_id,
                "view": asdict(image.view),
                "attributes": image.person.to_dict(),
                "visible": sorted(visible(image.person, image.view)),
                "mentions": [list(caption.mentions) for caption in image.captions],
            }
        )
    write_text(folder / ATTRIBUTES_FILE, "".join(json.dumps(detail) + "\n" for detail in details))
    write_text(folder / spec.annotations, json.dumps(rows) + "\n")
