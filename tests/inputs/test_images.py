import contextlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from datasets import DatasetDict
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cffa_hf.data.checks import check_images
from cffa_hf.data.rows import PersonRow, rows_to_dataset
from cffa_hf.errors import InputError
from cffa_hf.inputs.images import MAX_PIXELS, escapes, read_image


def picture(seed: int = 0, size: tuple[int, int] = (12, 30)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_every_kind_of_source_gives_the_same_pixels(tmp_path):
    original = picture()
    path = tmp_path / "a.png"
    path.write_bytes(encode(original))
    sources = [
        path,
        str(path),
        path.read_bytes(),
        original,
        {"path": str(path), "bytes": None},
        {"path": None, "bytes": path.read_bytes()},
    ]
    for source in sources:
        image = read_image(source)
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), np.asarray(original))


def test_postscript_starts_no_program_whatever_it_is_called(tmp_path, monkeypatch):
    mark, tools = tmp_path / "mark", tmp_path / "bin"
    tools.mkdir()
    (tools / "gs").write_text(f"#!/bin/sh\ntouch {mark}\n")
    (tools / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "a.jpg").write_bytes(script)
    for source in (tmp_path / "a.jpg", script, {"path": None, "bytes": script}):
        with pytest.raises(InputError):
            read_image(source)
    assert not mark.exists()
    with pytest.raises(OSError, match="image file"), Image.open(tmp_path / "a.jpg") as image:
        image.load()  # Pillow left to itself does start it
    assert mark.exists()


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "folder.png"):
        with pytest.raises(InputError, match=r"cannot be read \(no regular file\)"):
            read_image(tmp_path / name)


def test_an_image_of_pillow_is_left_as_it_is():
    original = picture().convert("L")
    read_image(original)
    assert original.mode == "L"
    assert original.getpixel((0, 0)) is not None


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = picture(size=(40, 20))
    image = read_image(encode(wide, "PNG", exif=exif))
    assert image.size == (20, 40)
    assert np.array_equal(np.asarray(image), np.rot90(np.asarray(wide), -1))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_do_not_spoil_an_image():
    assert read_image(encode(picture(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")).size == (12, 30)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "I;16", "I"])
def test_every_mode_becomes_rgb(mode):
    grey = picture().convert("L")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    else:
        image = (grey if mode in ("LA", "I") else picture()).convert(mode)
    result = read_image(image)
    assert result.mode == "RGB"
    if mode in ("I;16", "I", "LA"):
        assert np.array_equal(np.asarray(result)[..., 0], np.asarray(grey))


def test_a_grey_image_of_16_bits_is_scaled_not_clipped():
    values = np.array([[0, 255, 32768, 65535]], np.uint16)
    assert np.asarray(read_image(encode(Image.fromarray(values))))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_transparent_pixels_are_laid_on_white():
    image = Image.new("RGBA", (2, 1), (200, 0, 0, 0))
    image.putpixel((1, 0), (200, 0, 0, 255))
    assert np.asarray(read_image(encode(image))).tolist() == [[[255, 255, 255], [200, 0, 0]]]
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([9, 9, 9])
    assert read_image(encode(palette, "GIF", transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_floating_point_pixels_are_refused():
    with pytest.raises(InputError, match="floating point"):
        read_image(encode(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP"])
def test_truncated_images_are_refused(tmp_path, kind):
    path = tmp_path / f"cut.{kind}"
    content = encode(picture(size=(64, 128)), kind)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=f"cut.{kind}: the image cannot be read"):
        read_image(path)


def test_files_that_are_no_images(tmp_path):
    for content in (b"", b"<html>not found</html>", encode(picture())[:20]):
        path = tmp_path / "a.jpg"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.jpg: the image cannot be read"):
            read_image(path)
    with pytest.raises(InputError, match=r"b\.jpg: there is no such image"):
        read_image(tmp_path / "b.jpg")
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path)
    with pytest.raises(InputError, match="neither a path nor bytes"):
        read_image({"path": None, "bytes": None})


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 30_000])
def test_decompression_bombs_are_refused_before_they_are_decoded(side):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )
    assert side * side > MAX_PIXELS
    with pytest.raises(InputError, match=r"refused.*scale it down"):
        read_image({"path": "bomb.png", "bytes": bomb})


@given(st.binary(max_size=400))
def test_arbitrary_bytes_give_an_image_or_an_input_error(content):
    with contextlib.suppress(InputError):
        assert read_image(content).mode == "RGB"


@given(
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=10),
    st.sampled_from(["PNG", "JPEG"]),
)
def test_damaged_images_give_an_image_or_an_input_error(changes, kind):
    content = bytearray(encode(picture(size=(10, 10)), kind))
    for place, value in changes:
        content[place % len(content)] = value
    with contextlib.suppress(InputError):
        assert read_image(bytes(content)).mode == "RGB"


def make_data(folder: Path, number: int = 12) -> DatasetDict:
    rows = []
    for i in range(number):
        path = f"cam_{i % 2}/{i}.jpg"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(encode(picture(i), "JPEG"))
        split = "train" if i < 8 else "test"
        rows.append(PersonRow(image_id=i, file_path=path, captions=["a"], person_id=i, split=split))
    return rows_to_dataset(rows, folder)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def test_sound_images_pass_and_are_remembered(tmp_path, cache):
    data = make_data(tmp_path / "imgs")
    check_images(data, progress=False)
    assert len(list(cache.rglob("*.ok"))) == 1
    check_images(data, progress=False)

    # A file that changes is looked at again.
    (tmp_path / "imgs" / "cam_0" / "2.jpg").write_bytes(b"broken")
    with pytest.raises(InputError, match="1 of 12 images is missing or cannot be read: train row 2 "):
        check_images(data, progress=False)


def test_all_bad_images_are_reported_at_once(tmp_path, cache):
    data = make_data(tmp_path / "imgs")
    broken = tmp_path / "imgs" / "cam_1" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    (tmp_path / "imgs" / "cam_0" / "10.jpg").unlink()
    with pytest.raises(InputError) as caught:
        check_images(data, workers=2, progress=False)
    message = str(caught.value)
    assert message.startswith(
        "2 of 12 images are missing or cannot be read: train row 1 (cam_1/1.jpg: the image cannot"
    )
    assert "test row 10 (cam_0/10.jpg: missing)" in message
    assert "\n" not in message
    assert not list(cache.rglob("*.ok"))


def test_missing_folders_are_named(tmp_path, cache):
    data = make_data(tmp_path / "imgs")
    for path in (tmp_path / "imgs" / "cam_1").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"and 1 more; most are missing from cam_1/ \(6\)"):
        check_images(data, progress=False)


