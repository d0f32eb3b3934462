"""What a checkpoint has seen: the people and images that it was trained and chosen on, recorded beside its weights.

The record lies in `seen.json`. An evaluation divides the data as the training did, and finds people and images that were
not kept from it.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, concatenate_datasets
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from pydantic import BaseModel, Field, ValidationError

from cffa_hf.data.division import Division, PersonDatasetDict
from cffa_hf.data.fingerprints import dataset_fingerprint, image_digests, rows_fingerprint
from cffa_hf.data.rows import SPLITS, count
from cffa_hf.errors import InputError, one_line
from cffa_hf.files import write_text
from cffa_hf.names import SEEN_RECORD

logger = logging.getLogger(__name__)

RECORDED_IMAGES = 500_000


class SeenSplit(BaseModel):
    """One split of a dataset that a run has read.

    Attributes:
        fingerprint: As `dataset_fingerprint` gives it.
        people: Digests of the images of each identity; empty for a stream and for a split of more than `RECORDED_IMAGES`
            images.
        unrecorded: Images of a split whose people are not recorded.
    """

    fingerprint: str
    people: dict[int, list[str]]
    unrecorded: int = Field(default=0, ge=0)


class SeenDataset(BaseModel):
    """A dataset that a run has read.

    Attributes:
        name: As a config names it, without a path.
        rendered: Whether it is rendered demo data.
        division: How its people were divided.
        splits: By name.
        selected_on: Split that chose the checkpoint; the other one of validation and test was not looked at.
    """

    name: str
    rendered: bool
    division: Division
    splits: dict[str, SeenSplit]
    selected_on: str = Field(default="validation", pattern="^(validation|test)$")


@dataclass(frozen=True)
class Shared:
    """What a split has in common with data that a checkpoint was trained or chosen on.

    Attributes:
        role: "trained" or "chosen".
        people: Identities, as the evaluated data name them.
        images: Paths of the images that are the same files.
    """

    role: str
    people: tuple[int, ...]
    images: tuple[str, ...]

    def __str__(self) -> str:
        first = f", first identity {self.people[0]}" + (f", image {self.images[0]}" if self.images else "")
        numbers = f"{count(len(self.people), 'identity')} and {count(len(self.images), 'image')}"
        return f"{numbers} that the checkpoint was {self.role} on{first}"

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers for `results.json`."""
        return {"role": self.role, "people": len(self.people), "images": len(self.images)}


@dataclass(frozen=True)
class Unrecorded:
    """Images that a checkpoint was trained or chosen on, of which nobody can say whether a split shares them.

    Attributes:
        role: "trained" or "chosen".
        dataset: Its name.
        images: How many; 0: an older version has not counted them.
    """

    role: str
    dataset: str
    images: int

    def __str__(self) -> str:
        number = f"{self.images:,} images" if self.images else "images"
        return f"{number} of {self.dataset or 'a data set'} that the checkpoint was {self.role} on"


