"""The order in which training pairs are drawn: one stream for all processes, fixed by seed and epoch.

The trainer cuts the stream into batches and deals them out to the processes in turn, so that the batch of all processes
together is a run of consecutive indices, whatever their number.
"""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from cffa_hf.errors import InputError


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
        return iter(generator.permutation(self.length).tolist())


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
        order = np.argsort(person_labels, kind="stable")
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
        self._members = np.split(order, np.cumsum(counts)[:-1])
        groups = np.maximum(1, counts // captions_per_identity)
        # T batches can be filled if the identities, each at most once in a batch, offer P * T groups of captions.
        self.batches = int(groups.sum()) // self.identities_per_batch
        while np.minimum(groups, self.batches).sum() < self.identities_per_batch * self.batches:
            self.batches -= 1
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
        wanted = self.batches * self.identities_per_batch
        groups = self._groups.copy()
        surplus = np.repeat(np.arange(len(groups)), groups)
        dropped = generator.permutation(surplus)[wanted:]
        np.subtract.at(groups, dropped, 1)
        # Dealt out in turn, the groups of one identity, which stand together, fall into different batches.
        identities = generator.permutation(len(groups))
        dealt = np.repeat(identities, groups[identities]).reshape(self.identities_per_batch, self.batches)
        captions = [iter(self._draw(index, count, generator)) for index, count in enumerate(groups)]
        for batch in generator.permutation(self.batches):
            for identity in generator.permutation(dealt[:, batch]):
                yield from next(captions[identity])

    def _draw(self, identity: int, groups: int, generator: np.random.Generator) -> list[list[int]]:
        """Draw the groups of captions of one identity: different captions, as far as there are enough."""
        wanted = groups * self.captions_per_identity
        members = generator.permutation(self._members[identity])
        members = np.resize(members, wanted) if len(members) < wanted else members[:wanted]
        return members.reshape(groups, self.captions_per_identity).tolist()
