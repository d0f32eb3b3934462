"""Open image files safely, and check all of them before a long run starts."""

import hashlib
import io
import os
import stat
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import DatasetDict
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from cffa_hf.errors import InputError

# The size from which Pillow itself begins to warn of a decompression bomb.
MAX_PIXELS = 89_478_485

# Formats whose decoders only compute pixels. Others start programs (PostScript, through Ghostscript) or read more files,
# whatever the name of the file says.
RASTER_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "QOI", "TGA")
Image.init()
IMAGE_FORMATS = tuple(name for name in RASTER_FORMATS if name in Image.OPEN)
IMAGE_SUFFIXES = frozenset(
    suffix for suffix, name in Image.registered_extensions().items() if name in (*IMAGE_FORMATS, "MPO")
)

ImageSource = str | os.PathLike[str] | bytes | dict[str, Any] | Image.Image


def read_image(source: ImageSource) -> Image.Image:
    """Read an image whole, upright and in RGB.

    The EXIF orientation is applied, transparent pixels are laid on white, 16-bit grey is scaled to 8 bits, of an
    animation the first frame is taken.

    Args:
        source: a path, the bytes of an image file, the `{"path", "bytes"}` of `datasets.Image(decode=False)`, or an
            image of Pillow.

    Returns:
        A loaded image in mode "RGB".

    Raises:
        InputError: the file is missing, truncated, no regular file, no image of the formats that are read, or has more
            than `MAX_PIXELS` pixels.

    Example:
        >>> grey = Image.new("I;16", (2, 3), 65535)  # 16 bits, white
        >>> read_image(grey).mode, read_image(grey).getpixel((0, 0))
        ('RGB', (255, 255, 255))
    """
    name, opened = _locate(source)
    try:
        if isinstance(opened, (str, os.PathLike)) and not stat.S_ISREG(os.stat(opened).st_mode):
            raise InputError(f"{name}: the image cannot be read (no regular file); put one there or remove its row.")
        with opened if isinstance(opened, Image.Image) else Image.open(opened, formats=IMAGE_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise InputError(
                    f"{name}: an image of {width}x{height} pixels is refused (the limit is {MAX_PIXELS:,} pixels); "
                    "scale it down."
                )
            image.load()
            return _to_rgb(_upright(image))
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{name}: there is no such image; put it there or remove its row.") from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: refused, the image is far too large ({error}); scale it down.") from error
    # Pillow's decoders raise many kinds of errors on broken data (OSError, SyntaxError, ValueError, struct.error ...).
    except Exception as error:
        raise InputError(f"{name}: the image cannot be read ({error}); replace it or remove its row.") from error


def _locate(source: ImageSource) -> tuple[str, Any]:
    """Return what to call an image in messages, and what to open."""
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or "the image", source.copy()
    if isinstance(source, bytes):
        return "the image", io.BytesIO(source)
    if isinstance(source, dict):
        path, content = source.get("path"), source.get("bytes")
        if content is not None:
            return path or "the image", io.BytesIO(content)
        if not path:
            raise InputError("An image has neither a path nor bytes; mend or remove its row.")
        return str(path), path
    return os.fspath(source), source


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; damaged EXIF data do not spoil an image whose pixels are sound."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ValueError("its pixels are floating point numbers; save it with 8 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        # Grey of 16 bits: Pillow's own conversion would clip at 255. Mode "I" holds 8 or 16 bits in 32.
        wide = image.mode != "I" or values.max(initial=0) > 255
        grey = (values + 128) // 257 if wide else values
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def first_escape(folder: Path, paths: Sequence[str]) -> int | None:
    """Find the first of `paths` (relative to `folder`) that a symbolic link leads out of `folder`.

    Every parent folder is listed once instead of asking for every file: with tens of thousands of images on a network
    drive that is the difference between a second and minutes. `folder` may itself be a link.
    """
    root = os.path.realpath(folder)

    def inside(path: str) -> bool:
        return os.path.commonpath([root, os.path.realpath(path)]) == root

    parents: dict[str, tuple[bool, set[str]]] = {}
    for index, path in enumerate(paths):
        parent, _, name = path.rpartition("/")
        if parent not in parents:
            directory = os.path.join(folder, parent)
            try:
                links = {entry.name for entry in os.scandir(directory) if entry.is_symlink()}
            except OSError:
                links = set()
            parents[parent] = inside(directory), links
        sound, links = parents[parent]
        if not sound or (name in links and not inside(os.path.join(folder, path))):
            return index
    return None


