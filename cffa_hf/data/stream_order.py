"""The order of a stream: which samples a lane reads, and in which order they leave its shuffle buffer.

A lane is one loading process of one training process. In every epoch the shards are put into a random order and their
samples, one shard after the other, onto a ring. Each lane gets a stretch of the ring, all of the same length and a whole
number of batches: every sample once, none twice, whatever the sizes of the shards and however many lanes there are. What
is left over at the end, less than a batch a lane, is not read in this epoch.
"""

from dataclasses import dataclass

import numpy as np

from cffa_hf.errors import InputError


@dataclass(frozen=True)
class StreamOrder:
    """Fix the order of all epochs.

    Attributes:
        counts: Samples of each shard.
        lanes: Lanes of all processes together.
        batch_size: Samples in a batch of one process.
        buffer: Samples in the shuffle buffer of a lane.
        seed: Together with the epoch it fixes everything.

    Raises:
        InputError: There are fewer samples than one batch for each lane.
    """

    counts: tuple[int, ...]
    lanes: int
    batch_size: int
    buffer: int
    seed: int

    def __post_init__(self) -> None:
        """Refuse what gives no batch."""
        if not self.batches:
            raise InputError(
                f"the shards hold {sum(self.counts):,} samples, but a batch of {self.batch_size} in each of {self.lanes} "
                "loading processes needs more; take a smaller batch, or a smaller dataloader_num_workers."
            )

    @property
    def batches(self) -> int:
        """Return the number of batches of a lane in an epoch."""
        return sum(self.counts) // (self.lanes * self.batch_size)

    @property
    def left_out(self) -> int:
        """Return the number of samples that an epoch does not read."""
        return sum(self.counts) - self.lanes * self.batches * self.batch_size

    def stretch(self, epoch: int, lane: int) -> np.ndarray:
        """Return the numbers of a lane's samples in the order of reading, `(batches * batch_size,)`, int64."""
        generator = np.random.default_rng([self.seed, epoch])
        counts = np.asarray(self.counts)
        shards = generator.permutation(len(counts))
        ends = np.cumsum(counts[shards])
        first = np.cumsum(counts) - counts
        length = self.batches * self.batch_size
        # The ring begins anywhere, so that other samples are left out each time, also of a single shard.
        places = (generator.integers(ends[-1]) + lane * length + np.arange(length)) % ends[-1]
        turn = np.searchsorted(ends, places, side="right")
        return first[shards[turn]] + places - (ends - counts[shards])[turn]

    def leaving(self, epoch: int, lane: int) -> np.ndarray:
        """Return the places in the stretch in the order in which they leave the buffer.

        A place leaves before those that stand more than `buffer` after it: at no time more wait than the buffer holds.
        """
        length = self.batches * self.batch_size
        delay = np.random.default_rng([self.seed, epoch, lane]).uniform(0, self.buffer, length)
        return np.argsort(np.arange(length) + delay, kind="stable")
