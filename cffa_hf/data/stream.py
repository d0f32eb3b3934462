"""A stream of training batches out of shards, for sets that are read once an epoch and from front to back."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from transformers import CLIPTokenizer

from cffa_hf.configuration_cffa import CONTEXT_LENGTH, IMAGE_SIZE
from cffa_hf.data.rows import count
from cffa_hf.data.shard_reading import ShardReader, ShardSample
from cffa_hf.data.shards import ShardFolder
from cffa_hf.data.stream_order import StreamOrder
from cffa_hf.errors import InputError
from cffa_hf.inputs.images import load_pixels
from cffa_hf.inputs.processor import encode_captions

logger = logging.getLogger(__name__)

Sample = dict[str, Any]
NAMED_FAILURES = 5
"""Samples that cannot be used and are named in the log, in each loading process and epoch."""


class StreamBatches(IterableDataset[dict[str, Tensor]]):
    """Whole batches of pairs: every image once an epoch, with one of its captions, which change from epoch to epoch.

    A `DataLoader` takes it with `batch_size=None`. Samples are `{"pixel_values", "input_ids", "person_id",
    "person_label", "pair"}` as those of `PairDataset`, and are collated here. A label is the identity of the shard, or a
    negative number of its own where there is none: labels can be compared, but they are no classes.

    A sample that cannot be used is named in the log, counted and replaced by the next one of the lane that can, so that
    all processes have the same number of batches.

    Args:
        shards: Where the samples are.
        tokenizer: Of `cffa_hf.inputs.processor`.
        collate: Makes a batch of samples.
        image_size: Height and width to which images are resized.
        context_length: Longest caption in tokens.
        batch_size: Samples in a batch of this process.
        rank: Number of this process.
        processes: How many processes train together.
        workers: Loading processes of each, 0: it loads by itself.
        buffer: Samples in the shuffle buffer of each loading process.
        failure_limit: How many samples of an epoch this process may find unusable.
        seed: Together with the epoch it fixes the order.

    Attributes:
        shards: As given.
        order: Which samples come when.

    Raises:
        InputError: There are fewer samples than one batch for each loading process.
    """

    def __init__(
        self,
        shards: ShardFolder,
        tokenizer: CLIPTokenizer,
        collate: Callable[[Sequence[Sample]], dict[str, Tensor]],
        *,
        image_size: tuple[int, int] = IMAGE_SIZE,
        context_length: int = CONTEXT_LENGTH,
        batch_size: int = 64,
        rank: int = 0,
        processes: int = 1,
        workers: int = 0,
        buffer: int = 2000,
        failure_limit: int = 100,
        seed: int = 0,
    ) -> None:
        self.shards = shards
        self.workers = max(1, workers)
        self.processes, self.rank = processes, rank
        counts = tuple(shard.samples for shard in shards.shards)
        self.order = StreamOrder(counts, processes * self.workers, batch_size, buffer, seed)
        self.image_size, self.context_length = image_size, context_length
        self.failure_limit = failure_limit
        self._tokenizer, self._collate = tokenizer, collate
        # Loading processes that live on see a new position, and this process their failures.
        self._position = torch.zeros(2, dtype=torch.int64).share_memory_()
        self._failures = torch.zeros(self.workers, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        """Return the number of batches of this process in an epoch."""
        return self.order.batches * self.workers

    @property
    def failures(self) -> int:
        """Return how many different samples this process could not use in this epoch."""
        return int(self._failures.sum())

    @property
    def record(self) -> dict[str, Any]:
        """Return what the batches depend on, for checkpoints and records."""
        return {
            "shards": self.shards.fingerprint,
            "samples": self.shards.samples,
            "processes": self.processes,
            "loading_processes": self.workers,
            "batch_size": self.order.batch_size,
            "buffer": self.order.buffer,
            "seed": self.order.seed,
        }

    @property
    def sentence(self) -> str:
        """Say what an epoch reads."""
        return (
            f"{self.shards.samples:,} images in {count(len(self.shards.shards), 'shard')}: {len(self):,} batches an epoch "
            f"for each process, {count(self.order.left_out, 'image')} left out of each epoch, other ones each time"
        )

    def set_position(self, epoch: int, skipped: int = 0) -> None:
        """Choose where the next iteration begins.

        Args:
            epoch: Counted from 0.
            skipped: Batches of this process that are not made: an empty one stands for each, and nothing is read for it.
        """
        self._position[0], self._position[1] = epoch, skipped
        self._failures.zero_()

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        info = get_worker_info()
        if (1 if info is None else info.num_workers) != self.workers:
            raise InputError(f"the stream was made for {self.workers} loading processes; give the DataLoader as many.")
        worker = 0 if info is None else info.id
        epoch, skipped = self._position.tolist()
        # Loading processes take turns: of the first batches the first ones have one more.
        own = len(range(worker, skipped, self.workers))
        for _ in range(own):
            yield {}
        yield from _Lane(self, epoch, worker).batches(own)

    def count_failure(self, worker: int, error: InputError) -> None:
        """Count a sample that cannot be used, and name the first ones.

        Raises:
            InputError: There were too many.
        """
        self._failures[worker] += 1
        if int(self._failures[worker]) <= NAMED_FAILURES:
            logger.warning("left out of the stream: %s", error)
        if self.failures > self.failure_limit:
            last = str(error).rstrip(".").rpartition(";")[0] or str(error).rstrip(".")
            raise InputError(
                f"the stream has more than {count(self.failure_limit, 'sample')} that cannot be used in this epoch, the last "
                f"one is {last}; mend the shards, or raise stream_failure_limit."
            )


class _Lane:
    """What one loading process does in one epoch."""

    def __init__(self, stream: StreamBatches, epoch: int, worker: int) -> None:
        self._stream, self._epoch, self._worker = stream, epoch, worker
        lane = stream.rank * stream.workers + worker
        self._samples = stream.order.stretch(epoch, lane)
        self._leaving = stream.order.leaving(epoch, lane)
        self._reader = ShardReader(stream.shards)
        self._unusable: set[int] = set()

    def batches(self, skipped: int) -> Iterator[dict[str, Tensor]]:
        """Make the batches from some number on."""
        size = self._stream.order.batch_size
        start = skipped * size
        leaves_at = np.empty_like(self._leaving)
        leaves_at[self._leaving] = np.arange(len(self._leaving))
        held: dict[int, ShardSample | InputError] = {}
        place, batch = 0, []
        try:
            for wanted in self._leaving[start:].tolist():
                while place <= wanted:
                    if leaves_at[place] >= start:
                        held[place] = self._read(place)
                    place += 1
                batch.append(self._usable(wanted, held.pop(wanted)))
                if len(batch) == size:
                    yield self._collated(batch)
                    batch = []
        finally:
            self._reader.close()

    def _read(self, place: int) -> ShardSample | InputError:
        try:
            return self._reader.read(int(self._samples[place]))
        except InputError as error:
            return error

    def _usable(self, place: int, found: ShardSample | InputError) -> tuple[int, Tensor, ShardSample]:
        """Decode a sample, or the next one of the stretch that can be: number, pixels and the sample."""
        for distance in range(len(self._samples)):
            number = int(self._samples[(place + distance) % len(self._samples)])
            if distance:
                found = self._read((place + distance) % len(self._samples))
            try:
                if isinstance(found, InputError):
                    raise found
                return number, self._pixels(number, found), found
            except InputError as error:
                if number not in self._unusable:
                    self._unusable.add(number)
                    self._stream.count_failure(self._worker, error)
        raise InputError(f"{self._stream.shards.source}: no sample of a loading process can be used; mend the shards.")

    def _pixels(self, number: int, sample: ShardSample) -> Tensor:
        shard, row = self._stream.shards.locate(number)
        name = f"{shard.path}: sample {row}"
        return load_pixels({"path": name, "bytes": sample.image}, self._stream.image_size)

    def _collated(self, batch: Sequence[tuple[int, Tensor, ShardSample]]) -> dict[str, Tensor]:
        stream = self._stream
        texts = [sample.captions[(self._epoch + number) % len(sample.captions)] for number, _, sample in batch]
        ids = encode_captions(stream._tokenizer, texts, stream.context_length)
        samples = []
        for (number, pixels, sample), input_ids in zip(batch, ids, strict=True):
            label = -1 - number if sample.person_id is None else sample.person_id
            samples.append(
                {
                    "pixel_values": pixels,
                    "input_ids": input_ids,
                    "person_id": label,
                    "person_label": label,
                    "pair": number,
                }
            )
        return stream._collate(samples)
