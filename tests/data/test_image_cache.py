"""The cache of resized images: the same pixels, made once, known by what it was made from."""

import os
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from cffa_hf.data import image_cache
from cffa_hf.data.image_cache import cache_images
from cffa_hf.data.pairs import ImageDataset, PairDataset
from cffa_hf.data.rows import FEATURES
from cffa_hf.errors import InputError, RunStopped
from tests.tiny import person_rows, tiny_processor

SIZE = (48, 16)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of `datasets` of the test's own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "cffa_images"


@pytest.fixture
def rows(tmp_path) -> datasets.Dataset:
    """Six images of various sizes and modes, in files."""
    rng = np.random.default_rng(0)
    entries = []
    for index, mode in enumerate(["RGB", "RGB", "L", "RGBA", "RGB", "P"]):
        path = tmp_path / f"{index}.png"
        pixels = rng.integers(0, 256, (60 + index, 25, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(path)
        entries.append(
            {
                "image": {"path": str(path), "bytes": None},
                "captions": ["a person", "somebody else"],
                "person_id": index // 2,
                "image_id": 10 + index,
                "file_path": path.name,
                "camera": None,
            }
        )
    return datasets.Dataset.from_list(entries, features=FEATURES)


def pixels_of(rows: datasets.Dataset, size: tuple[int, int] = SIZE) -> torch.Tensor:
    images = ImageDataset(rows, size)
    return torch.stack([images[index]["pixel_values"] for index in range(len(images))])


def test_pixels_are_identical(cache, rows):
    cached = cache_images(rows, SIZE, progress=False)
    assert torch.equal(pixels_of(cached), pixels_of(rows))
    assert cached.remove_columns("pixels_48x16")[:] == rows[:]
    (file,) = cache.glob("*/*.arrow")
    assert file.stat().st_size < len(rows) * 3 * 48 * 16 + 5000


def test_nothing_is_decoded_any_more(cache, rows):
    expected = pixels_of(rows)
    cached = cache_images(rows, SIZE, progress=False)
    for path in cached["image"]:
        os.unlink(path["path"])
    assert torch.equal(pixels_of(cached), expected)
    # Another size is not in the cache, and needs the files.
    with pytest.raises(InputError, match=r"row 10: .*there is no such image"):
        pixels_of(cached, (24, 16))


def test_selected_rows_and_bytes_work_too(cache, rows):
    chosen = rows.select([4, 0, 3])
    assert torch.equal(pixels_of(cache_images(chosen, SIZE, progress=False)), pixels_of(rows)[[4, 0, 3]])
    embedded = person_rows(3, 1)
    assert torch.equal(pixels_of(cache_images(embedded, SIZE, progress=False)), pixels_of(embedded))


def test_pairs_read_from_it(cache):
    rows = person_rows(2, 2)
    tokenizer = tiny_processor(rows).tokenizer
    plain, cached = PairDataset(rows, tokenizer, SIZE), PairDataset(cache_images(rows, SIZE), tokenizer, SIZE)
    for index in range(len(plain)):
        one, other = plain[index], cached[index]
        assert torch.equal(one.pop("pixel_values"), other.pop("pixel_values"))
        assert one == other


def test_it_is_made_once_and_announced(cache, rows, capsys):
    cache_images(rows, SIZE, progress=False)
    assert f"caching 6 images at 48x16: 0.0 MB in {cache}" in capsys.readouterr().err
    (file,) = cache.glob("*/*.arrow")
    before = file.stat().st_mtime_ns
    cache_images(rows, SIZE, progress=False)
    assert capsys.readouterr().err == ""
    assert file.stat().st_mtime_ns == before


def test_another_image_or_size_is_another_cache(cache, rows):
    cache_images(rows, SIZE, progress=False)
    cache_images(rows, (24, 16), progress=False)
    assert len(list(cache.glob("*/*.arrow"))) == 2
    Image.new("RGB", (9, 9), "red").save(rows[2]["image"]["path"])
    changed = cache_images(rows, SIZE, progress=False)
    assert len(list(cache.glob("*/*.arrow"))) == 3
    assert pixels_of(changed)[2, 0].eq(255).all()


@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_a_cache_that_was_cut_short_is_made_again(cache, rows, share):
    expected = pixels_of(cache_images(rows, SIZE, progress=False))
    (file,) = cache.glob("*/*.arrow")
    content = file.read_bytes()
    file.unlink()  # the rows that are open keep theirs
    file.write_bytes(content[: int(share * len(content))])
    assert torch.equal(pixels_of(cache_images(rows, SIZE, progress=False)), expected)
    assert file.stat().st_size == len(content)


def test_a_bad_image_leaves_no_cache(cache, rows):
    Path(rows[1]["image"]["path"]).write_bytes(b"no image")
    with pytest.raises(InputError, match=r"1\.png: the image cannot be read"):
        cache_images(rows, SIZE, progress=False)
    assert {path.suffix for path in cache.iterdir()} == {".lock"}


def test_without_room_it_says_what_to_do(cache, rows, monkeypatch):
    monkeypatch.setattr(image_cache.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(RunStopped, match=r"6 resized images need 0\.0 MB, and 0\.0 MB are free; make room"):
        cache_images(rows, SIZE, progress=False)
