"""Rows of a dataset as samples: each image once, each caption once, or each caption with its image."""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import CLIPTokenizer

from cffa_hf.configuration_cffa import CONTEXT_LENGTH, IMAGE_SIZE
from cffa_hf.data.caption_noise import CAPTION_PERSONS, matched_pairs
from cffa_hf.errors import InputError
from cffa_hf.inputs.images import load_pixels
from cffa_hf.inputs.processor import encode_captions

Sample = dict[str, Any]


class ImageDataset(Dataset[Sample]):
    """Each image once, in the order of the rows: `{"pixel_values": (3, height, width) uint8, "person_id": int}`.

    Images are read and resized when a sample is asked for, in the process that asks; or their pixels are taken from the
    column that `cache_images` of `cffa_hf.data.image_cache` adds.

    Args:
        rows: one split in the dataset form (columns `image` and `person_id` are used, `image_id` in messages).
        image_size: height and width to which images are resized, exactly as the processor of this package does.

    Attributes:
        person_ids: `(images,)`, int64, as in the source.
    """

    def __init__(self, rows: datasets.Dataset, image_size: tuple[int, int] = IMAGE_SIZE) -> None:
        images = rows.select_columns(["image"])
        if images.features["image"].decode:  # as a dataset loaded from the Hub has it
            images = images.cast_column("image", datasets.Image(decode=False))
        self._images = images
        column = pixel_column(image_size)
        self._pixels = rows.select_columns([column]).with_format("arrow") if column in rows.column_names else None
        self._row_numbers = np.asarray(rows["image_id"][:]) if "image_id" in rows.column_names else None
        self.image_size = image_size
        self.person_ids = np.asarray(rows["person_id"][:], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.person_ids)

    def __getitem__(self, index: int) -> Sample:
        return {"pixel_values": self._read(int(index)), "person_id": int(self.person_ids[index])}

    def _read(self, index: int) -> torch.Tensor:
        if self._pixels is not None:
            content = self._pixels[index].column(0)[0].as_buffer()
            pixels = np.frombuffer(content, dtype=np.uint8).reshape(3, *self.image_size)
            return torch.from_numpy(pixels.copy())
        try:
            return load_pixels(self._images[index]["image"], self.image_size)
        except InputError as error:
            raise InputError(
                f"row {index if self._row_numbers is None else self._row_numbers[index]}: {error}"
            ) from error


class CaptionDataset(Dataset[Sample]):
    """Each caption once, row after row: `{"input_ids": list[int], "person_id": int}`.

    All captions are tokenised at once in the beginning, and kept in one array: the tokenizer itself is not kept, and
    worker processes share the memory.

    Args:
        rows: one split in the dataset form (columns `captions` and `person_id` are used).
        tokenizer: of `cffa_hf.inputs.processor`.
        context_length: longest result in tokens.

    Attributes:
        person_ids: `(captions,)`, int64, as in the source.
        rows: `(captions,)`, int64, number of the row that the caption belongs to.
    """

    def __init__(self, rows: datasets.Dataset, tokenizer: CLIPTokenizer, context_length: int = CONTEXT_LENGTH) -> None:
        self._captions = rows.select_columns(["captions"])
        captions: list[list[str]] = self._captions["captions"][:]
        self.rows = np.repeat(np.arange(len(captions)), [len(texts) for texts in captions])
        self.person_ids = np.asarray(rows["person_id"][:], dtype=np.int64)[self.rows]
        encoded = encode_captions(tokenizer, [text for texts in captions for text in texts], context_length)
        self._ends = np.cumsum([0, *map(len, encoded)])
        self._ids = np.fromiter((index for ids in encoded for index in ids), dtype=np.int32, count=self._ends[-1])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        return {"input_ids": self.input_ids(index), "person_id": int(self.person_ids[index])}

    def input_ids(self, index: int) -> list[int]:
        """Return the ids of one caption, unpadded."""
        index = range(len(self))[index]
        return self._ids[self._ends[index] : self._ends[index + 1]].tolist()

    def text(self, index: int) -> str:
        """Return one caption as the dataset has it."""
        index = range(len(self))[index]
        row = int(self.rows[index])
        return self._captions[row]["captions"][index - int(np.searchsorted(self.rows, row))]


class PairDataset(Dataset[Sample]):
    """Each caption with its image, for training: the sample of the image, that of the caption, a class label and a number.

    `{"pixel_values": (3, height, width) uint8, "input_ids": list[int], "person_id": int, "person_label": int, "pair": int}`.

    Args:
        rows: one split in the dataset form.
        tokenizer: of `cffa_hf.inputs.processor`.
        image_size: height and width to which images are resized.
        context_length: longest caption in tokens.

    Attributes:
        images: the images alone.
        captions: the captions alone, in the order of the pairs.
        identities: `(identities,)`, int64, the ids of the source in ascending order; a label is an index into it.
        person_labels: `(pairs,)`, int64, in [0, number of identities).
        matched: `(pairs,)`, bool, whether the caption is of the person in the image; None: captions were not shuffled.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        tokenizer: CLIPTokenizer,
        image_size: tuple[int, int] = IMAGE_SIZE,
        context_length: int = CONTEXT_LENGTH,
    ) -> None:
        self.images = ImageDataset(rows, image_size)
        self.captions = CaptionDataset(rows, tokenizer, context_length)
        self.identities, self.person_labels = np.unique(self.captions.person_ids, return_inverse=True)
        self.matched = matched_pairs(rows) if CAPTION_PERSONS in rows.column_names else None

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        image = self.images[int(self.captions.rows[index])]
        return {**image, **self.captions[index], "person_label": int(self.person_labels[index]), "pair": index}


def pixel_column(image_size: Sequence[int]) -> str:
    """Name the column of resized pixels, `(3, height, width)` uint8, of one image size."""
    return "pixels_{}x{}".format(*image_size)
