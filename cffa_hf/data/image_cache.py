"""A cache of resized images, in the Arrow form of `datasets`: decoded once, read as plain bytes from then on."""

import hashlib
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import PIL
import pyarrow as pa
from filelock import FileLock
from tqdm.auto import tqdm

from cffa_hf.data.caching import REMEDY, writable_cache
from cffa_hf.data.pairs import pixel_column
from cffa_hf.errors import RunStopped, unwritable
from cffa_hf.files import new_folder
from cffa_hf.inputs.images import load_pixels
from cffa_hf.inputs.packed import file_of

PIXELS = "pixels.arrow"


def cache_images(
    rows: datasets.Dataset,
    image_size: tuple[int, int],
    *,
    workers: int | None = None,
    progress: bool = True,
) -> datasets.Dataset:
    """Add a column with the resized pixels of every image, which `ImageDataset` reads instead of the image.

    The pixels are stored once, in the cache of `datasets`, under a fingerprint of the images (path, size and time of
    each file, or the bytes) and of the image size; the second call only opens the file. Its size is printed before
    it is made: 147 kB an image at 384x128.

    Args:
        rows: One split in the dataset form.
        image_size: Height and width.
        workers: Threads that decode; by default one for each processor, at most 16.
        progress: Whether a progress bar is shown.

    Returns:
        The rows with one more column, binary: `(3, height, width)` uint8.

    Raises:
        InputError: An image cannot be read.
        RunStopped: There is not enough disk space for the cache.
    """
    column = pixel_column(image_size)
    images = rows.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
    digest = image_fingerprint(images, image_size)
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "cffa_images" / digest
    with writable_cache(folder.parent), FileLock(f"{folder}.lock"):
        pixels = _open(folder, len(rows))
        if pixels is None:
            check_space(folder, len(rows), image_size)
            with new_folder(folder, over=True, remedy=REMEDY) as unfinished:
                path = unfinished / PIXELS
                write_pixels(images, image_size, path, workers or min(16, os.cpu_count() or 1), progress)
            pixels = datasets.Dataset.from_file(str(folder / PIXELS))
    return datasets.concatenate_datasets([rows, pixels.rename_column("pixels", column)], axis=1)


def _open(folder: Path, count: int) -> datasets.Dataset | None:
    """Open a cache; None if there is none, or a disk has lost something of it."""
    try:
        found = datasets.Dataset.from_file(str(folder / PIXELS))
    except (OSError, pa.ArrowException):
        return None
    return found if len(found) == count else None


def image_fingerprint(images: datasets.Dataset, image_size: tuple[int, int]) -> str:
    """Digest what the resized pixels depend on: every image, the size, and the library that resizes."""
    digest = hashlib.sha256(f"{tuple(image_size)} Pillow {PIL.__version__}\n".encode())
    for batch in images.iter(batch_size=1000):
        for source in batch["image"]:
            digest.update(f"{source['path']}\0".encode())
            if source["bytes"] is not None:
                digest.update(hashlib.sha256(source["bytes"]).digest())
            elif source["path"] and os.path.exists(file := file_of(source["path"])):
                status = os.stat(file)
                digest.update(f"{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def check_space(path: Path, count: int, image_size: tuple[int, int]) -> None:
    """Print how large the cache will be, and check that it fits on the disk.

    Raises:
        InputError: If its folder cannot be made.
        RunStopped: If there is not enough disk space for it.
    """
    height, width = image_size
    need = count * 3 * height * width
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(
            f"{path.parent}: the cache of resized images", error, f"{REMEDY}, or cache_images to false"
        ) from error
    free = shutil.disk_usage(path.parent).free
    if need > free:
        raise RunStopped(
            f"{path.parent}: {count:,} resized images need {need / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free; "
            "make room, set HF_DATASETS_CACHE to another disk, or cache_images to false."
        )
    message = f"caching {count:,} images at {height}x{width}: {need / 1e6:,.1f} MB in {path.parent}"
    tqdm.write(f"{message} ({free / 1e6:,.0f} MB are free)", file=sys.stderr)


def write_pixels(
    images: datasets.Dataset, image_size: tuple[int, int], path: Path, workers: int, progress: bool
) -> None:
    """Decode and resize all images into an Arrow file.

    Raises:
        InputError: An image cannot be read, or the file cannot be written.
        RunStopped: The disk is full.
    """
    features = datasets.Features({"pixels": datasets.Value("binary")})
    shown = datasets.is_progress_bar_enabled()
    if not progress:
        datasets.disable_progress_bars()
    try:
        with ThreadPoolExecutor(workers) as pool:

            def resized(batch: dict[str, list[Any]]) -> dict[str, list[bytes]]:
                pixels = pool.map(lambda source: load_pixels(source, image_size).numpy().tobytes(), batch["image"])
                return {"pixels": list(pixels)}

            images.map(
                resized,
                batched=True,
                batch_size=64,
                writer_batch_size=64,
                remove_columns=["image"],
                features=features,
                cache_file_name=str(path),
                new_fingerprint=path.parent.name.strip(".")[:16],
                desc="caching images",
            )
    except OSError as error:
        raise unwritable(
            f"{path}: the cache of resized images", error, f"{REMEDY}, or cache_images to false"
        ) from error
    finally:
        if shown:
            datasets.enable_progress_bars()