class SeenData(BaseModel):
    """The record of what a checkpoint has seen.

    Attributes:
        format: Of the file.
        datasets: The run's own dataset last, before it those that the weights it started from had seen.
    """

    format: Literal[1] = 1
    datasets: list[SeenDataset]

    @property
    def selected_on(self) -> str:
        """Name the split that chose the checkpoint among those of its run."""
        return self.datasets[-1].selected_on if self.datasets else "validation"

    @property
    def unrecorded(self) -> list[Unrecorded]:
        """Name what is recorded by a fingerprint alone: streams, and splits of more than `RECORDED_IMAGES` images."""
        found = []
        for seen in self.datasets:
            if not seen.splits:  # a stream, as older versions recorded it
                found.append(Unrecorded("trained", seen.name, 0))
            for role, split in (("trained", "train"), ("chosen", seen.selected_on)):
                part = seen.splits.get(split)
                if part is not None and not part.people:
                    found.append(Unrecorded(role, seen.name, part.unrecorded))
        return found

    def write(self, folder: str | Path) -> None:
        """Write `seen.json` into a folder."""
        write_text(Path(folder) / SEEN_RECORD, self.model_dump_json() + "\n")

    def _match(self, name: str, rendered: bool, people_of: Mapping[str, set[int]]) -> "_Match | None":
        """Find the newest recorded dataset that is the given one, and match its people.

        It is the same if one image is; or, where none is (all were saved again), if it has the same name and neither is
        rendered, since renderings of one name differ by their seed.
        """
        matches = (_Match.between(seen, name, rendered, people_of) for seen in reversed(self.datasets))
        return next((match for match in matches if match), None)

    def divide(self, data: PersonDatasetDict, name: str, rendered: bool) -> PersonDatasetDict:
        """Divide people as the run did, where they were drawn; people whom it has not seen are for the test.

        Args:
            data: As loaded with any seed.
            name: As a config names it.
            rendered: Whether it is rendered demo data.
        """
        drawn = [split for split in data.division.drawn if split in data]
        possible = data.division.drawn
        digests = {split: image_digests(data[split]) for split in drawn}
        match = self._match(name, rendered, _people_by_digest({split: data[split] for split in drawn}, digests))
        if not drawn or match is None:
            return data
        unseen = "test" if data.division.how == "divided" else "train"
        wanted = {
            split: [match.split_of(person, possible) or unseen for person in data[split]["person_id"][:]]
            for split in drawn
        }
        if all(set(splits) <= {split} for split, splits in wanted.items()):
            return data
        pooled = concatenate_datasets([data[split] for split in drawn])
        targets = [target for split in drawn for target in wanted[split]]
        ids = pooled["image_id"][:]
        parts = {split: rows for split, rows in data.items() if split not in drawn}
        for split in SPLITS:
            chosen = sorted((index for index, target in enumerate(targets) if target == split), key=ids.__getitem__)
            if chosen:
                parts[split] = pooled.select(chosen)
        ordered = {split: parts[split] for split in SPLITS if split in parts}
        identities = {split: len(set(rows["person_id"])) for split, rows in ordered.items()}
        division = match.seen.division.model_copy(update={"identities": identities})
        return PersonDatasetDict(ordered, division)

    def shared_with(self, data: Mapping[str, Dataset], split: str, name: str, rendered: bool) -> list[Shared]:
        """Find what a split has in common with the data that the checkpoint was trained and chosen on.

        A person is the same if one image of them is, in whatever split of the data; and, in the same dataset, if the
        identity has the same number, unless the images show that identities were numbered differently.

        Args:
            data: All splits of the dataset; the others tell more images of the same people.
            split: The one that is evaluated.
            name: As a config names the dataset.
            rendered: Whether it is rendered demo data.

        Returns:
            One entry for each role in which something is shared, "trained" first.
        """
        digests = {part: image_digests(rows) for part, rows in data.items()}
        people_of = _people_by_digest(data, digests)
        paths, persons = data[split]["file_path"][:], data[split]["person_id"][:]
        found = []
        for role in ("trained", "chosen"):
            people: set[int] = set()
            images: set[str] = set()
            for seen in self.datasets:
                part = "train" if role == "trained" else seen.selected_on
                if part not in seen.splits:
                    continue
                known = {digest for files in seen.splits[part].people.values() for digest in files}
                images |= {path for path, digest in zip(paths, digests[split], strict=True) if digest[:16] in known}
                match = _Match.between(seen, name, rendered, people_of)
                if match:
                    people |= {person for person in persons if part in match.splits_of(person)}
            if people:
                found.append(Shared(role, tuple(sorted(people)), tuple(sorted(images))))
        return found


