"""Where the data are."""

from dataclasses import dataclass, field
from typing import Any

from cffa_hf.names import SELECTION_SPLITS


@dataclass
class DataArguments:
    """What is read."""

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "cuhk_pedes, icfg_pedes or rstpreid; a folder with metadata.jsonl, .csv or .parquet; or a name on the Hub"
        },
    )
    dataset_root: str | None = field(default=None, metadata={"help": "Folder that holds the benchmark's folder"})
    annotation_file: str | None = field(default=None, metadata={"help": "Annotation JSON, if it has another name"})
    validation_identities: int | None = field(
        default=None,
        metadata={"help": "Identities held out of train for validation, where there is no validation split; 0: none"},
    )
    test_identities: int | None = field(
        default=None, metadata={"help": "Identities held out for the test, in one's own data without splits"}
    )
    split_seed: int = field(default=0, metadata={"help": "Chooses the identities that are held out"})
    allow_shared_people: bool = field(
        default=False,
        metadata={
            "help": "Go on where validation or test people are among those that the weights have seen; results are marked"
        },
    )
    check_images: bool = field(default=True, metadata={"help": "Decode every image once before training starts"})

    def __post_init__(self) -> None:
        """Refuse a run without data."""
        if self.dataset is None:
            raise ValueError("no data: set 'dataset' in a config (--config configs/demo.yaml) or on the command line")

    @property
    def source(self) -> dict[str, Any]:
        """Return what `load_person_dataset` needs to know, as its arguments."""
        return {
            "dataset": str(self.dataset),
            "root": self.dataset_root,
            "annotation_file": self.annotation_file,
            "validation_identities": self.validation_identities,
            "test_identities": self.test_identities,
            "seed": self.split_seed,
        }


@dataclass
class TrainingDataArguments(DataArguments):
    """What is read, and what a training does with its splits."""

    caption_noise: str | None = field(
        default=None,
        metadata={
            "help": "Captions of the train split that are shuffled: a rate from 0 to below 1, or an .npy file with an int64 "
            "permutation of the pairs; null: none"
        },
    )
    caption_noise_seed: int = field(
        default=0, metadata={"help": "Draws the captions of a rate; the seed of the run does not change them"}
    )
    select_on: str = field(
        default="validation",
        metadata={
            "help": "Split that is evaluated while training and chooses the checkpoint; test: as published, and every result "
            "says that it is too good",
            "choices": list(SELECTION_SPLITS),
        },
    )
    cache_images: bool = field(
        default=False, metadata={"help": "Keep all images, resized, in the cache of datasets: no decoding in training"}
    )

    def __post_init__(self) -> None:
        """Refuse a noise of the captions that is neither a rate nor a file, and other splits to select on."""
        super().__post_init__()
        noise = self.caption_noise_source
        if isinstance(noise, float) and not 0 <= noise < 1:
            raise ValueError(f"caption_noise is {noise:g}, but a rate must be from 0 to below 1")
        if isinstance(noise, str) and not noise.endswith(".npy"):
            raise ValueError(f"caption_noise is {noise!r}, but it must be a rate from 0 to below 1 or an .npy file")
        if self.caption_noise_seed < 0:
            raise ValueError(f"caption_noise_seed must not be negative, got {self.caption_noise_seed}")
        if self.select_on not in SELECTION_SPLITS:
            raise ValueError(f"select_on must be validation or test, got {self.select_on!r}")

    @property
    def caption_noise_source(self) -> float | str | None:
        """Return the rate of shuffled captions, the path of a permutation, or None."""
        try:
            return None if self.caption_noise is None else float(self.caption_noise)
        except ValueError:
            return self.caption_noise
