"""Where the data are."""

import math
from dataclasses import dataclass, field
from typing import Any

from cffa_hf.arguments.ranges import check_ranges
from cffa_hf.errors import one_line
from cffa_hf.json_files import parse_json
from cffa_hf.names import SELECTION_SPLITS, public_name


@dataclass(frozen=True)
class SetSource:
    """One data set of several that a run is trained on.

    Attributes:
        name: As `dataset` has it.
        root: As `dataset_root` has it.
        weight: How many times the set is gone through in an epoch.
        validation_identities: As the setting of that name, for this set.
        test_identities: As the setting of that name, for this set.
    """

    name: str
    root: str | None
    weight: float = 1.0
    validation_identities: int | None = None
    test_identities: int | None = None


@dataclass
class DataArguments:
    """What is read."""

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "cuhk_pedes, icfg_pedes or rstpreid; for pre-training mals, sda, synth_pedes, luperson_mllm, webperson, "
            "ufine6926 or ufine3c; the files of other implementations, aptm_cuhk_pedes or tbps_clip_cuhk_pedes (or of the other "
            "two); a folder with metadata.jsonl, .csv or .parquet, or of shards (.tar, .parquet); or a name on the Hub"
        },
    )
    dataset_root: str | None = field(default=None, metadata={"help": "Folder that holds the folder of the data set"})
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
            raise ValueError(
                "no data: 'dataset' is set neither in a config (--config own_data) nor on the command line (--dataset my-data)"
            )
        check_ranges(self)

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

    datasets: dict | str | None = field(
        default=None,
        metadata={
            "help": "Several data sets instead of 'dataset': a mapping of names to weights, passes through the set in an epoch, "
            "or to {weight: 1.0, root: FOLDER, validation_identities: 0, test_identities: 0} (JSON on the command line)"
        },
    )
    eval_dataset: str | None = field(
        default=None,
        metadata={"help": "Another data set, which is evaluated while training in place of the own validation split"},
    )
    eval_dataset_root: str | None = field(
        default=None, metadata={"help": "Folder that holds its folder; null: dataset_root"}
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "'dataset' is a folder or URL of shards that are read from front to back, for sets of any size"
        },
    )
    stream_buffer: int = field(
        default=2000, metadata={"help": "Only for streaming: images in the shuffle buffer of each loading process"}
    )
    stream_failure_limit: int = field(
        default=100,
        metadata={
            "help": "Only for streaming: images of an epoch that a process may leave out because they are damaged"
        },
    )
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
        if self.datasets is not None:
            joined = "+".join(str(public_name(each.name)) for each in self.sets)
            if self.dataset not in (None, joined):
                raise ValueError("dataset and datasets do not go together: leave one of them out")
            self.dataset = joined
        super().__post_init__()
        self.check_streaming()
        noise = self.caption_noise_source
        if isinstance(noise, float) and not 0 <= noise < 1:
            raise ValueError(f"caption_noise is {noise:g}, but a rate must be from 0 to below 1")
        if isinstance(noise, str) and not noise.endswith(".npy"):
            raise ValueError(f"caption_noise is {noise!r}, but it must be a rate from 0 to below 1 or an .npy file")
        if self.select_on not in SELECTION_SPLITS:
            raise ValueError(f"select_on must be validation or test, got {self.select_on!r}")

    def check_streaming(self) -> None:
        """Refuse what does not go together with a stream or with several sets, and numbers that cannot be.

        Raises:
            ValueError: Naming the setting and what it may be.
        """
        if self.streaming and self.datasets is not None:
            raise ValueError(
                "streaming takes one set of shards: put the shards of several into one folder, or set dataset"
            )
        for name in ("validation_identities", "test_identities", "annotation_file", "cache_images"):
            if self.streaming and getattr(self, name):
                raise ValueError(
                    f"streaming divides nothing and keeps no images, it reads the shards of train: leave {name} out, and set "
                    "eval_dataset for an evaluation while training"
                )
        if self.caption_noise is not None and (self.streaming or self.datasets is not None):
            raise ValueError("caption_noise takes one data set that is not streamed: leave it out")
        if self.stream_buffer < 1:
            raise ValueError(f"stream_buffer must be at least 1, got {self.stream_buffer}")
        if self.stream_failure_limit < 0:
            raise ValueError(f"stream_failure_limit must not be negative, got {self.stream_failure_limit}")

    @property
    def sets(self) -> tuple[SetSource, ...]:
        """Return the sets that `datasets` names; without it none.

        Raises:
            ValueError: `datasets` is no mapping of names to positive weights.
        """
        found = self.datasets
        if isinstance(found, str):
            try:
                found = parse_json(found, each_once=True)
            except ValueError as error:
                raise ValueError(
                    f'datasets must be JSON like {{"mals": 1.0}}, got {str(found)[:80]!r} ({one_line(error, 80)})'
                ) from error
        if found is None:
            return ()
        if not isinstance(found, dict) or not found:
            raise ValueError(f"datasets must be a mapping of names to weights, got {found!r}")
        return tuple(self._set(str(name), entry) for name, entry in found.items())

    def _set(self, name: str, entry: Any) -> SetSource:
        settings = dict(entry) if isinstance(entry, dict) else {"weight": entry}
        known = ("weight", "root", "validation_identities", "test_identities")
        if unknown := settings.keys() - set(known):
            raise ValueError(
                f"datasets has an unknown setting {min(map(str, unknown))!r} for {name}: it knows {', '.join(known)}"
            )
        weight = settings.pop("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
            raise ValueError(f"datasets gives {name} the weight {weight!r}, but it must be a positive number")
        root = settings.pop("root", self.dataset_root)
        for key, value in settings.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise ValueError(f"datasets gives {name} {value!r} as {key}, but it must be a whole number from 0")
        return SetSource(name, None if root is None else str(root), float(weight), **settings)

    @property
    def caption_noise_source(self) -> float | str | None:
        """Return the rate of shuffled captions, the path of a permutation, or None."""
        try:
            return None if self.caption_noise is None else float(self.caption_noise)
        except ValueError:
            return self.caption_noise
