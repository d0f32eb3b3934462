import io
import pickle

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from cffa_hf.data.pairs import CaptionDataset, ImageDataset, PairDataset
from cffa_hf.errors import InputError
from cffa_hf.inputs.processor import build_processor, encode_captions, train_tokenizer

SIZE = (48, 16)
CAPTIONS = [["a man in red", "a tall man"], ["a woman"], ["a boy", "a boy with a bag", "a boy in blue"], ["someone"]]
PERSONS = [41, 7, 41, 1000]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([text for texts in CAPTIONS for text in texts], 600)


def picture(seed):
    noise = np.random.default_rng(seed).integers(0, 256, (70 + seed, 30, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.fixture
def rows(tmp_path):
    images = []
    for index in range(len(PERSONS)):
        content = io.BytesIO()
        picture(index).save(content, "PNG")
        if index % 2:  # files and bytes both occur
            images.append({"path": None, "bytes": content.getvalue()})
        else:
            path = tmp_path / f"{index}.png"
            path.write_bytes(content.getvalue())
            images.append({"path": str(path), "bytes": None})
    features = {
        "image": datasets.Image(decode=False),
        "captions": datasets.List(datasets.Value("string")),
        "person_id": datasets.Value("int64"),
    }
    return datasets.Dataset.from_dict(
        {"image": images, "captions": CAPTIONS, "person_id": PERSONS}, features=datasets.Features(features)
    )


def test_one_pair_a_caption(rows, tokenizer):
    pairs = PairDataset(rows, tokenizer, SIZE)
    texts = [text for texts in CAPTIONS for text in texts]
    assert len(pairs) == 7
    assert [pairs[i]["input_ids"] for i in range(7)] == encode_captions(tokenizer, texts)
    assert [pairs[i]["person_id"] for i in range(7)] == [41, 41, 7, 41, 41, 41, 1000]
    assert [pairs[i]["person_label"] for i in range(7)] == [1, 1, 0, 1, 1, 1, 2]
    assert pairs.identities.tolist() == [7, 41, 1000]
    assert [pairs.captions.text(i) for i in range(7)] == texts
    sample = pairs[4]
    assert set(sample) == {"pixel_values", "input_ids", "person_id", "person_label", "pair"}
    assert [pairs[i]["pair"] for i in (0, 4, -1)] == [0, 4, 6]
    expected = np.asarray(picture(2).resize((16, 48), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(sample["pixel_values"].numpy(), expected)


def test_evaluation_sees_each_image_and_each_caption_once(rows, tokenizer):
    images, captions = ImageDataset(rows, SIZE), CaptionDataset(rows, tokenizer)
    assert len(images) == 4
    assert images.person_ids.tolist() == PERSONS
    assert [images[i]["person_id"] for i in range(4)] == PERSONS
    assert captions.rows.tolist() == [0, 0, 1, 2, 2, 2, 3]
    assert captions.person_ids.tolist() == [41, 41, 7, 41, 41, 41, 1000]
    assert set(captions[0]) == {"input_ids", "person_id"}


def test_pixels_are_those_of_the_processor(rows, tokenizer):
    processor = build_processor(tokenizer, SIZE).image_processor
    for index, sample in enumerate(ImageDataset(rows, SIZE)[i] for i in range(4)):
        raw = processor(picture(index), do_rescale=False, do_normalize=False, return_tensors="pt")
        assert torch.equal(sample["pixel_values"].float(), raw["pixel_values"][0].float())


def test_a_selected_split_and_decoded_images_work_too(rows, tokenizer):
    shuffled = rows.cast_column("image", datasets.Image()).select([2, 0])
    pairs, plain = PairDataset(shuffled, tokenizer, SIZE), PairDataset(rows, tokenizer, SIZE)
    assert [pairs.captions.text(i) for i in range(5)] == [*CAPTIONS[2], *CAPTIONS[0]]
    assert torch.equal(pairs[0]["pixel_values"], plain[3]["pixel_values"])


def test_captions_are_cut_to_the_context(rows, tokenizer):
    captions = CaptionDataset(rows, tokenizer, 4)
    assert max(len(captions[i]["input_ids"]) for i in range(len(captions))) == 4
    assert all(captions[i]["input_ids"][-1] == tokenizer.eos_token_id for i in range(len(captions)))


def test_the_end_is_the_end(rows, tokenizer):
    pairs = PairDataset(rows, tokenizer, SIZE)
    with pytest.raises(IndexError):
        pairs[7]
    assert pairs[-1]["input_ids"] == pairs[6]["input_ids"]


def test_survives_pickling_without_the_tokenizer(rows, tokenizer):
    pairs = PairDataset(rows, tokenizer, SIZE)
    content = pickle.dumps(pairs)
    copy = pickle.loads(content)
    assert torch.equal(copy[5]["pixel_values"], pairs[5]["pixel_values"])
    assert copy[5]["input_ids"] == pairs[5]["input_ids"]
    assert b"CLIPTokenizer" not in content


def test_a_missing_image_is_named(rows, tokenizer, tmp_path):
    pairs = PairDataset(rows, tokenizer, SIZE)
    (tmp_path / "0.png").unlink()
    with pytest.raises(InputError, match=r"0\.png"):
        pairs[0]
