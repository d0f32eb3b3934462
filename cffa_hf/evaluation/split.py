"""The split that is evaluated, divided as the checkpoint's training did, and what it shares with that training."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from cffa_hf.arguments.data import DataArguments
from cffa_hf.data.checks import check_images
from cffa_hf.data.facts import is_rendered
from cffa_hf.data.leaks import warn_of_leaks
from cffa_hf.data.loading import load_person_dataset
from cffa_hf.data.seen import SeenData, unfair_parts
from cffa_hf.errors import InputError
from cffa_hf.names import public_name


@dataclass(frozen=True)
class EvaluationSplit:
    """One split to evaluate.

    Attributes:
        dataset: Name of the dataset.
        split: Name of the split.
        rows: In the dataset form.
        rendered: Whether it is rendered demo data.
        division: How its people were divided, in a sentence.
        shared: `role`, `people` and `images` that it shares with what the checkpoint has seen, one entry a role; empty:
            nothing; None: what the checkpoint has seen is not recorded.
        unrecorded: `role`, `dataset` and `images` of what the checkpoint has seen without a record of its people.
    """

    dataset: str
    split: str
    rows: Dataset
    rendered: bool
    division: str
    shared: list[dict[str, Any]] | None
    unrecorded: list[dict[str, Any]]


def load_split(
    data_args: DataArguments,
    split: str,
    seen: Mapping[str, SeenData | None],
    *,
    check_leaks: bool = False,
) -> EvaluationSplit:
    """Read a dataset, divide it as the run of the first checkpoint did, and return the split that is evaluated.

    Args:
        data_args: Where the data are.
        split: The one to evaluate.
        seen: What each checkpoint that is evaluated on it has seen, by name; the evaluated one first.
        check_leaks: Compare the images of all splits and warn of what is in two.

    Raises:
        InputError: If there is no such split, an image is damaged, or the split shares people or images with what a
            checkpoint was trained or chosen on, unless that split itself is asked for or `allow_shared_people` is set.
    """
    name, rendered = str(public_name(data_args.dataset)), is_rendered(data_args.dataset, data_args.dataset_root)
    data = load_person_dataset(**data_args.source)
    record = next(iter(seen.values()), None)
    if record is not None:
        data = record.divide(data, name, rendered)
    if split not in data:
        raise InputError(f"{name} has no {split} split, only {', '.join(data)}; set split to one of these.")
    if data_args.check_images:
        check_images(DatasetDict({split: data[split]}))
    if check_leaks:
        warn_of_leaks(data)
    marks: list[dict[str, Any]] | None = None
    for checkpoint, known in seen.items():
        if known is None:
            continue
        shared = known.shared_with(data, split, name, rendered)
        unfair = unfair_parts(split, shared, known.selected_on)
        if unfair and not data_args.allow_shared_people:
            raise InputError(
                f"{name}: the {split} split shares {unfair[0]} ({checkpoint}), so its results would be too good: "
                "evaluate another split or dataset, or set allow_shared_people true, and every result is marked."
            )
        if known is record:
            marks = [part.to_dict() for part in shared]
    return EvaluationSplit(
        Path(str(data_args.dataset)).name,
        split,
        data[split],
        rendered,
        data.division.sentence,
        marks,
        [asdict(part) for part in record.unrecorded] if record is not None else [],
    )
