"""What a run reads: one data set, several with weights, or a stream of shards, and what it is evaluated on."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cffa_hf.arguments.data import SetSource, TrainingDataArguments
from cffa_hf.arguments.model import ModelArguments
from cffa_hf.arguments.training import CFFATrainingArguments
from cffa_hf.data.checks import check_images
from cffa_hf.data.columns import caption_batches
from cffa_hf.data.division import Division, PersonDatasetDict
from cffa_hf.data.facts import count_split, is_rendered
from cffa_hf.data.leaks import warn_of_leaks
from cffa_hf.data.loading import load_person_dataset
from cffa_hf.data.mixture import Mixture, join_sets
from cffa_hf.data.rows import count
from cffa_hf.data.seen import RECORDED_IMAGES, SeenData, SeenSplit, read_seen, seen_by_run
from cffa_hf.data.shard_reading import iterate
from cffa_hf.data.shards import ShardFolder, open_shards
from cffa_hf.errors import InputError, visible
from cffa_hf.names import public_name

logger = logging.getLogger(__name__)

FEW_PEOPLE = 50
"""Identities in training below which it is not worth while (docs/training.md)."""
TOKENIZER_SAMPLES = 10_000
"""Samples of a stream whose captions make the tokenizer of a model with random weights."""


@dataclass(frozen=True)
class DataPart:
    """One data set of a run, as far as the run uses it.

    Attributes:
        name: As a config names it, without a path.
        rendered: Whether it is rendered demo data.
        data: The splits that are used.
    """

    name: str
    rendered: bool
    data: PersonDatasetDict


@dataclass(frozen=True)
class RunData:
    """All data of a run.

    Attributes:
        parts: The data sets; the one that chooses the checkpoint last.
        data: "train", unless it is streamed, and the split that is evaluated.
        mixture: Which train rows are of which set; None: of one.
        shards: What is streamed; None: nothing.
    """

    parts: tuple[DataPart, ...]
    data: PersonDatasetDict
    mixture: Mixture | None = None
    shards: ShardFolder | None = None

    @property
    def identities(self) -> int:
        """Count the identities of the train split; of a stream they are not known, and nobody needs them."""
        return 1 if self.shards else count_split(self.data["train"])["identities"]

    def captions(self) -> Iterator[str]:
        """Read the captions of the train split, or the first ones of a stream."""
        if self.shards is None:
            for lists in caption_batches(self.data["train"]):
                yield from lists.flatten().to_pylist()
            return
        for _, sample in zip(range(TOKENIZER_SAMPLES), iterate(self.shards), strict=False):
            yield from sample.captions

    @property
    def single_images(self) -> str | None:
        """Name the first set whose identities have one image each, which leaves a classifier nothing to learn."""
        if self.shards is not None:
            return self.parts[0].name
        for part in self.parts:
            rows = part.data.get("train")
            if rows is not None and len(rows) > 1 and count_split(rows)["identities"] == len(rows):
                return part.name
        return None


def check_combination(data_args: TrainingDataArguments, args: CFFATrainingArguments) -> None:
    """Refuse settings that a stream, or a run on several sets, cannot follow.

    Raises:
        InputError: Names the setting and the remedy.
    """
    kind = "streaming" if data_args.streaming else "datasets" if data_args.datasets is not None else None
    if kind is None:
        return
    if args.sampler != "random":
        raise InputError(
            f"{kind} has an order of its own and does not go with sampler {args.sampler}; set sampler random."
        )
    if args.search is not None:
        raise InputError(f"{kind} and search do not go together; search for settings on one data set.")
    if data_args.streaming and args.noisy_pairs != "none":
        raise InputError(
            "streaming does not know all pairs before an epoch and does not go with noisy_pairs; set it to none."
        )


def read_run_data(data_args: TrainingDataArguments, args: CFFATrainingArguments) -> RunData:
    """Read and check the data of a run.

    Args:
        data_args: Where they are.
        args: Of the run.

    Raises:
        InputError: If the data are wrong, or a split that is needed is not there.
    """
    with args.main_process_first(desc="reading the data"):
        found = _read(data_args)
        if data_args.check_images:
            for part in found.parts:
                check_images(part.data)
                if args.should_save and len(part.data) > 1:
                    _compare_splits(part)
    return found


def _compare_splits(part: DataPart) -> None:
    """Warn of what two splits share; splits of millions of images are not compared, and the log says so."""
    if (images := sum(map(len, part.data.values()))) > RECORDED_IMAGES:
        logger.warning(
            f"{part.name}: its splits have {images:,} images, too many to look for images that are in two of them."
        )
        return
    warn_of_leaks(part.data)


def _read(data_args: TrainingDataArguments) -> RunData:
    split = data_args.select_on
    if data_args.streaming:
        shards = open_shards(shard_source(data_args)).of_split("train")
        name = str(public_name(data_args.dataset))
        streamed = DataPart(name, False, PersonDatasetDict({}, Division(how="source")))
        evaluated = [] if data_args.eval_dataset is None else [_evaluated(data_args)]
        data = PersonDatasetDict(
            {key: rows for part in evaluated for key, rows in part.data.items()}, Division(how="source")
        )
        return RunData((streamed, *evaluated), data, shards=shards)
    if data_args.datasets is None:
        own = _part(data_args.dataset, data_args.dataset_root, load_person_dataset(**data_args.source))
        if data_args.eval_dataset is None:
            return RunData((own,), own.data)
        parts: tuple[DataPart, ...] = (_only(own, "train"), _evaluated(data_args))
        mixture, train = None, own.data["train"]
    else:
        parts, mixture, train = _read_sets(data_args)
    splits = {"train": train}
    if split in parts[-1].data:
        splits[split] = parts[-1].data[split]
    return RunData(parts, PersonDatasetDict(splits, parts[-1].data.division), mixture)


def _read_sets(data_args: TrainingDataArguments) -> tuple[tuple[DataPart, ...], Mixture, Any]:
    """Read the sets of a mixture; the first one with the split that is evaluated comes last, unless another set is."""
    parts = [_read_set(data_args, each) for each in data_args.sets]
    _refuse_one_set_twice(data_args.sets, parts)
    train = {each.name: part.data["train"] for each, part in zip(data_args.sets, parts, strict=True)}
    rows, mixture = join_sets(train, {each.name: each.weight for each in data_args.sets})
    if data_args.eval_dataset is not None:
        return (*(_only(part, "train") for part in parts), _evaluated(data_args)), mixture, rows
    chooses = next((part for part in parts if data_args.select_on in part.data), parts[-1])
    others = [_only(part, "train") for part in parts if part is not chooses]
    if data_args.select_on in chooses.data:
        logger.warning("of several data sets %s is evaluated while training", chooses.name)
    return (*others, chooses), mixture, rows


def _refuse_one_set_twice(sets: Sequence[SetSource], parts: Sequence[DataPart]) -> None:
    """Refuse a set under two names: each of its images would be two people."""
    known: dict[str, str] = {}
    for each, part in zip(sets, parts, strict=True):
        train = part.data["train"]
        first = repr([len(train), *({**train[0], "person_id": 0}.items() if len(train) else ())])
        if other := known.get(first):
            raise InputError(f"datasets: {other} and {each.name} are the same images; name them once, with one weight.")
        known[first] = each.name


def _read_set(data_args: TrainingDataArguments, each: SetSource) -> DataPart:
    data = load_person_dataset(
        each.name,
        each.root,
        validation_identities=each.validation_identities,
        test_identities=each.test_identities,
        seed=data_args.split_seed,
    )
    if "train" not in data:
        raise InputError(f"datasets: {each.name} has no train split, only {', '.join(data)}; leave it out.")
    return _part(each.name, each.root, data)


def _evaluated(data_args: TrainingDataArguments) -> DataPart:
    """Read the split of another data set that is evaluated."""
    root = data_args.eval_dataset_root or data_args.dataset_root
    name = str(data_args.eval_dataset)
    data = load_person_dataset(name, root, seed=data_args.split_seed)
    if data_args.select_on not in data:
        raise InputError(
            f"eval_dataset: {name} has no {data_args.select_on} split, only {', '.join(data)}; take another."
        )
    return _only(_part(name, root, data), data_args.select_on)


def _part(name: str | None, root: str | None, data: PersonDatasetDict) -> DataPart:
    return DataPart(str(public_name(name)), is_rendered(name, root), data)


def _only(part: DataPart, split: str) -> DataPart:
    return replace(part, data=PersonDatasetDict({split: part.data[split]}, part.data.division))


def shard_source(data_args: TrainingDataArguments) -> str:
    """Return the folder or URL of the shards."""
    name = str(data_args.dataset)
    whole = "://" in name or Path(name).expanduser().is_absolute()
    return name if whole or data_args.dataset_root is None else f"{data_args.dataset_root}/{name}"


def switch_off_identity(model_args: ModelArguments, found: RunData) -> ModelArguments:
    """Leave the identity classifier out where identities are single images, and say so.

    Args:
        model_args: As the run was started.
        found: Its data.

    Returns:
        The settings that the model is made with.
    """
    name = found.single_images
    if name is None or not model_args.use_identity:
        return model_args
    logger.warning(
        "%s: identities are single images, which a classifier cannot learn from; use_identity is off for this run", name
    )
    return replace(model_args, use_identity=False)


def seen_of(
    found: RunData, model_args: ModelArguments, data_args: TrainingDataArguments, checkpoint: str | None
) -> SeenData:
    """Record what the run is about to see.

    Args:
        found: Its data.
        model_args: Say what the weights have seen before.
        data_args: Which split chooses.
        checkpoint: That the run goes on from, if any.

    Raises:
        InputError: If people to be tested on are among those that the weights have seen, or the data are not those of the
            run that goes on.
    """
    start, resumed = read_seen(model_args.init_from), read_seen(checkpoint)
    settings: dict[str, Any] = {
        "allow_shared_people": data_args.allow_shared_people,
        "selected_on": data_args.select_on,
    }
    streamed = None
    if (shards := found.shards) is not None:
        logger.warning(
            "what a stream shows is not recorded image by image: evaluations will say that it is unknown whether their people "
            "were in it"
        )
        streamed = SeenSplit(fingerprint=shards.fingerprint, people={}, unrecorded=shards.samples)
    if len(found.parts) == 1:
        part = found.parts[0]
        return seen_by_run(
            part.data, part.name, part.rendered, start=start, resumed=resumed, streamed=streamed, **settings
        )
    seen = None if resumed is not None else start
    for number, part in enumerate(found.parts):
        train = None if number else streamed
        seen = seen_by_run(part.data, part.name, part.rendered, start=seen, streamed=train, **settings)
    assert seen is not None
    if resumed is not None:
        _compare(resumed, seen, [part.name for part in found.parts])
        return resumed
    return seen


def _compare(resumed: SeenData, seen: SeenData, names: Sequence[str]) -> None:
    """Refuse to go on with other data than those of the run."""
    before, now = resumed.datasets[-len(names) :], seen.datasets
    prints = [
        [{split: part.fingerprint for split, part in each.splits.items()} for each in sets] for sets in (before, now)
    ]
    if prints[0] != prints[1]:
        raise InputError(
            f"{', '.join(names)}: the data are not those that the resumed run was trained with: take the same data and "
            "settings, or start a new run in another output_dir with init_from."
        )


def tell_people(found: RunData) -> None:
    """Print how the people of each set were divided; warn where too few are trained on to learn what holds for others."""
    for part in found.parts:
        print(f"{visible(part.name)}: {part.data.division.sentence}")
    if not found.shards and found.identities < FEW_PEOPLE:
        logger.warning(
            "%s to train on: with fewer than %d a model learns them by heart, and the scores of the few that are held out "
            "say little; search with CLIP as it is instead (docs/training.md, Your own people)",
            count(found.identities, "identity"),
            FEW_PEOPLE,
        )
