"""The order in which training pairs are drawn: one stream for all processes, fixed by seed and epoch.

The trainer cuts the stream into batches and deals them out to the processes in turn, so that the batch of all processes
together is a run of consecutive indices, whatever their number.
"""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from cffa_hf.errors import InputError

# Numbers that are Python objects at a time: a list of ten million would take 400 MB.
_AT_ONCE = 2**16


class ShuffleSampler(Sampler[int]):
    """Every pair once, in random order.

    Args:
        length: Number of pairs.
        seed: Together with the epoch it fixes the order.
    """

    def __init__(self, length: int, seed: int = 0) -> None:
        self.length = length
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(self.length)
        for start in range(0, self.length, _AT_ONCE):
            yield from order[start : start + _AT_ONCE].tolist()


class IdentitySampler(Sampler[int]):
    """Batches of P different identities with K captions each.

    An identity with n captions comes in n // K batches of an epoch, with different captions each time; the n % K that
    are left out change with the epoch. One with fewer than K captions comes once and repeats some. As many batches are
    made as different identities allow, and no identity is twice in one.

    Args:
        person_labels: Identity of each pair, `(pairs,)`.
        batch_size: Pairs in the batch of all processes together, P * K.
        captions_per_identity: K.
        seed: Together with the epoch it fixes the order.

    Raises:
        InputError: If the batch is no multiple of K, or wants more identities than there are.
    """

    def __init__(
        self, person_labels: np.ndarray, batch_size: int, captions_per_identity: int = 4, seed: int = 0
    ) -> None:
        self.captions_per_identity = captions_per_identity
        self.identities_per_batch, rest = divmod(batch_size, captions_per_identity)
        self._order = np.argsort(person_labels, kind="stable").astype(np.min_scalar_type(-len(person_labels)))
        counts = np.unique(np.asarray(person_labels), return_counts=True)[1]
        if rest:
            raise InputError(
                f"the batch of {batch_size} pairs over all processes is no multiple of captions_per_identity "
                f"{captions_per_identity}; change per_device_train_batch_size or captions_per_identity."
            )
        if len(counts) < self.identities_per_batch:
            raise InputError(
                f"a batch of {batch_size} pairs with captions_per_identity {captions_per_identity} needs "
                f"{self.identities_per_batch} identities, but the train split has {len(counts)}; take a smaller batch."
            )
        self._counts = counts
        self._starts = np.cumsum(counts) - counts
        groups = np.maximum(1, counts // captions_per_identity)
        self.batches = _possible_batches(groups, self.identities_per_batch)
        self._groups = np.minimum(groups, self.batches)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches * self.identities_per_batch * self.captions_per_identity

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch])
        groups = self._kept_groups(generator)
        # Dealt out in turn, the groups of one identity, which stand together, fall into different batches.
        identities = generator.permutation(len(groups))
        dealt = np.repeat(identities, groups[identities]).reshape(self.identities_per_batch, self.batches)
        pairs = self._shuffled_within_identities(generator)
        drawn, places = np.zeros(len(groups), np.int32), np.arange(self.captions_per_identity)
        for batch in generator.permutation(self.batches):
            chosen = generator.permutation(dealt[:, batch])
            # The next K captions of each; an identity with fewer than K begins again.
            next_places = drawn[chosen, None] * self.captions_per_identity + places
            drawn[chosen] += 1
            yield from pairs[self._starts[chosen, None] + next_places % self._counts[chosen, None]].ravel().tolist()

    def _kept_groups(self, generator: np.random.Generator) -> np.ndarray:
        """Count the groups of captions that each identity has in this epoch, `(identities,)`: as many as fill the batches."""
        groups = self._groups.copy()
        surplus = np.repeat(np.arange(len(groups)), groups)
        dropped = generator.permutation(surplus)[self.batches * self.identities_per_batch :]
        return groups - np.bincount(dropped, minlength=len(groups))

    def _shuffled_within_identities(self, generator: np.random.Generator) -> np.ndarray:
        """Return the pairs, identity after identity, those of each one in random order, `(pairs,)`."""
        pairs = self._order.copy()
        several = np.flatnonzero(self._counts > 1)  # a single caption takes nothing from the generator
        for start in range(0, len(several), _AT_ONCE):
            chosen = several[start : start + _AT_ONCE]
            begins = self._starts[chosen]
            for begin, end in zip(begins.tolist(), (begins + self._counts[chosen]).tolist(), strict=True):
                generator.shuffle(pairs[begin:end])
        return pairs


def _possible_batches(groups: np.ndarray, identities_per_batch: int) -> int:
    """Return how many batches of so many different identities can be filled.

    T batches can be if the identities, each at most once in a batch, offer `identities_per_batch * T` groups. What they
    offer is concave in T, so that halving finds the largest T.

    Args:
        groups: Groups of captions that each identity has, `(identities,)`, of at least `identities_per_batch` identities.
        identities_per_batch: Different identities that a batch needs.
    """
    possible, upper = 1, int(groups.sum()) // identities_per_batch
    while possible < upper:
        middle = (possible + upper + 1) // 2
        if np.minimum(groups, middle).sum() >= identities_per_batch * middle:
            possible = middle
        else:
            upper = middle - 1
    return possible