def check_images(dataset: DatasetDict, *, workers: int | None = None, progress: bool = True) -> None:
    """Open and decode every image, and report all that are missing or unreadable at once.

    When all are sound, that is remembered in the cache of `datasets` by paths, sizes and times of the files, so that
    the next start takes no time.

    Args:
        dataset: splits of the dataset form.
        workers: threads; by default one for each processor, at most 16.
        progress: show a progress bar.

    Raises:
        InputError: names the number of bad images and split, row and file of the first ones.
    """
    marker = _marker(dataset)
    if marker is not None and marker.exists():
        return
    failures: list[tuple[str, int, str, str]] = []
    total = sum(len(split) for split in dataset.values())
    bar = tqdm(total=total, desc="checking images", unit="image", disable=not progress, leave=False)
    with bar, ThreadPoolExecutor(workers or min(16, os.cpu_count() or 1)) as pool:
        for name, split in dataset.items():
            rows = split.select_columns(["image", "image_id", "file_path"])
            for batch in rows.iter(batch_size=512):
                for image_id, path, reason in zip(
                    batch["image_id"], batch["file_path"], pool.map(_failure, batch["image"]), strict=True
                ):
                    if reason:
                        failures.append((name, image_id, path, reason))
                bar.update(len(batch["image_id"]))
    if failures:
        raise InputError(_report(failures, total))
    if marker is not None:
        try:
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()
        except OSError:  # a read-only cache costs only the time of the next check
            return


def _failure(source: dict[str, Any] | None) -> str:
    """Return why an image cannot be used, or an empty text."""
    if source is None or (source["bytes"] is None and not os.path.exists(source["path"] or "")):
        return "missing"
    try:
        read_image(source)
    except InputError as error:
        return str(error).removeprefix(f"{source['path'] or 'the image'}: ").rpartition(";")[0]
    return ""


def _report(failures: Sequence[tuple[str, int, str, str]], total: int) -> str:
    """Put all failures into one sentence: how many, the first few, and the folders from which most are missing."""
    first = ", ".join(f"{split} row {row} ({path}: {reason})" for split, row, path, reason in failures[:5])
    more = f" and {len(failures) - 5:,} more" if len(failures) > 5 else ""
    folders = Counter(path.partition("/")[0] for _, _, path, reason in failures if reason == "missing" and "/" in path)
    where = ", ".join(f"{folder}/ ({number:,})" for folder, number in folders.most_common(5) if number >= 5)
    advice = f"; most are missing from {where}: unpack what is missing" if where else "; put back or replace the files"
    verb = "is" if len(failures) == 1 else "are"
    return (
        f"{len(failures):,} of {total:,} images {verb} missing or cannot be read: {first}{more}{advice}, or remove "
        "their rows."
    )


def _marker(dataset: DatasetDict) -> Path | None:
    """Name the file that remembers a successful check; None if an image is not a file or is missing."""
    digest = hashlib.sha256()
    for split in dataset.values():
        for source in split["image"]:
            if source is None or source["bytes"] is not None or not source["path"]:
                return None
            try:
                status = os.stat(source["path"])
            except OSError:
                return None
            digest.update(f"{source['path']}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return Path(datasets.config.HF_DATASETS_CACHE) / "cffa_image_checks" / f"{digest.hexdigest()}.ok"
