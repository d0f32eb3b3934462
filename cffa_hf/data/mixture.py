"""Several data sets as one: identities kept apart, and batches in which every set has its share."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
from torch.utils.data import Sampler

from cffa_hf.data.columns import column_array
from cffa_hf.errors import InputError
from cffa_hf.names import public_name


@dataclass(frozen=True)
class Mixture:
    """Which rows are of which set, and how often a set is gone through in an epoch.

    Attributes:
        names: Of the sets.
        rows: Rows of each set; they follow each other in this order.
        weights: Passes through each set in an epoch; 0.5 reads one half in one epoch and the other half in the next.
    """

    names: tuple[str, ...]
    rows: tuple[int, ...]
    weights: tuple[float, ...]

    def sets_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of the set of each row, `(n,)`."""
        return np.searchsorted(np.cumsum(self.rows), rows, side="right")

    @property
    def record(self) -> dict[str, float]:
        """Return the weights by name, without a path of this machine."""
        return dict(zip(map(str, map(public_name, self.names)), self.weights, strict=True))


def join_sets(parts: Mapping[str, datasets.Dataset], weights: Mapping[str, float]) -> tuple[datasets.Dataset, Mixture]:
    """Put train splits together; identities of different sets get different numbers.

    Args:
        parts: Splits in the dataset form, by the name of the set.
        weights: Passes through each of them in an epoch, positive.

    Returns:
        The rows of all sets, one set after the other, and which is which.
    """
    joined, first = [], 0
    for rows in parts.values():
        identities, labels = np.unique(column_array(rows, "person_id"), return_inverse=True)
        column = datasets.Dataset.from_dict(
            {"person_id": labels + first}, features=datasets.Features({"person_id": datasets.Value("int64")})
        )
        without = rows.remove_columns("person_id")
        joined.append(datasets.concatenate_datasets([without, column], axis=1).select_columns(rows.column_names))
        first += len(identities)
    names = tuple(parts)
    mixture = Mixture(names, tuple(len(rows) for rows in joined), tuple(float(weights[name]) for name in names))
    return datasets.concatenate_datasets(joined), mixture


class MixtureSampler(Sampler[int]):
    """Pairs of several sets in random order, so that every stretch of an epoch holds nearly the same share of each.

    A set with n pairs and weight w is drawn round(n * w) times in an epoch, out of one endless row of its shuffles: no
    pair comes a second time before all of its set have come. As with the other samplers the order depends on seed and
    epoch alone, and the batch of all processes is a run of it.

    Args:
        sets: Number of the set of each pair, `(pairs,)`.
        weights: Passes through each set in an epoch, positive.
        seed: Together with the epoch it fixes the order.

    Raises:
        InputError: A set is drawn less than once an epoch.
    """

    def __init__(self, sets: np.ndarray, weights: Sequence[float], seed: int = 0) -> None:
        self._members = [np.flatnonzero(sets == number) for number in range(len(weights))]
        self.draws = [round(len(members) * weight) for members, weight in zip(self._members, weights, strict=True)]
        if not all(self.draws):
            raise InputError(
                f"the set number {self.draws.index(0) + 1} of datasets is drawn less than once an epoch; raise its weight."
            )
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(self.draws)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch])
        # Each set is spread evenly over the epoch, with a little chance in every place.
        places = [(np.arange(draws) + generator.uniform(size=draws)) / draws for draws in self.draws]
        pairs = [self._drawn(number) for number in range(len(self.draws))]
        return iter(np.concatenate(pairs)[np.argsort(np.concatenate(places), kind="stable")].tolist())

    def _drawn(self, number: int) -> np.ndarray:
        """Take this epoch's part of the row of shuffles of a set."""
        members, draws = self._members[number], self.draws[number]
        first, last = self.epoch * draws, (self.epoch + 1) * draws
        passes = range(first // len(members), (last - 1) // len(members) + 1)
        shuffles = [np.random.default_rng([self.seed, number, turn]).permutation(members) for turn in passes]
        begin = first - passes.start * len(members)
        return np.concatenate(shuffles)[begin : begin + draws]