@dataclass(frozen=True)
class _Match:
    """A recorded dataset, and which of its people the given data show.

    Attributes:
        seen: The recorded dataset.
        linked: Identities of the given data -> splits in which one of their images is recorded.
        by_number: Recorded identities -> splits; empty where numbers cannot be compared.
    """

    seen: SeenDataset
    linked: dict[int, set[str]]
    by_number: dict[int, set[str]]

    @classmethod
    def between(
        cls, seen: SeenDataset, name: str, rendered: bool, people_of: Mapping[str, set[int]]
    ) -> "_Match | None":
        """Match a recorded dataset with given data; None if they are different ones."""
        linked: dict[int, set[str]] = {}
        numbers: dict[int, set[str]] = {}
        renumbered = False
        for split, part in seen.splits.items():
            for person, files in part.people.items():
                numbers.setdefault(person, set()).add(split)
                for digest in files:
                    here = people_of.get(digest, set())
                    for shown in here:
                        linked.setdefault(shown, set()).add(split)
                    renumbered = renumbered or (bool(here) and person not in here)
        same_name = name == seen.name and (bool(linked) or not (rendered or seen.rendered))
        if not (linked or same_name):
            return None
        return cls(seen, linked, numbers if same_name and not renumbered else {})

    def splits_of(self, person: int) -> set[str]:
        """Return the recorded splits of an identity of the given data."""
        return self.linked.get(person, set()) | self.by_number.get(person, set())

    def split_of(self, person: int, among: Sequence[str]) -> str | None:
        """Return the recorded split of an identity; of several the one that taught the checkpoint most."""
        splits = self.splits_of(person) & set(among)
        return next((split for split in SPLITS if split in splits), None)


def seen_dataset(data: PersonDatasetDict, name: str, rendered: bool, selected_on: str = "validation") -> SeenDataset:
    """Record the people and images of a dataset that a run is about to read.

    Args:
        data: As the run uses it.
        name: As a config names it, without a path.
        rendered: Whether it is rendered demo data.
        selected_on: Split that chooses the checkpoint.

    A split of more than `RECORDED_IMAGES` images is recorded by a fingerprint alone, without its people: the record lies
    beside every checkpoint, and to read millions of images before each start would take hours.
    """
    splits = {}
    for split, rows in data.items():
        if len(rows) > RECORDED_IMAGES:
            logger.warning(
                f"{name}: the {split} split has {len(rows):,} images, so its people are not recorded one by one, and "
                "later it is not found out whether test people are among them."
            )
            splits[str(split)] = SeenSplit(fingerprint=rows_fingerprint(rows), people={}, unrecorded=len(rows))
            continue
        digests = image_digests(rows)
        people: dict[int, list[str]] = {}
        for person, digest in zip(rows["person_id"][:], digests, strict=True):
            people.setdefault(person, []).extend([digest[:16]] if digest else [])
        splits[str(split)] = SeenSplit(fingerprint=dataset_fingerprint(rows, digests), people=people)
    return SeenDataset(name=name, rendered=rendered, division=data.division, splits=splits, selected_on=selected_on)


def seen_splits(train: Dataset, validation: Dataset | Mapping[str, Dataset] | None) -> SeenData:
    """Record the splits that a trainer was given by hand; they are recognised by their images alone.

    Args:
        train: What is trained on.
        validation: What the checkpoint is chosen on; None: nothing.
    """
    splits = {"train": train}
    if isinstance(validation, Dataset):
        splits["validation"] = validation
    elif validation:
        splits["validation"] = concatenate_datasets(list(validation.values()))
    data = PersonDatasetDict(splits, Division(how="source"))
    return SeenData(datasets=[seen_dataset(data, "", False)])


