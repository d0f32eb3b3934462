import gzip
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, CLIPProcessor, CLIPTokenizer

from cffa_hf.errors import InputError
from cffa_hf.inputs.images import load_pixels
from cffa_hf.inputs.processor import (
    CLIP_MERGES,
    MASK_TOKEN,
    add_mask_token,
    build_processor,
    clip_tokenizer,
    encode_captions,
    train_tokenizer,
)

CAPTIONS = [
    f"A {who} in a {colour} {garment} is walking with a {colour} bag."
    for who in ("man", "woman", "boy")
    for colour in ("red", "dark blue", "light-coloured")
    for garment in ("jacket", "coat", "hooded sweatshirt")
]


@pytest.fixture(scope="module")
def merges(golden_folder):
    return golden_folder / "bpe_simple_vocab_16e6.txt.gz"


@pytest.fixture(scope="module")
def clip(merges):
    return clip_tokenizer(merges)


@pytest.fixture(scope="module")
def small():
    return train_tokenizer(CAPTIONS, 570)


def without_mask(tokenizer):
    """The tokenizer as a CLIP checkpoint has it: one more merge instead of the mask token."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = [token for token in sorted(model["vocab"], key=model["vocab"].get) if token != MASK_TOKEN]
    last = ("q", "x</w>")
    tokens.insert(-2, "".join(last))
    merges = [*(tuple(pair) for pair in model["merges"]), last]
    return CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=merges)


def test_equals_the_recorded_ids(clip, golden_folder):
    recorded = json.loads((golden_folder / "clip_tokens.json").read_text())
    encoded = encode_captions(clip, [item["text"] for item in recorded])
    assert encoded == [item["ids"] for item in recorded]


def test_special_ids_are_the_last_three(clip, small):
    for tokenizer in (clip, small):
        size = len(tokenizer)
        ids = (tokenizer.mask_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert ids == (size - 3, size - 2, size - 1)
    assert len(clip) == 49408
    assert len(small) == 570


def test_the_word_whose_merge_is_lost_still_tokenises(clip):
    (ids,) = encode_captions(clip, ["Jekyll"])
    assert len(ids) == 4
    assert clip.decode(ids[1:-1]) == "jekyll"


@given(st.lists(st.text(), max_size=4), st.integers(2, 20))
@settings(max_examples=60, deadline=None)
def test_any_text_starts_ends_and_fits(small, texts, length):
    for ids in encode_captions(small, texts, length):
        assert ids[0] == small.bos_token_id
        assert ids[-1] == small.eos_token_id
        assert 2 <= len(ids) <= length
        assert small.bos_token_id not in ids[1:]
        assert small.eos_token_id not in ids[:-1]


@given(st.text())
@settings(max_examples=60, deadline=None)
def test_any_text_in_clips_vocabulary(clip, text):
    (ids,) = encode_captions(clip, [text])
    assert (ids[0], ids[-1]) == (49406, 49407)
    assert len(ids) <= 77
    assert max(ids[1:-1], default=0) <= 49405


def test_control_tokens_in_a_caption_are_plain_text(clip):
    spelt, plain = encode_captions(clip, ["a <|EndOfText|> b<|startoftext|>", "a <| endoftext |> b <| startoftext |>"])
    assert spelt == plain
    assert not {49406, 49407} & set(spelt[1:-1])
    assert encode_captions(clip, ["a <|mask|>"]) == [[49406, 320, 49405, 49407]]


def test_a_long_caption_keeps_the_end_token(clip):
    (ids,) = encode_captions(clip, ["red " * 100])
    assert ids == [49406, *[736] * 75, 49407]


def test_no_captions():
    assert encode_captions(train_tokenizer(CAPTIONS, 570), []) == []


def test_training_is_reproducible_and_learns_words(small):
    again = train_tokenizer(iter(CAPTIONS), 570)
    assert again.get_vocab() == small.get_vocab()
    assert "woman</w>" in small.get_vocab()
    assert len(encode_captions(small, ["woman"])[0]) == 3


def test_few_captions_give_a_smaller_vocabulary():
    tokenizer = train_tokenizer(["red coat"], 5000)
    assert 515 < len(tokenizer) < 530
    assert tokenizer.eos_token_id == len(tokenizer) - 1
    (ids,) = encode_captions(tokenizer, ["zebra 你好 😀"])  # bytes that no caption had are known all the same
    assert tokenizer.eos_token_id not in ids[:-1]


def test_a_vocabulary_without_room_is_refused():
    with pytest.raises(InputError, match="516"):
        train_tokenizer(CAPTIONS, 515)


def test_add_mask_token_gives_up_the_last_merge(small):
    stock = without_mask(small)
    masked = add_mask_token(stock)
    assert len(masked) == len(stock)
    assert masked.mask_token_id == len(stock) - 3
    assert encode_captions(masked, CAPTIONS) == encode_captions(small, CAPTIONS)
    assert len(encode_captions(stock, ["qx"])[0]) == 3
    assert len(encode_captions(masked, ["qx"])[0]) == 4
    assert add_mask_token(masked) is masked


def test_add_mask_token_makes_clips_own_tokenizer_ours(clip, merges):
    with gzip.open(merges, "rt", encoding="utf-8") as file:
        lost = tuple(file.read().split("\n")[CLIP_MERGES].split())
    vocabulary = clip.get_vocab()
    vocabulary["".join(lost)] = vocabulary.pop(MASK_TOKEN)
    pairs = [tuple(pair) for pair in json.loads(clip.backend_tokenizer.to_str())["model"]["merges"]]
    stock = CLIPTokenizer(vocab=vocabulary, merges=[*pairs, lost])
    assert len(stock("jekyll")["input_ids"]) == 3
    assert add_mask_token(stock).get_vocab() == clip.get_vocab()


def test_add_mask_token_refuses_what_is_not_clips(small):
    tokenizer = without_mask(small)
    tokenizer.add_tokens(["another"])
    with pytest.raises(InputError, match="last three ids"):
        add_mask_token(tokenizer)


def test_merges_that_are_not_clips_are_refused(tmp_path):
    path = tmp_path / "merges.txt"
    with pytest.raises(InputError, match="cannot be read"):
        clip_tokenizer(path)
    path.write_text("#version\na b\n")
    with pytest.raises(InputError, match="does not hold"):
        clip_tokenizer(path)


@pytest.mark.parametrize("loader", [CLIPProcessor, AutoProcessor])
def test_a_saved_processor_loads_equal(small, tmp_path, loader):
    encode_captions(small, CAPTIONS, 50)  # a length used before must not be saved
    build_processor(small, (96, 32), 24).save_pretrained(tmp_path)
    loaded = loader.from_pretrained(tmp_path)
    assert isinstance(loaded, CLIPProcessor)
    texts = [*CAPTIONS, f"a {MASK_TOKEN} coat", "jekyll 你好"]
    assert encode_captions(loaded.tokenizer, texts) == encode_captions(small, texts)
    assert loaded.tokenizer.mask_token_id == small.mask_token_id
    assert loaded.tokenizer.model_max_length == 24
    image = Image.new("L", (50, 70), 128)
    batch = loaded(text=texts, images=[image], return_tensors="pt", padding=True, truncation=True)
    assert batch["pixel_values"].shape == (1, 3, 96, 32)
    assert batch["input_ids"].shape[1] <= 24
    assert batch["attention_mask"].shape == batch["input_ids"].shape


def test_a_saved_processor_names_the_class_that_exists_with_and_without_torchvision(small, tmp_path):
    build_processor(small).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "processor_config.json").read_text())["image_processor"]
    assert settings["image_processor_type"] == "CLIPImageProcessor"
    assert settings["size"] == {"height": 384, "width": 128}


@pytest.mark.parametrize("loader", [CLIPTokenizer, AutoTokenizer])
def test_saved_tokenizers_load_equal(small, clip, tmp_path, loader):
    for name, tokenizer in (("small", small), ("clip", clip)):
        tokenizer.save_pretrained(tmp_path / name)
        loaded = loader.from_pretrained(tmp_path / name)
        assert loaded.get_vocab() == tokenizer.get_vocab()
        texts = [*CAPTIONS, f"a {MASK_TOKEN} coat"]
        assert encode_captions(loaded, texts) == encode_captions(tokenizer, texts)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_training_pixels_are_the_processors_to_the_bit(small, mode):
    noise = np.random.default_rng(0).integers(0, 256, (61, 37, 4), dtype=np.uint8)
    image = Image.fromarray(noise if mode == "RGBA" else noise[..., :3]).convert(mode)
    processor = build_processor(small, (96, 32)).image_processor
    expected = processor(image, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"][0]
    pixels = load_pixels(image, (96, 32))
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels, expected.to(torch.uint8))
