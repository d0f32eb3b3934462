"""The pictures of the page: made small by ourselves and sent inside it, so that no file of this machine is served."""

import base64
import io
import os
from functools import lru_cache
from pathlib import Path

from PIL import Image

from cffa_hf.errors import InputError
from cffa_hf.inputs.images import ImageSource, read_image

THUMBNAIL, LARGE = 192, 512
"""Longest side in pixels."""
UPLOADED = 1024
MAX_UPLOAD = 10 * 2**20
"""Bytes of an uploaded picture."""


def read_upload(content: bytes) -> Image.Image:
    """Read an uploaded picture, scaled down to at most 1024 pixels.

    Args:
        content: The file's bytes; its name means nothing.

    Raises:
        InputError: If it is too large or no picture of the formats that are read.
    """
    if len(content) > MAX_UPLOAD:
        raise InputError(f"The picture has more than {MAX_UPLOAD // 2**20} MB; scale it down and try again.")
    try:
        image = read_image(content)
    except InputError as error:
        reason = "it has too many pixels" if "pixel" in str(error) else "it is damaged, or in no format that is read"
        raise InputError(f"The picture cannot be used ({reason}); choose a JPEG, PNG or WebP file.") from error
    image.thumbnail((UPLOADED, UPLOADED))
    return image


def data_uri(source: ImageSource, side: int) -> str:
    """Write an image, scaled down to a longest side, as a JPEG inside a data URI.

    Raises:
        InputError: If the image cannot be read.
    """
    image = read_image(source)
    image.thumbnail((side, side))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def file_uri(path: Path, side: int) -> str | None:
    """Do the same for a file; None if it is gone or broken."""
    try:
        return _cached(os.fspath(path), path.stat().st_mtime_ns, side)
    except (OSError, InputError):
        return None


@lru_cache(maxsize=2000)
def _cached(path: str, modified: int, side: int) -> str:
    """Keep what was made of a file until the file changes."""
    return data_uri(path, side)
