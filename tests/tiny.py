"""Models, captions and data small enough for tests of a second."""

import io

import datasets
import numpy as np
import torch
from PIL import Image
from transformers import CLIPProcessor

from cffa_hf.configuration_cffa import CFFAConfig
from cffa_hf.data.rows import FEATURES
from cffa_hf.inputs.processor import build_processor, train_tokenizer
from cffa_hf.modeling_cffa import CFFAForPreTraining

IMAGE_SIZE = (64, 32)
VOCABULARY = 600
MASK, START, END = VOCABULARY - 3, VOCABULARY - 2, VOCABULARY - 1
TEXT = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 128}
VISION = {**TEXT, "patch_size": 16}


def tiny_config(*, text=None, vision=None, **fields) -> CFFAConfig:
    """A CFFA configuration of some 300,000 parameters; `text` and `vision` change the encoders."""
    return CFFAConfig(
        text_config={**TEXT, "vocab_size": VOCABULARY, **(text or {})},
        vision_config={**VISION, "image_size": list(IMAGE_SIZE), **(vision or {})},
        **{"projection_dim": 64, "local_dim": 32, "cross_modal_layers": 1, "num_identities": 6, **fields},
    )


def tiny_model(seed: int = 0, **fields) -> CFFAForPreTraining:
    """A training model with random weights, in evaluation mode, without dropout."""
    torch.manual_seed(seed)
    return CFFAForPreTraining(tiny_config(**fields)).eval()


def captions(*words: list[int], length: int | None = None, pad: int = END) -> torch.Tensor:
    """Put start and end tokens around lists of word ids and pad them to `length` or the longest."""
    rows = [[START, *row, END] for row in words]
    length = length or max(map(len, rows))
    return torch.tensor([row + [pad] * (length - len(row)) for row in rows])


def mask_of(ids: torch.Tensor) -> torch.Tensor:
    """Attention mask: 1 up to and with the first end token."""
    ends = (ids == END).int().argmax(dim=1)
    return (torch.arange(ids.shape[1]) <= ends[:, None]).long()


def random_words(count: int, seed: int = 0) -> list[int]:
    """Ids of ordinary tokens."""
    return torch.randint(1, MASK, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def images(count: int, size: tuple[int, int] = IMAGE_SIZE, seed: int = 0) -> torch.Tensor:
    """Normalised noise."""
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))


COLORS = {
    "red": (200, 30, 30),
    "green": (30, 200, 30),
    "blue": (30, 30, 200),
    "white": (240, 240, 240),
    "black": (20, 20, 20),
    "yellow": (220, 220, 40),
}


def person_rows(identities: int = 6, images_per_identity: int = 2, first_id: int = 40) -> datasets.Dataset:
    """A split in the dataset form: people are two stripes of colour, two captions an image."""
    names, rows = list(COLORS), []
    rng = np.random.default_rng(first_id)
    for index in range(identities * images_per_identity):
        person = index // images_per_identity
        upper, lower = names[person % len(names)], names[(person // len(names) + person + 1) % len(names)]
        pixels = np.empty((64, 32, 3), dtype=np.uint8)
        pixels[:32], pixels[32:] = COLORS[upper], COLORS[lower]
        pixels = np.clip(pixels + rng.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "PNG")
        rows.append(
            {
                "image": {"path": None, "bytes": content.getvalue()},
                "captions": [f"A person in a {upper} shirt and {lower} trousers.", f"{lower} trousers, {upper} top"],
                "person_id": first_id + person,
                "image_id": index,
                "file_path": f"{index}.png",
                "camera": None,
            }
        )
    return datasets.Dataset.from_list(rows, features=FEATURES)


def tiny_processor(rows: datasets.Dataset) -> CLIPProcessor:
    """The processor of `tiny_model`; its tokenizer is trained on the captions of a split and on words that fill it up."""
    texts = [caption for texts in rows["captions"] for caption in texts]
    texts.append(" ".join(map(chr, (*range(0x3B1, 0x3CA), *range(0x430, 0x450), *range(0x5D0, 0x5EB)))))  # a merge each
    return build_processor(train_tokenizer(texts, VOCABULARY), IMAGE_SIZE)
