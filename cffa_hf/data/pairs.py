"""Rows of a dataset as samples: each image once, each caption once, or each caption with its image."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import CLIPTokenizer

from cffa_hf.configuration_cffa import CONTEXT_LENGTH, IMAGE_SIZE
from cffa_hf.data.caption_noise import CAPTION_PERSONS, matched_pairs
from cffa_hf.data.columns import caption_counts, column_array
from cffa_hf.data.mapped_pages import MappedPages
from cffa_hf.data.token_ids import encode_rows
from cffa_hf.errors import InputError
from cffa_hf.inputs.images import load_pixels

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
        self._images = images.with_format("arrow")
        self._pages = MappedPages(self._images)
        column = pixel_column(image_size)
        self._pixels = rows.select_columns([column]).with_format("arrow") if column in rows.column_names else None
        self._row_numbers = rows.select_columns(["image_id"]) if "image_id" in rows.column_names else None
        self.image_size = image_size
        self.person_ids = column_array(rows, "person_id")

    def __len__(self) -> int:
        return len(self.person_ids)

    def __getitem__(self, index: int) -> Sample:
        return {"pixel_values": self._read(int(index)), "person_id": int(self.person_ids[index])}

    def source(self, index: int) -> dict[str, Any]:
        """Return path and bytes of one image, not decoded."""
        self._pages.count_read()
        return self._images[index].column(0)[0].as_py()

    def _read(self, index: int) -> torch.Tensor:
        if self._pixels is not None:
            content = self._pixels[index].column(0)[0].as_buffer()
            pixels = np.frombuffer(content, dtype=np.uint8).reshape(3, *self.image_size)
            return torch.from_numpy(pixels.copy())
        try:
            return load_pixels(self.source(index), self.image_size)
        except InputError as error:
            row = index if self._row_numbers is None else self._row_numbers[index]["image_id"]
            raise InputError(f"row {row}: {error}") from error


class CaptionDataset(Dataset[Sample]):
    """Each caption once, row after row: `{"input_ids": list[int], "person_id": int}`.

    All captions are tokenised in the beginning, or taken from the cache of an earlier start, see
    `cffa_hf.data.token_ids`: the tokenizer itself is not kept, and worker processes share the memory. For each image a few
    numbers are kept, for each caption none until one of the attributes is asked for.

    Args:
        rows: one split in the dataset form (columns `captions` and `person_id` are used).
        tokenizer: of `cffa_hf.inputs.processor`.
        context_length: longest result in tokens.

    Attributes:
        image_person_ids: `(images,)`, int64, as in the source.
        counts: `(images,)`, int64, number of captions of each image.
    """

    def __init__(self, rows: datasets.Dataset, tokenizer: CLIPTokenizer, context_length: int = CONTEXT_LENGTH) -> None:
        self._captions = rows.select_columns(["captions"])
        self.image_person_ids = column_array(rows, "person_id")
        self.counts = caption_counts(rows)
        self._ends = np.cumsum(self.counts)
        self._ids = encode_rows(rows, tokenizer, context_length)

    @cached_property
    def rows(self) -> np.ndarray:
        """Number of the row that each caption belongs to, `(captions,)`, int64."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @cached_property
    def person_ids(self) -> np.ndarray:
        """Identity of each caption, `(captions,)`, int64, as in the source."""
        return np.repeat(self.image_person_ids, self.counts)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Sample:
        return {"input_ids": self.input_ids(index), "person_id": int(self.image_person_ids[self.row(index)])}

    def row(self, index: int) -> int:
        """Return the number of the row that one caption belongs to."""
        return int(np.searchsorted(self._ends, range(len(self))[index], side="right"))

    def input_ids(self, index: int) -> list[int]:
        """Return the ids of one caption, unpadded."""
        return self._ids[range(len(self))[index]]

    def text(self, index: int) -> str:
        """Return one caption as the dataset has it."""
        index = range(len(self))[index]
        row = self.row(index)
        return self._captions[row]["captions"][index - int(self._ends[row] - self.counts[row])]


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
        used = self.captions.counts > 0
        self.identities = np.unique(self.captions.image_person_ids[used])
        self.matched = matched_pairs(rows) if CAPTION_PERSONS in rows.column_names else None

    @cached_property
    def person_labels(self) -> np.ndarray:
        """Class of each pair, `(pairs,)`, int64, in [0, number of identities)."""
        labels = np.searchsorted(self.identities, self.captions.image_person_ids)
        return np.repeat(labels, self.captions.counts)

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        image = self.images[self.captions.row(index)]
        label = int(np.searchsorted(self.identities, image["person_id"]))
        return {**image, **self.captions[index], "person_label": label, "pair": index}


def pixel_column(image_size: Sequence[int]) -> str:
    """Name the column of resized pixels, `(3, height, width)` uint8, of one image size."""
    return "pixels_{}x{}".format(*image_size)
