"""Thumbnails and uploaded pictures."""

import base64
import io
import struct
import zlib

import pytest
from PIL import Image

from cffa_hf.errors import InputError
from cffa_hf.page.pictures import MAX_UPLOAD, UPLOADED, file_uri, read_upload


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    image.save(content, kind)
    return content.getvalue()


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG that claims a size."""
    header, data = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), zlib.compress(bytes(1000))
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a text", "damaged, or in no format"),
        (b"", "damaged, or in no format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "no format that is read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "no format that is read"),
        (encoded(Image.new("RGB", (40, 40)))[:-30], "damaged"),
        (png_header(30_000, 30_000), "too many pixels"),
        (b"x" * (MAX_UPLOAD + 1), "more than 10 MB"),
    ],
)
def test_hostile_uploads_are_refused_in_one_sentence(content, reason):
    with pytest.raises(InputError, match=reason) as caught:
        read_upload(content)
    assert "Bytes" not in str(caught.value)


def test_an_upload_is_upright_and_small():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    content = io.BytesIO()
    Image.new("RGB", (3000, 1000), "red").save(content, "JPEG", exif=exif)
    picture = read_upload(content.getvalue())
    assert picture.mode == "RGB"
    assert picture.size == (341, UPLOADED)


def test_a_thumbnail_follows_its_file(tmp_path):
    path = tmp_path / "one.png"
    assert file_uri(path, 64) is None
    path.write_bytes(b"no picture")
    assert file_uri(path, 64) is None
    Image.new("RGB", (400, 800), "red").save(path)
    small = decoded(file_uri(path, 64))
    assert small.size == (32, 64)
    assert small.getpixel((9, 9))[0] > 240
    Image.new("RGB", (400, 800), "blue").save(path)
    assert decoded(file_uri(path, 64)).getpixel((9, 9))[2] > 240
    path.unlink()
    assert file_uri(path, 64) is None