def seen_by_run(
    data: PersonDatasetDict,
    name: str,
    rendered: bool,
    *,
    start: SeenData | None = None,
    resumed: SeenData | None = None,
    streamed: SeenSplit | None = None,
    allow_shared_people: bool = False,
    selected_on: str = "validation",
) -> SeenData:
    """Record what a run is about to see, on top of what the weights that it starts from have seen.

    Args:
        data: As the run uses it.
        name: As a config names it, without a path.
        rendered: Whether it is rendered demo data.
        start: What the weights that it starts from have seen.
        resumed: What the checkpoint that it goes on from has seen.
        streamed: The train split, where it is a stream and not among the data.
        allow_shared_people: Go on although validation or test people were seen by the weights it starts from.
        selected_on: Split that chooses the checkpoint.

    Raises:
        InputError: If the data, or the split that chooses, are not those of the resumed run, or validation or test share
            people or images with what the weights have seen.
    """
    own = seen_dataset(data, name, rendered, selected_on)
    if streamed is not None:
        own.splits["train"] = streamed
    if resumed is not None:
        _check_resumed(resumed, own)
        return resumed
    if start is None:
        return SeenData(datasets=[own])
    if start.unrecorded and any(split in data for split in ("validation", "test")):
        logger.warning(
            f"{name}: whether validation or test people are among {' and '.join(map(str, start.unrecorded))} is unknown: "
            "who is in them is not recorded."
        )
    if not allow_shared_people:
        for split in ("validation", "test"):
            shared = start.shared_with(data, split, name, rendered) if split in data else []
            if unfair := unfair_parts(split, shared, selected_on):
                raise InputError(
                    f"{name}: the {split} split shares {unfair[0]} already (init_from): take the division of that run "
                    "(its split_seed), other weights, or set allow_shared_people true, and every result is marked."
                )
    return SeenData(datasets=[*start.datasets, own])


def _check_resumed(resumed: SeenData, own: SeenDataset) -> None:
    """Refuse other data, or another split that chooses, than those of the run that goes on."""
    if resumed.selected_on != own.selected_on:
        raise InputError(
            f"{own.name}: the resumed run is chosen on {resumed.selected_on}: set select_on {resumed.selected_on}, or start a "
            "new run in another output_dir."
        )
    before = resumed.datasets[-1].splits
    for split in ("train", own.selected_on):
        if (split in before) != (split in own.splits) or (
            split in before and before[split].fingerprint != own.splits[split].fingerprint
        ):
            raise InputError(
                f"{own.name}: the {split} split is not the one that the resumed run was trained with (other people, "
                "images or captions): take the same data, split_seed and numbers of identities, or start a new run "
                "in another output_dir with init_from."
            )


def unfair_parts(split: str, shared: Sequence[Shared], selected_on: str = "validation") -> list[Shared]:
    """Return what a split may not share: train may be what the checkpoint was trained on, `selected_on` what chose it."""
    expected = {"train": "trained", selected_on: "chosen"}
    return [part for part in shared if part.role != expected.get(split)]


def read_seen(source: str | Path | None) -> SeenData | None:
    """Read the record that lies beside weights, in a folder or on the Hub; None if there is none.

    Raises:
        InputError: If it is damaged.
    """
    if source is None:
        return None
    folder = Path(source).expanduser()
    if folder.is_dir() or folder.is_file():
        path = (folder if folder.is_dir() else folder.parent) / SEEN_RECORD
    else:
        try:
            path = Path(hf_hub_download(str(source), SEEN_RECORD))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
            return None
    if not path.is_file():
        return None
    try:
        return SeenData.model_validate_json(path.read_bytes())
    except (OSError, ValidationError, ValueError) as error:
        raise InputError(
            f"{path}: the record of what the checkpoint has seen is damaged ({one_line(error, 120)}); take the one of "
            "its run, or another checkpoint."
        ) from error


def _people_by_digest(data: Mapping[str, Dataset], digests: Mapping[str, list[str]]) -> dict[str, set[int]]:
    people: dict[str, set[int]] = {}
    for split, rows in data.items():
        for digest, person in zip(digests[split], rows["person_id"][:], strict=True):
            if digest:
                people.setdefault(digest[:16], set()).add(person)
    return people
