"""Images and captions -> unit vectors: the one loop that encodes, for evaluation, galleries and single queries alike."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPProcessor

from cffa_hf.inference.modes import evaluation_mode
from cffa_hf.inputs.images import ImageSource, load_pixels, normalise_images
from cffa_hf.inputs.processor import encode_captions


class Embedder:
    """A model at work, with the processor that prepares its inputs.

    Args:
        model: Any with `get_image_features` and `get_text_features`, on any device; its mode is restored after each call.
        processor: Its processor.
        batch_size: Items encoded at once.
    """

    def __init__(self, model: nn.Module, processor: CLIPProcessor, *, batch_size: int = 64):
        self.model, self.processor, self.batch_size = model, processor, batch_size

    def images(self, sources: Sequence[ImageSource]) -> Tensor:
        """Embed images, `(images, width)`, float32, on the CPU.

        Args:
            sources: Paths, bytes, images of Pillow: whatever `read_image` takes.

        Raises:
            InputError: If an image cannot be read.
        """
        size = self.processor.image_processor.size
        read = partial(load_pixels, image_size=(size["height"], size["width"]))
        starts = range(0, len(sources), self.batch_size)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return self.encode(
                {"pixel_values": torch.stack(list(pool.map(read, sources[start : start + self.batch_size])))}
                for start in starts
            )

    def captions(self, texts: Sequence[str]) -> Tensor:
        """Embed captions, `(captions, width)`, float32, on the CPU; they are cleaned and cut like those of a dataset.

        They are encoded in order of length, so that little is padded, and returned in their own order.

        Args:
            texts: Any sentences.
        """
        tokenizer = self.processor.tokenizer
        ids = encode_captions(tokenizer, texts, tokenizer.model_max_length)
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        parts = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        encoded = self.encode(self._padded([ids[index] for index in part]) for part in parts)
        result = torch.empty_like(encoded)
        result[torch.tensor(order, dtype=torch.int64)] = encoded
        return result

    def encode(self, batches: Iterable[dict[str, Tensor]]) -> Tensor:
        """Embed batches, `(items, width)`, float32, on the CPU; `(0,)` if there is none.

        Args:
            batches: Each with `pixel_values`, uint8, `(batch, 3, height, width)`, or with `input_ids` and
                `attention_mask`, `(batch, length)`.
        """
        encoder: Any = self.model
        device = next(self.model.parameters()).device
        parts = []
        with evaluation_mode(self.model):
            for batch in batches:
                if "pixel_values" in batch:
                    pixels = normalise_images(batch["pixel_values"].to(device, non_blocking=True))
                    parts.append(encoder.get_image_features(pixels).float().cpu())
                else:
                    ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
                    parts.append(encoder.get_text_features(ids, mask).float().cpu())
        return torch.cat(parts) if parts else torch.empty(0)

    def _padded(self, ids: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        rows = [torch.tensor(row) for row in ids]
        padded = pad_sequence(rows, batch_first=True, padding_value=self.processor.tokenizer.pad_token_id)
        lengths = torch.tensor([len(row) for row in rows])
        return {"input_ids": padded, "attention_mask": (torch.arange(padded.shape[1]) < lengths[:, None]).long()}
