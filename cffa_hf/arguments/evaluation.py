"""Settings of an evaluation: a checkpoint, one or more configs that say where the data are, and options."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from cffa_hf.arguments.config_files import read_configs
from cffa_hf.arguments.data import DataArguments
from cffa_hf.arguments.parsing import RUN_CLASSES, QuietArgumentParser
from cffa_hf.errors import InputError
from cffa_hf.metrics.reranking import MOST_NEIGHBOURS, KReciprocalReranking
from cffa_hf.names import INFERENCE_PRECISIONS, SELECTIONS


@dataclass
class EvaluationArguments:
    """What is evaluated, how, and what is written."""

    split: str = field(
        default="test", metadata={"help": "Split to evaluate", "choices": ["test", "validation", "train"]}
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Where results and figures are written; default: the checkpoint's folder"}
    )
    batch_size: int = field(default=256, metadata={"help": "Items encoded at once"})
    num_workers: int = field(default=2, metadata={"help": "Processes that decode images"})
    device: str | None = field(default=None, metadata={"help": "cpu, cuda, cuda:1 ...; default: a GPU if there is one"})
    precision: str = field(
        default="float32",
        metadata={
            "help": "What the model computes in; auto: bfloat16 where the device does, faster and slightly different",
            "choices": list(INFERENCE_PRECISIONS),
        },
    )
    camera_aware: bool = field(
        default=False,
        metadata={
            "help": "Do not count images of the same person from the query's own camera, as in re-identification"
        },
    )
    confidence: bool = field(default=False, metadata={"help": "95%% bootstrap intervals over identities"})
    compare: str | None = field(default=None, metadata={"help": "Another checkpoint: paired test on the same queries"})
    compare_published: bool = field(
        default=False, metadata={"help": "Beside the results that papers report on this benchmark's test split"}
    )
    stress: bool = field(default=False, metadata={"help": "Evaluate with disturbed captions and images"})
    rerank: str | None = field(
        default=None,
        metadata={"help": "Rank once more, re-ranked, and compare", "choices": [KReciprocalReranking.method]},
    )
    rerank_neighbours: int = field(
        default=8,
        metadata={"help": "Nearest items compared by the re-ranking; one to two times the images of a person is best"},
    )
    slices: bool = field(default=False, metadata={"help": "Results by length of the caption and by what it mentions"})
    check_leaks: bool = field(
        default=False, metadata={"help": "Compare the images of all splits and warn of those that are in two"}
    )
    report: bool = field(default=False, metadata={"help": "Write report.html, one file that needs no network"})
    selected_on: str | None = field(
        default=None,
        metadata={
            "help": "What the checkpoint was chosen on, if you know better than its files",
            "choices": list(SELECTIONS),
        },
    )

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        if self.batch_size < 1 or self.num_workers < 0:
            raise ValueError(
                f"batch_size must be at least 1 and num_workers at least 0, not {self.batch_size}, {self.num_workers}"
            )
        if not 1 <= self.rerank_neighbours <= MOST_NEIGHBOURS:
            raise ValueError(f"rerank_neighbours must be from 1 to {MOST_NEIGHBOURS}, not {self.rerank_neighbours}")


@dataclass(frozen=True)
class EvaluationRun:
    """A parsed command line.

    Attributes:
        checkpoint: Folder, or name on the Hub.
        options: The same for all datasets.
        datasets: Where each dataset is; one for each config that names a dataset.
    """

    checkpoint: str
    options: EvaluationArguments
    datasets: list[DataArguments]


def parse_evaluation_arguments(arguments: Sequence[str] | None = None) -> EvaluationRun:
    """Read `CHECKPOINT --config FILE_OR_NAME ... [--setting value ...]`.

    A config is one for training too: what it says of the data is used, the rest is read and ignored. Of several, each
    that names another dataset has a table of its own; those that name none add to the one before them, as in training.
    The command line wins, for every dataset.

    Raises:
        InputError: One sentence that names the setting and the file.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    configs = _parser().parse_args(words).config
    known = QuietArgumentParser(RUN_CLASSES).actions
    wanted = {item.name for item in fields(DataArguments)}
    settings: list[dict[str, Any]] = [{}]
    for config in configs or []:
        values = read_configs([config], known, RUN_CLASSES, wanted)
        if "dataset" in values and "dataset" in settings[-1]:
            settings.append({})
        settings[-1] |= values
    data = []
    for defaults in settings:
        parser = _parser()
        parser.set_defaults(**defaults)
        namespace = parser.parse_args(words)
        data.append(_fill(DataArguments, namespace))
    return EvaluationRun(namespace.checkpoint, _fill(EvaluationArguments, namespace), data)


def _parser() -> QuietArgumentParser:
    kinds: tuple[Any, ...] = (EvaluationArguments, DataArguments)
    parser = QuietArgumentParser(kinds, allow_abbrev=False)
    parser.add_argument("checkpoint", help="Folder of a published model or training checkpoint, or a name on the Hub")
    parser.add_argument(
        "--config",
        nargs="+",
        metavar="CONFIG",
        help="YAML files, or names that `cffa-hf config` lists; each that names a dataset is one more row of the table",
    )
    return parser


def _fill(kind: Any, namespace: argparse.Namespace) -> Any:
    try:
        return kind(**{item.name: getattr(namespace, item.name) for item in fields(kind)})
    except ValueError as error:
        raise InputError(str(error)) from error
