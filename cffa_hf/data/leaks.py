"""Find what two splits of a dataset share: identities, image files, and images that look the same."""

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset, DatasetDict
from PIL import Image

from cffa_hf.inputs.images import read_image
from cffa_hf.inputs.packed import read_packed

# A difference hash of 16x16 bits; saving again as JPEG or enlarging turns 5 to 25 of them, another photo 90 or more.
_SIDE = 16
_MAX_BITS = 32
# Pedestrian crops resemble each other, so images with near hashes must also agree in their small grey versions.
_MAX_GREY = 4.0


@dataclass(frozen=True)
class Leak:
    """One thing that two splits share.

    Attributes:
        kind: "identity" (the same person_id), "image file" (equal bytes) or "similar image" (looks the same).
        splits: The two splits.
        first: What is shared, as the first split names it: a person_id or the path of an image.
        second: The same in the second split.
    """

    kind: Literal["identity", "image file", "similar image"]
    splits: tuple[str, str]
    first: str
    second: str

    def __str__(self) -> str:
        if self.kind == "identity":
            return f"identity {self.first} is in {self.splits[0]} and {self.splits[1]}"
        relation = "is the file" if self.kind == "image file" else "looks like"
        return f"{self.splits[0]} image {self.first} {relation} {self.second} of {self.splits[1]}"


@dataclass(frozen=True)
class ImagePrints:
    """What is compared of the images of one split.

    Attributes:
        paths: Of the images.
        digests: Of their files.
        grey: Small grey versions, `(images, 272)`, uint8.
        bits: Hashes of these, `(images, 4)`, uint64.
    """

    paths: Sequence[str]
    digests: Sequence[bytes]
    grey: np.ndarray

    @cached_property
    def bits(self) -> np.ndarray:
        """Hash the grey versions."""
        image = self.grey.reshape(-1, _SIDE, _SIDE + 1)
        octets = np.packbits(image[:, :, 1:] > image[:, :, :-1], axis=-1).reshape(-1, 8, 4)
        # Every fourth octet goes into one word, so that each word is a coarse picture of the whole image.
        return np.ascontiguousarray(octets.transpose(0, 2, 1)).reshape(-1, 32).view(np.uint64)


def find_leaks(dataset: DatasetDict, *, workers: int | None = None) -> list[Leak]:
    """Compare every two splits.

    All pairs of images are compared. Of two hashes that differ in at most 32 of 256 bits, one of the four words differs
    in at most 8 of its 64: so the words are compared first, and the rest only where one of them is that near.

    Args:
        dataset: Splits of the dataset form.
        workers: Threads that read images.

    Returns:
        Shared identities, then equal files, then images that look the same (each image of the first split at most
        once a kind). Empty if the splits share nothing.

    Raises:
        InputError: An image cannot be read.
    """
    if len(dataset) < 2:
        return []  # nothing to compare with, however many images there are
    people = {name: set(split["person_id"]) for name, split in dataset.items()}
    return compare_splits(people, {name: _take_prints(split, workers) for name, split in dataset.items()})


def compare_splits(people: Mapping[str, set[int]], prints: Mapping[str, ImagePrints]) -> list[Leak]:
    """Compare every two splits, as `find_leaks` does, by what is known of them.

    Args:
        people: Identities of each split.
        prints: Of the images of each split.
    """
    identities: list[Leak] = []
    files: list[Leak] = []
    similar: list[Leak] = []
    for one, other in combinations(prints, 2):
        shared = sorted(people[one] & people[other])
        identities += [Leak("identity", (one, other), str(person), str(person)) for person in shared]
        a, b = prints[one], prints[other]
        owner = {digest: index for index, digest in enumerate(b.digests)}
        equal = {index: owner[digest] for index, digest in enumerate(a.digests) if digest in owner}
        files += [Leak("image file", (one, other), a.paths[i], b.paths[j]) for i, j in equal.items()]
        found: dict[int, int] = {}
        for i, j in _near_pairs(a, b):
            if i not in equal:
                found.setdefault(i, j)
        similar += [Leak("similar image", (one, other), a.paths[i], b.paths[j]) for i, j in found.items()]
    return identities + files + similar


def warn_of_leaks(dataset: DatasetDict, *, workers: int | None = None) -> list[Leak]:
    """Warn, with numbers and names, of everything that two splits share, and return it as `find_leaks` does."""
    leaks = find_leaks(dataset, workers=workers)
    if leaks:
        kinds = ("identity", "image file", "similar image")
        numbers = ", ".join(
            f"{number} x {kind}" for kind in kinds if (number := sum(leak.kind == kind for leak in leaks))
        )
        named = [leak for kind in kinds for leak in [leak for leak in leaks if leak.kind == kind][:3]]
        names, shown = "; ".join(map(str, named)), len(named)
        warnings.warn(
            f"The splits share what they must not share, so results will be too good ({numbers}): {names}"
            f"{'; ...' if shown < len(leaks) else '.'}",
            stacklevel=2,
        )
    return leaks


def _take_prints(split: Dataset, workers: int | None) -> ImagePrints:
    paths: list[str] = []
    digests: list[bytes] = []
    grey = np.empty((len(split), _SIDE * (_SIDE + 1)), np.uint8)
    with ThreadPoolExecutor(workers) as pool:
        for batch in split.select_columns(["image", "file_path"]).iter(batch_size=512):
            for digest, small in pool.map(image_print, batch["image"]):
                grey[len(digests)] = small
                digests.append(digest)
            paths += batch["file_path"]
    return ImagePrints(paths, digests, grey)


def image_print(source: dict[str, Any]) -> tuple[bytes, np.ndarray]:
    """Return the digest of the file and a small grey version of the image, `(272,)`, uint8.

    Raises:
        InputError: The image is missing or cannot be read.
    """
    path = source["path"]
    if source["bytes"] is None and path and (packed := read_packed(path)) is not None:
        source = {"path": path, "bytes": packed}
    elif source["bytes"] is None and path and Path(path).is_file():
        source = {"path": path, "bytes": Path(path).read_bytes()}
    small = read_image(source).convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
    return hashlib.blake2b(source["bytes"], digest_size=16).digest(), np.asarray(small).reshape(-1)


def _near_pairs(a: ImagePrints, b: ImagePrints) -> Iterator[tuple[int, int]]:
    """Yield the pairs (image of a, image of b) that look the same; a pair may come more than once."""
    words = a.bits.shape[1]
    chunk = max(1, 1_000_000 // max(1, len(b.paths)))
    for start in range(0, len(a.paths), chunk):
        for word in range(words):
            distance = np.bitwise_count(a.bits[start : start + chunk, None, word] ^ b.bits[None, :, word])
            i, j = np.nonzero(distance <= _MAX_BITS // words)
            i += start
            keep = np.bitwise_count(a.bits[i] ^ b.bits[j]).sum(axis=1) <= _MAX_BITS
            i, j = i[keep], j[keep]
            alike = np.abs(a.grey[i].astype(np.int16) - b.grey[j]).mean(axis=1) <= _MAX_GREY
            yield from zip(i[alike].tolist(), j[alike].tolist(), strict=True)
