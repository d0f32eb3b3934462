"""Noisy correspondence: captions of a train split that stand with another image, at a rate or by a given permutation.

Pairs are numbered image after image, caption after caption, in the order of the rows, which is that of the annotation file.
A permutation p gives pair i the caption of pair p[i]; images and identities stay where they are.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, List, Value

from cffa_hf.errors import InputError

CAPTION_PERSONS = "caption_person_ids"
"""Column of shuffled rows: for each caption, the identity that it was written for."""


@dataclass(frozen=True)
class CaptionNoise:
    """Which captions change places.

    Attributes:
        rate: Share of the pairs whose captions are shuffled among themselves, in [0, 1); None: a file says it.
        seed: Draws them; runs with the same seed and data have the same noise, whatever else they are seeded with.
        permutation: Of the file, `(pairs,)`, int64; None: drawn at a rate.
        path: The file, for messages.
        sha256: Digest of the file, in hexadecimal digits.
    """

    rate: float | None = None
    seed: int = 0
    permutation: np.ndarray | None = None
    path: str | None = None
    sha256: str | None = None

    @classmethod
    def of(cls, source: float | str, seed: int = 0) -> "CaptionNoise":
        """Take a rate, or read the permutation of a file.

        Args:
            source: A rate in [0, 1), or the path of an `.npy` file with an int64 permutation.
            seed: Draws the pairs of a rate.

        Raises:
            InputError: If the rate is outside its range, or the file is no such permutation.
        """
        if isinstance(source, str):
            permutation, digest = read_permutation(source)
            return cls(permutation=permutation, path=source, sha256=digest)
        if not 0 <= source < 1:
            raise InputError(f"caption_noise is {source}, but a rate must be from 0 to below 1.")
        return cls(rate=source, seed=seed)

    def apply(self, rows: Dataset) -> Dataset:
        """Shuffle the captions of a train split.

        Args:
            rows: In the dataset form.

        Returns:
            The rows as they were, but for their captions, and with one column more, `caption_person_ids`.

        Raises:
            InputError: If the file has another number of pairs than the split.
        """
        pairs = sum(len(texts) for texts in rows["captions"])
        if self.permutation is None:
            return with_captions_of(rows, draw_permutation(pairs, self.rate or 0.0, self.seed))
        if len(self.permutation) != pairs:
            raise InputError(
                f"caption_noise: {self.path} is a permutation of {len(self.permutation):,} pairs, but the train split has "
                f"{pairs:,}; take the file of this data set, and set validation_identities to 0 if it is of the whole of "
                "a train split that validation people are held out of here."
            )
        return with_captions_of(rows, self.permutation)

    def record(self, rows: Dataset) -> dict[str, Any]:
        """Describe the noise of shuffled rows: rate and seed, or the digest of the file, and what came of it.

        Args:
            rows: As `apply` returned them.
        """
        source = {"sha256": self.sha256} if self.rate is None else {"rate": self.rate, "seed": self.seed}
        return source | {"share_of_other_identity": float(np.mean(~matched_pairs(rows)))}


def draw_permutation(pairs: int, rate: float, seed: int) -> np.ndarray:
    """Draw `int(rate * pairs)` places at random and shuffle them among themselves, `(pairs,)`, int64; the rest stay.

    Args:
        pairs: How many there are.
        rate: In [0, 1).
        seed: Together with `pairs` and `rate` it fixes the result.
    """
    generator = np.random.default_rng(seed)
    places = generator.permutation(pairs)[: int(rate * pairs)]
    permutation = np.arange(pairs, dtype=np.int64)
    permutation[places] = generator.permutation(places)
    return permutation


def read_permutation(path: str | Path) -> tuple[np.ndarray, str]:
    """Read a permutation, `(pairs,)`, int64, and digest its file.

    Args:
        path: An `.npy` file; nothing in it is executed.

    Raises:
        InputError: If there is no such file, or it holds anything else.
    """
    try:
        content = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise InputError(f"caption_noise: {path} cannot be read ({error.strerror}).") from error
    try:
        permutation = np.load(Path(path).expanduser(), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"caption_noise: {path} is not a whole .npy file of numbers.") from error
    if not isinstance(permutation, np.ndarray) or permutation.dtype != np.int64 or permutation.ndim != 1:
        found = f"{permutation.dtype} {permutation.shape}" if isinstance(permutation, np.ndarray) else "several arrays"
        raise InputError(f"caption_noise: {path} must hold one int64 number a pair, but it holds {found}.")
    if not np.array_equal(np.sort(permutation), np.arange(len(permutation))):
        raise InputError(
            f"caption_noise: {path} holds {len(permutation):,} numbers that are no permutation; each of 0 to "
            f"{len(permutation) - 1:,} must come once."
        )
    return permutation, hashlib.sha256(content).hexdigest()


def with_captions_of(rows: Dataset, permutation: np.ndarray) -> Dataset:
    """Give pair i the caption of pair `permutation[i]`, and write down whose it is.

    Args:
        rows: A split in the dataset form; every image keeps its number of captions.
        permutation: `(pairs,)`, int64.
    """
    captions: list[list[str]] = rows["captions"][:]
    ends = np.cumsum([len(texts) for texts in captions])
    persons = np.repeat(np.asarray(rows["person_id"][:], dtype=np.int64), [len(texts) for texts in captions])
    texts = [text for texts in captions for text in texts]
    moved = [texts[index] for index in permutation]
    spans = list(zip([0, *ends[:-1]], ends, strict=True))
    result = rows.remove_columns("captions").add_column(
        "captions",
        [moved[begin:end] for begin, end in spans],
        feature=rows.features["captions"],
    )
    result = result.add_column(
        CAPTION_PERSONS,
        [persons[permutation[begin:end]].tolist() for begin, end in spans],
        feature=List(Value("int64")),
    )
    return result.select_columns([*rows.column_names, CAPTION_PERSONS])


def matched_pairs(rows: Dataset) -> np.ndarray:
    """Tell which captions of shuffled rows are of the person in their image, `(pairs,)`, bool."""
    pairs = zip(rows["person_id"], rows[CAPTION_PERSONS], strict=True)
    return np.array([person == own for own, persons in pairs for person in persons], dtype=bool)
