"""Images and captions -> unit vectors: the one loop that encodes, for evaluation, galleries and single queries alike."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPProcessor

from cffa_hf.errors import InputError
from cffa_hf.inference.modes import evaluation_mode
from cffa_hf.inference.onnx_model import OnnxModel, read_onnx_processor
from cffa_hf.inputs.images import ImageSource, load_pixels, normalise_images
from cffa_hf.inputs.processor import encode_captions
from cffa_hf.precision import resolve_precision

AHEAD = 2  # batches of images that are decoded while the model computes
# What a CPU computes at once. The widest tensors of ViT-B/16 stay below 32 MiB then: glibc gives larger ones back to the
# system when they are freed, and every page is cleared anew.
CPU_PIXELS, CPU_TOKENS = 8 * 384 * 128, 2048
ImageBatch = tuple[list[int], Tensor, list[tuple[int, str]]]
"""Numbers of the images, their embeddings `(images, width)`, and those that cannot be read, each with the reason."""


class Embedder:
    """A model at work, with the processor that prepares its inputs.

    Several threads may use one embedder, and several embedders one model. Weights are never changed: on a CPU, faster
    layers stand in for the model's own while it computes, and its mode is restored after each batch.

    Args:
        model: Any with `get_image_features` and `get_text_features`, on any device.
        processor: Its processor.
        batch_size: Images encoded at once; captions at once have at most the tokens of as many captions of full length.
        precision: "bfloat16": autocast over float32 weights; "float32": none but that of the caller; "auto": bfloat16
            where the device computes in it; an ONNX export has its own.

    Attributes:
        checkpoint: Folder or name on the Hub of the model, where it was opened by name.
        weights_sha256: Digest of its weights, if so.

    Raises:
        InputError: If the batch size is below 1, there is no such precision, or the model does not go with it.
    """

    def __init__(self, model: nn.Module, processor: CLIPProcessor, *, batch_size: int = 64, precision: str = "auto"):
        if batch_size < 1:
            raise InputError(f"The batch size must be at least 1, not {batch_size}.")
        self.model, self.processor, self.batch_size = model, processor, batch_size
        types = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
        weights = next(iter(types - {torch.float32}), torch.float32)
        if isinstance(model, OnnxModel):
            self.precision = model.check_precision(precision)
        else:
            self.precision = resolve_precision(precision, weights, self.device)
        self._autocast = self.precision == "bfloat16" and weights == torch.float32
        self.checkpoint: str | None = None
        self.weights_sha256: str | None = None

    @classmethod
    def from_onnx(cls, folder: str | Path, *, batch_size: int = 64) -> "Embedder":
        """Open what `cffa-hf export` wrote; its precision is "onnx-float32" or "onnx-int8".

        Args:
            folder: With both towers, the processor and `onnx.json`.
            batch_size: As above.

        Raises:
            InputError: If the folder holds no complete export, or ONNX Runtime is not installed.
        """
        model = OnnxModel(folder)
        embedder = cls(model, read_onnx_processor(model), batch_size=batch_size)
        embedder.weights_sha256 = model.record.weights_sha256
        return embedder

    @classmethod
    def from_checkpoint(cls, checkpoint: Any, *, batch_size: int = 64, precision: str = "auto") -> "Embedder":
        """Make the embedder of a checkpoint, which knows what it is called.

        Args:
            checkpoint: What `open_checkpoint` returned.
            batch_size: As of the class.
            precision: As of the class.
        """
        embedder = cls(checkpoint.model, checkpoint.processor, batch_size=batch_size, precision=precision)
        embedder.checkpoint = checkpoint.name if checkpoint.commit else str(checkpoint.folder.resolve())
        embedder.weights_sha256 = checkpoint.weights_sha256
        return embedder

    @property
    def device(self) -> torch.device:
        """Return where the model is."""
        return next(self.model.parameters()).device

    @property
    def width(self) -> int:
        """Return the width of the embeddings."""
        config: Any = self.model.config
        return config.embedding_dim

    def images(self, sources: Iterable[ImageSource]) -> Tensor:
        """Embed images, `(images, width)`, unit rows, float32, on the CPU.

        Args:
            sources: Paths, bytes, images of Pillow: whatever `read_image` takes.

        Raises:
            InputError: If an image cannot be read.
        """
        parts = []
        for _, vectors, failures in self.image_batches(sources):
            if failures:
                raise InputError(failures[0][1])
            parts.append(vectors)
        return torch.cat(parts) if parts else torch.empty(0, self.width)

    def image_batches(self, sources: Iterable[ImageSource]) -> Iterator[ImageBatch]:
        """Embed images batch by batch, so that each finished batch can be stored; the next ones are decoded meanwhile.

        Args:
            sources: Paths, bytes, images of Pillow: whatever `read_image` takes; read a few batches ahead.

        Yields:
            Numbers of the images, in order; their embeddings `(images, width)`, unit rows, float32, on the CPU; and the
            images of this batch that cannot be read, each number with one sentence.
        """
        for indices, pixels, failures in self._decoded(sources):
            if pixels:
                yield indices, self._encode({"pixel_values": torch.stack(pixels)}), failures
            else:
                yield indices, torch.empty(0, self.width), failures

    def captions(self, texts: Sequence[str]) -> Tensor:
        """Embed captions, `(captions, width)`, unit rows, float32, on the CPU; they are cleaned and cut like a dataset's.

        They are encoded in order of length, so that little is padded, and returned in their own order.

        Args:
            texts: Any sentences.
        """
        if not len(texts):
            return torch.empty(0, self.width)
        tokenizer = self.processor.tokenizer
        ids = encode_captions(tokenizer, texts, tokenizer.model_max_length)
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        parts = token_batches([len(ids[index]) for index in order], self.batch_size * tokenizer.model_max_length)
        encoded = self.encode(self._padded([ids[index] for index in order[part]]) for part in parts)
        result = torch.empty_like(encoded)
        result[torch.tensor(order, dtype=torch.int64)] = encoded
        return result

    def encode(self, batches: Iterable[dict[str, Tensor]]) -> Tensor:
        """Embed batches, `(items, width)`, float32, on the CPU; `(0,)` if there is none.

        Args:
            batches: Each with `pixel_values`, uint8, `(batch, 3, height, width)`, or with `input_ids` and
                `attention_mask`, `(batch, length)`.
        """
        parts = [self._encode(batch) for batch in batches]
        return torch.cat(parts) if parts else torch.empty(0)

    def _encode(self, batch: dict[str, Tensor]) -> Tensor:
        device = self.device
        parts = [self._compute(part, device) for part in (_portions(batch) if device.type == "cpu" else [batch])]
        return torch.cat(parts)

    def _compute(self, batch: dict[str, Tensor], device: torch.device) -> Tensor:
        with evaluation_mode(self.model):
            if not self._autocast:
                return _features(self.model, batch, device).float().cpu()
            with torch.autocast(device.type, dtype=torch.bfloat16):
                features = _features(self.model, batch, device)
            return F.normalize(features.float(), dim=-1).cpu()

    def _decoded(
        self, sources: Iterable[ImageSource]
    ) -> Iterator[tuple[list[int], list[Tensor], list[tuple[int, str]]]]:
        """Read images in threads, some batches ahead of the one that is yielded: numbers, pixels, failures."""
        size = self.processor.image_processor.size
        image_size = size["height"], size["width"]
        numbered = enumerate(sources)
        waiting: deque[list[tuple[int, Future[Tensor]]]] = deque()
        pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        try:
            for _ in count():
                while len(waiting) <= AHEAD and (batch := list(islice(numbered, self.batch_size))):
                    waiting.append([(index, pool.submit(load_pixels, source, image_size)) for index, source in batch])
                if not waiting:
                    return
                indices, pixels, failures = [], [], []
                for index, result in waiting.popleft():
                    try:
                        pixels.append(result.result())
                        indices.append(index)
                    except InputError as error:
                        failures.append((index, str(error)))
                yield indices, pixels, failures
        finally:
            pool.shutdown(cancel_futures=True)

    def _padded(self, ids: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        rows = [torch.tensor(row) for row in ids]
        padded = pad_sequence(rows, batch_first=True, padding_value=self.processor.tokenizer.pad_token_id)
        lengths = torch.tensor([len(row) for row in rows])
        return {"input_ids": padded, "attention_mask": (torch.arange(padded.shape[1]) < lengths[:, None]).long()}


def token_batches(lengths: Sequence[int], most: int) -> list[slice]:
    """Cut captions in order of length into batches that hold a number of tokens at most, padding included.

    Args:
        lengths: Of the captions in tokens, ascending.
        most: Tokens of a batch; a caption that is longer is a batch of its own.
    """
    starts = [0]
    for index, length in enumerate(lengths):
        if (index + 1 - starts[-1]) * length > most and index > starts[-1]:
            starts.append(index)
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(lengths)], strict=True)]


def _portions(batch: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Cut a batch into what a CPU computes at once."""
    if "pixel_values" in batch:
        rows = CPU_PIXELS // batch["pixel_values"][0, 0].numel()
    else:
        rows = CPU_TOKENS // batch["input_ids"].shape[1]
    names = [name for name in ("pixel_values", "input_ids", "attention_mask") if name in batch]
    for parts in zip(*(batch[name].split(max(1, rows)) for name in names), strict=True):
        yield dict(zip(names, parts, strict=True))


def _features(model: nn.Module, batch: dict[str, Tensor], device: torch.device) -> Tensor:
    encoder: Any = model
    if "pixel_values" in batch:
        return encoder.get_image_features(normalise_images(batch["pixel_values"].to(device, non_blocking=True)))
    return encoder.get_text_features(batch["input_ids"].to(device), batch["attention_mask"].to(device))