def test_embedded_images_are_checked_too(tmp_path, cache):
    data = make_data(tmp_path / "imgs")
    data.save_to_disk(str(tmp_path / "saved"))
    check_images(DatasetDict.load_from_disk(str(tmp_path / "saved")), progress=False)
    assert not list(cache.rglob("*.ok"))


@given(st.lists(st.sampled_from(["inside", "out", "..", ".", "deep", "a.jpg", "link.jpg"]), min_size=1, max_size=5))
def test_no_path_gets_out(tmp_path_factory, parts):
    """Whatever the row type lets through and the link check does not report lies below the folder."""
    base = tmp_path_factory.getbasetemp() / "escape"
    images = base / "imgs"
    if not base.exists():
        (images / "inside" / "deep").mkdir(parents=True)
        (base / "other").mkdir()
        (images / "out").symlink_to(base / "other", target_is_directory=True)
        (base / "a.jpg").write_bytes(b"")
        (images / "inside" / "link.jpg").symlink_to(base / "a.jpg")
        (images / "link.jpg").symlink_to(images / "inside" / "a.jpg")
    try:
        row = PersonRow(image_id=0, file_path="/".join(parts), captions=["a"], person_id=0)
    except ValueError:
        assert ".." in parts or set(parts) == {"."}
        return
    real = os.path.realpath(images / row.file_path)
    outside = not real.startswith(str(images.resolve()) + os.sep)
    assert list(escapes(images, [row.file_path])) == [0] * outside


@given(st.text(max_size=30))
def test_any_accepted_path_stays_below_the_folder(text):
    try:
        path = PersonRow(image_id=0, file_path=text, captions=["a"], person_id=0).file_path
    except ValueError:
        return
    joined = os.path.normpath(os.path.join("/root/imgs", path))
    assert joined.startswith("/root/imgs/")
