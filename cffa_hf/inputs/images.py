"""Image files: read safely, resized and normalised."""

import io
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from cffa_hf.errors import InputError
from cffa_hf.inputs.packed import read_packed

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


def read_image(source: ImageSource, *, most_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a complete image, upright and in RGB.

    The EXIF orientation is applied, transparent pixels are laid on white, 16-bit grey is scaled to 8 bits, of an
    animation the first frame is taken.

    Args:
        source: A path, the bytes of an image file, the `{"path", "bytes"}` of `datasets.Image(decode=False)`, whose path
            may name a part of a shard (`cffa_hf.inputs.packed`), or an image of Pillow.
        most_pixels: Larger ones are refused before they are decoded.

    Returns:
        A loaded image in mode "RGB".

    Raises:
        InputError: The file is missing, truncated, no regular file, no image of the formats that are read, or has more
            than `most_pixels` pixels.

    Example:
        >>> grey = Image.new("I;16", (2, 3), 65535)  # 16 bits, white
        >>> read_image(grey).mode, read_image(grey).getpixel((0, 0))
        ('RGB', (255, 255, 255))
    """
    name, opened = _locate(source)
    try:
        if isinstance(opened, (str, os.PathLike)) and not stat.S_ISREG(os.stat(opened).st_mode):
            raise InputError(f"{name}: the image cannot be read (no regular file); put one there, or leave it out.")
        with opened if isinstance(opened, Image.Image) else Image.open(opened, formats=IMAGE_FORMATS) as image:
            width, height = image.size
            if width * height > most_pixels:
                raise InputError(
                    f"{name}: an image of {width}x{height} pixels is refused (the limit is {most_pixels:,} pixels); "
                    "scale it down."
                )
            image.load()
            return _to_rgb(_upright(image))
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{name}: there is no such image; put it there, or leave it out.") from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: refused, the image is far too large ({error}); scale it down.") from error
    # Pillow's decoders raise many kinds of errors on broken data (OSError, SyntaxError, ValueError, struct.error ...).
    except Exception as error:
        reason = str(error).replace(repr(opened), repr(name))  # not the address of the bytes
        raise InputError(f"{name}: the image cannot be read ({reason}); replace it, or leave it out.") from error


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
            raise InputError("An image has neither a path nor bytes; fix or remove its row.")
        packed = read_packed(str(path))
        return str(path), path if packed is None else io.BytesIO(packed)
    return os.fspath(source), source


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; damaged EXIF data are ignored."""
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


def escapes(folder: Path, paths: Sequence[str]) -> Iterator[int]:
    """Find those of `paths` (relative to `folder`) that a symbolic link leads out of `folder`; yield their numbers.

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
        parent_is_inside, links = parents[parent]
        if not parent_is_inside or (name in links and not inside(os.path.join(folder, path))):
            yield index


def load_pixels(source: Any, image_size: Sequence[int]) -> torch.Tensor:
    """Read an image and resize it bilinearly: `(3, height, width)`, uint8, the pixels that the processor normalises.

    Args:
        source: Whatever `read_image` takes.
        image_size: Height and width.

    Raises:
        InputError: The image is missing or cannot be read.

    Example:
        >>> load_pixels(Image.new("RGB", (20, 60), "white"), (96, 32)).shape
        torch.Size([3, 96, 32])
    """
    height, width = image_size
    image = read_image(source).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def normalise_images(pixels: Tensor) -> Tensor:
    """Scale pixels to [0, 1], subtract CLIP's mean and divide by its standard deviation of each channel.

    Args:
        pixels: `(batch, 3, height, width)`, uint8.

    Returns:
        A float32 tensor of the same shape.

    Example:
        >>> normalise_images(torch.zeros(1, 3, 4, 4, dtype=torch.uint8)).dtype
        torch.float32
    """
    shape = (1, 3, 1, 1)
    offset = torch.tensor(OPENAI_CLIP_MEAN, device=pixels.device).view(shape)
    scale = torch.tensor(OPENAI_CLIP_STD, device=pixels.device).view(shape)
    return pixels.float().mul_(1 / 255).sub_(offset).div_(scale)
