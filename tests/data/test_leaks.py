from pathlib import Path

import numpy as np
import pytest
from datasets import DatasetDict
from PIL import Image, ImageFilter

from cffa_hf.data.leaks import Leak, find_leaks, warn_of_leaks
from cffa_hf.data.rows import PersonRow, rows_to_dataset


def picture(seed: int) -> Image.Image:
    """A smooth random picture, so that it survives being saved as JPEG as a photo does."""
    noise = np.random.default_rng(seed).integers(0, 255, (16, 6, 3), np.uint8)
    return Image.fromarray(noise).resize((48, 128), Image.Resampling.BICUBIC)


def build(folder: Path, images: dict[str, Image.Image | bytes], people: dict[str, int]) -> DatasetDict:
    """Make a dataset of images named `split-number.jpg`, whose splits are in their names."""
    rows = []
    for number, (name, image) in enumerate(images.items()):
        if isinstance(image, bytes):
            (folder / name).write_bytes(image)
        else:
            image.save(folder / name, quality=90)
        split = name.partition("-")[0]
        rows.append(
            PersonRow(image_id=number, file_path=name, captions=["a"], person_id=people.get(name, number), split=split)
        )
    return rows_to_dataset(rows, folder)


def test_clean_splits_have_no_leaks(tmp_path, recwarn):
    names = [f"{split}-{i}.jpg" for split in ("train", "validation", "test") for i in range(20)]
    data = build(tmp_path, {name: picture(i) for i, name in enumerate(names)}, {})
    assert find_leaks(data) == []
    assert warn_of_leaks(data) == []
    assert not recwarn


def test_a_shared_identity(tmp_path):
    data = build(tmp_path, {f"{s}-0.jpg": picture(i) for i, s in enumerate(("train", "test"))}, {"train-0.jpg": 1})
    assert find_leaks(data) == [Leak("identity", ("train", "test"), "1", "1")]


def test_an_equal_file_under_another_name(tmp_path):
    picture(1).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    data = build(tmp_path, {"train-0.jpg": picture(0), "train-1.jpg": content, "test-0.jpg": content}, {})
    assert find_leaks(data) == [Leak("image file", ("train", "test"), "train-1.jpg", "test-0.jpg")]


@pytest.mark.parametrize("change", ["quality", "scaled", "blurred", "brighter"])
def test_an_image_that_looks_the_same(tmp_path, change):
    images = {f"train-{i}.jpg": picture(i) for i in range(10)} | {f"test-{i}.jpg": picture(100 + i) for i in range(10)}
    copy = picture(4)
    if change == "scaled":
        copy = copy.resize((96, 256))
    elif change == "blurred":
        copy = copy.filter(ImageFilter.GaussianBlur(1))
    elif change == "brighter":
        copy = copy.point(lambda value: min(255, value + 2))
    data = build(tmp_path, images, {})
    copy.save(tmp_path / "test-3.jpg", quality=60)
    assert find_leaks(data) == [Leak("similar image", ("train", "test"), "train-4.jpg", "test-3.jpg")]


def test_images_that_differ_only_in_brightness_overall_are_not_the_same(tmp_path):
    data = build(tmp_path, {"train-0.jpg": picture(0), "test-0.jpg": picture(0).point(lambda value: value // 3)}, {})
    assert find_leaks(data) == []


def test_the_warning_counts_and_names(tmp_path):
    images = {f"{split}-{i}.jpg": picture(i) for split in ("train", "validation") for i in range(8)}
    data = build(tmp_path, images, {"train-0.jpg": 900, "validation-5.jpg": 900})
    with pytest.warns(
        UserWarning, match=r"1 x identity, 8 x image file\): identity 900 is in train and validation; train"
    ):
        leaks = warn_of_leaks(data)
    assert len(leaks) == 9
    assert str(leaks[1]) == "train image train-0.jpg is the file validation-0.jpg of validation"
