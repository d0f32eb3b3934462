"""The commands of `cffa-hf` with their options, apart from what runs them: help and mistakes import nothing else."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cffa_hf.command_line import CommandParser
from cffa_hf.names import INFERENCE_PRECISIONS, KEY_VARIABLE, SETTINGS_FILE

CHECKPOINT = "folder of a model, or its name on the Hub"
GALLERY_MODEL = f"{CHECKPOINT}; default: the one that the gallery was made with"
DEVICE = "cpu, cuda ...; default: a GPU if there is one"


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        group: Under which `cffa-hf --help` lists it.
        text: Its line there, and the first of its own help.
        add: Adds its options to a parser.
        examples: Command lines without `cffa-hf `.
        usage: Shown in place of what argparse would write.
    """

    group: str
    text: str
    add: Callable[[argparse.ArgumentParser], None]
    examples: tuple[str, ...]
    usage: str | None = None


def add_demo_data(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cffa-hf demo-data`."""
    layouts = ("cuhk_pedes", "icfg_pedes", "rstpreid")
    text = "folder that is to hold the dataset's folder; a demo of other parameters in it is replaced"
    parser.add_argument("out", type=Path, metavar="OUT", help=text)
    parser.add_argument("--layout", choices=layouts, default="cuhk_pedes", help="on-disk layout; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="decides everything that is drawn; default: 0")
    parser.add_argument(
        "--identities",
        type=int,
        nargs=3,
        default=(1100, 50, 100),
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="people in each split; default: 1100 50 100",
    )
    parser.add_argument(
        "--images-per-identity", type=int, default=4, metavar="N", help="images of each person; default: %(default)s"
    )


def add_check_data(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cffa-hf check-data`."""
    parser.add_argument("root", metavar="ROOT", help="folder of the dataset, or the folder above it")
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="name of a benchmark or a set for pre-training, as in a config; default: told by the files",
    )
    parser.add_argument("--fix", metavar="OUT", help="write a copy without errors to a new folder; ROOT stays as it is")
    parser.add_argument("--link", action="store_true", help="with --fix: make hard links to the images, not copies")
    parser.add_argument("--json", action="store_true", help="print everything that was found as one JSON document")
    division = parser.add_argument_group("as in the config of the training, for data that are to be divided")
    for split in ("validation", "test"):
        text = f"identities that are held out for {split}; default: as training does"
        division.add_argument(f"--{split}-identities", type=int, metavar="N", help=text)
    division.add_argument("--split-seed", type=int, default=0, metavar="N", help="draws these identities; default: 0")


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cffa-hf config`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="such as own_data; default: list all names")


def add_train(parser: argparse.ArgumentParser) -> None:
    """Add all settings of a training, for its help; `parse_arguments` reads the command line."""
    parser.add_argument("--config", nargs="+", metavar="CONFIG", help="YAML files with settings: later files win")
    add_settings(parser, "train")
    others = ", ".join(_settings()["others"])
    parser.add_argument_group("settings of transformers.TrainingArguments that are not listed above", others)


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Add all settings of an evaluation, for its help; `parse_evaluation_arguments` reads the command line."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT)
    text = "YAML files, or names of those in configs/; each that names a dataset is one more row of the table"
    parser.add_argument("--config", nargs="+", metavar="CONFIG", help=text)
    add_settings(parser, "evaluate")


def add_settings(parser: argparse.ArgumentParser, program: str) -> None:
    """Add the settings of a program in their groups."""
    for title, settings in _settings()[program].items():
        group = parser.add_argument_group(title)
        for name, about in settings.items():
            values = about.get("default")
            shown = " ".join(map(str, values)) if isinstance(values, list) else json.dumps(values).strip('"')
            default = "" if values is None else f" (default: {shown})"
            choices = about.get("choices")
            group.add_argument(
                f"--{name}",
                metavar=None if choices else about["kind"],
                choices=choices,
                nargs=len(values) if isinstance(values, list) else None,
                help=f"{about['help']}{default}".replace("%", "%%").replace("%%%%", "%%"),
            )


def _settings() -> dict:
    return json.loads(Path(__file__).with_name(SETTINGS_FILE).read_text(encoding="utf-8"))


def add_convert(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cffa-hf convert`."""
    parser.add_argument("source", metavar="SOURCE", help="file of weights, or folder or Hub name of a CLIP model")
    parser.add_argument("out", metavar="OUT", help="new folder for the model, its processor and conversion.json")
    parser.add_argument(
        "--image-size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="height and width in pixels: of a general CLIP the wanted ones, of others those of its training "
        "(default: 384 128, or a square if only that fits)",
    )
    parser.add_argument(
        "--stride", type=int, metavar="S", help="step between patches (default: patch size, or what fits)"
    )
    parser.add_argument(
        "--select-ratio", type=float, metavar="R", help="share of tokens in local features (default: 0.3)"
    )
    parser.add_argument(
        "--activation",
        choices=["quick_gelu", "gelu"],
        help="of the encoders in a file (default: quick_gelu; models that open_clip trained itself mostly have gelu)",
    )
    parser.add_argument(
        "--vocabulary",
        metavar="FILE",
        help="CLIP's bpe_simple_vocab_16e6.txt.gz, or a folder or Hub name of a CLIP tokenizer, for the processor",
    )
    parser.add_argument("--verbose", action="store_true", help="print the name of every weight")


def add_index(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cffa-hf index`."""
    parser.add_argument(
        "images",
        type=Path,
        metavar="FOLDER",
        help="folder of images, or of shards (.tar or .parquet) and no image files",
    )
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="folder of the gallery; if it is there, it is brought up to date"
    )
    parser.add_argument("--checkpoint", help=GALLERY_MODEL)
    parser.add_argument(
        "--metadata",
        type=Path,
        metavar="FILE",
        help="CSV or JSON-lines file with file_name and columns such as camera, time",
    )
    parser.add_argument(
        "--index",
        default="auto",
        help="exact, faiss, or the address of a server such as postgresql://user@host/database; default: the server that "
        "the gallery has, else faiss past 20,000 images",
    )
    parser.add_argument(
        "--precision", choices=INFERENCE_PRECISIONS, help="default: bfloat16 where the device computes in it"
    )
    parser.add_argument("--device", help=DEVICE)


def add_search(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cffa-hf search`."""
    parser.add_argument("gallery", type=Path, metavar="GALLERY", help="what cffa-hf index wrote, or a folder of images")
    parser.add_argument(
        "query", metavar="QUERY", help="a sentence that describes the person, or an image of the person"
    )
    parser.add_argument("former", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--checkpoint", help=GALLERY_MODEL)
    parser.add_argument(
        "--top", type=int, default=5, metavar="K", help="number of images to show; default: %(default)s"
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="FILTER",
        help="camera=cam_a, camera=cam_a,cam_b, time>=2024-01-31; may be given several times",
    )
    parser.add_argument("--minimum-score", type=float, metavar="SCORE", help="leave out images below it")
    parser.add_argument("--text", metavar="SENTENCE", help="with an image: what is searched for at the same time")
    parser.add_argument(
        "--text-weight", type=float, metavar="W", help="of that, from 0 (image alone) to 1; default: 0.5"
    )
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="also draw the images found into this file")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--precision", choices=INFERENCE_PRECISIONS, help="default: that of the gallery")
    parser.add_argument("--device", help=DEVICE)


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cffa-hf serve`."""
    parser.add_argument("gallery", type=Path, metavar="GALLERY", help="what cffa-hf index wrote")
    parser.add_argument("--checkpoint", help=GALLERY_MODEL)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: this machine only")
    parser.add_argument("--port", type=int, default=8000, help="0: a free one, which is printed; default: %(default)s")
    parser.add_argument(
        "--key-file", type=Path, metavar="FILE", help=f"keys that open the service, one a line; also: {KEY_VARIABLE}"
    )
    parser.add_argument("--without-key", action="store_true", help="be open to other machines without a key")
    parser.add_argument("--behind-proxy", action="store_true", help="a proxy on this machine names the clients")
    parser.add_argument("--device", help=DEVICE)
    parser.add_argument("--precision", choices=INFERENCE_PRECISIONS, help="default: that of the gallery")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="sentences encoded together")
    parser.add_argument("--gather", type=float, default=8, metavar="MS", help="wait of a batch for more queries")
    parser.add_argument("--queue-size", type=int, default=128, metavar="N", help="sentences that may wait")
    parser.add_argument("--deadline", type=float, default=10, metavar="SECONDS", help="of a request")
    parser.add_argument("--requests-per-minute", type=int, default=600, metavar="N", help="of one client; 0: no limit")
    parser.add_argument("--access-log", action="store_true", help="print a line for each request, without its content")


def add_app(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cffa-hf app`."""
    parser.add_argument(
        "gallery",
        nargs="?",
        type=Path,
        metavar="GALLERY",
        help="what cffa-hf index wrote, or a folder of images; default: rendered people",
    )
    parser.add_argument("--checkpoint", help=GALLERY_MODEL)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: %(default)s, this machine")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on; default: %(default)s")
    parser.add_argument("--precision", choices=INFERENCE_PRECISIONS, help="default: that of the gallery")
    parser.add_argument("--device", help=DEVICE)


def add_export(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cffa-hf export`."""
    parser.add_argument("model", metavar="MODEL", help=CHECKPOINT)
    parser.add_argument("out", metavar="OUT", type=Path, help="new folder for the graphs, the processor and onnx.json")
    parser.add_argument("--int8", action="store_true", help="quantise the matrix products: smaller and faster on a CPU")


def add_push(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cffa-hf push`."""
    parser.add_argument(
        "checkpoint", nargs="?", metavar="CHECKPOINT", help="folder of a run, or one of its checkpoints"
    )
    parser.add_argument("--space", choices=["metric", "search"], help="publish this Space instead of a checkpoint")
    parser.add_argument("--model", help="of the Space of the search page: its folder, or its name on the Hub")
    parser.add_argument("--gallery", help="of that Space: name of a gallery on the Hub; default: rendered people")
    _add_repository(parser)
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", metavar="BRANCH", help="branch; it is made if it is not there (default: main)")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead of changing the branch")
    parser.add_argument(
        "--with-pictures",
        action="store_true",
        help="publish pictures of people who are not known to be rendered: only if they have agreed to it",
    )


def add_push_dataset(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cffa-hf push-dataset`."""
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        help="cuhk_pedes, icfg_pedes, rstpreid; mals, sda, synth_pedes, luperson_mllm, webperson, ufine6926, ufine3c, "
        "aptm_... or tbps_clip_... (see dataset of a training); or a folder",
    )
    parser.add_argument("--dataset-root", metavar="FOLDER", help="folder that holds the folder of the data set")
    _add_repository(parser)
    parser.add_argument(
        "--run",
        dest="training",
        metavar="FOLDER",
        help="divide people as this training run did, which is recorded there",
    )
    parser.add_argument(
        "--split-seed", type=int, default=0, metavar="N", help="as split_seed of a training (default: 0)"
    )
    for split in ("validation", "test"):
        parser.add_argument(
            f"--{split}-identities",
            type=int,
            metavar="N",
            help=f"as {split}_identities of a training (default: a tenth)",
        )
    parser.add_argument("--public", action="store_true", help="let everybody see it: only if you may pass it on")


def _add_repository(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repo-id", required=True, metavar="OWNER/NAME", help="where it is published")
    parser.add_argument(
        "--dry-run", metavar="OUT", help="write the folder that would be published, and publish nothing"
    )


def add_completion(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cffa-hf completion`."""
    parser.add_argument("shell", choices=["bash", "fish", "tcsh", "zsh"], help="the shell that is to complete")


# Their order is that of the help. The module `cffa_hf.cli.NAME` has what runs a command.
COMMANDS = {
    "demo-data": Command(
        "data",
        "render a demo dataset: people who do not exist, with captions",
        add_demo_data,
        ("demo-data demo-data", "demo-data small --identities 40 10 10 --layout rstpreid"),
    ),
    "check-data": Command(
        "data",
        "list all problems of a dataset: errors (training refuses them, and the exit status is 2), warnings (its result is "
        "doubtful) and notes; or write a copy without them",
        add_check_data,
        (
            "check-data my-data",
            "check-data datasets --dataset cuhk_pedes --json > problems.json",
            "check-data my-data --fix my-data-fixed",
        ),
    ),
    "config": Command(
        "training",
        "list the configs of the package, or print one, to be copied and changed",
        add_config,
        ("config", "config own_data > mine.yaml"),
    ),
    "train": Command(
        "training",
        "train a model",
        add_train,
        (
            "train --config configs/demo.yaml --output_dir outputs/mine",
            "train --config configs/own_data.yaml --dataset my-data --num_train_epochs 20",
            "train --config configs/demo.yaml --resume_from_checkpoint auto",
        ),
        "cffa-hf train --config CONFIG [CONFIG ...] [--SETTING VALUE ...]",
    ),
    "convert": Command(
        "training",
        "turn a checkpoint of CLIP, open_clip, IRRA, RDE or CFFA into a model of this package",
        add_convert,
        ("convert openai/clip-vit-base-patch16 converted", "convert best.pth converted --vocabulary merges.txt.gz"),
    ),
    "evaluate": Command(
        "evaluation",
        "evaluate a checkpoint on one or more datasets",
        add_evaluate,
        (
            "evaluate outputs/demo --config configs/demo.yaml --report",
            "evaluate me/a-model --config cuhk_pedes rstpreid --dataset_root data --confidence",
        ),
        "cffa-hf evaluate CHECKPOINT --config CONFIG [CONFIG ...] [--SETTING VALUE ...]",
    ),
    "index": Command(
        "search",
        "embed a folder of images into a gallery, or bring it up to date",
        add_index,
        ("index photos photos-gallery --checkpoint outputs/demo", "index photos photos-gallery --metadata photos.csv"),
    ),
    "search": Command(
        "search",
        "rank a gallery, or a folder of images, by a sentence or an image",
        add_search,
        (
            'search photos-gallery "a woman in a green coat" --sheet found.png',
            'search photos "a man with a red backpack" --checkpoint outputs/demo --top 10',
            'search photos-gallery person.jpg --text "with a red backpack"',
        ),
    ),
    "app": Command(
        "search",
        "search a gallery on a page in the browser",
        add_app,
        ("app photos-gallery", "app --checkpoint outputs/demo"),
    ),
    "serve": Command(
        "search",
        "serve a gallery to many users over HTTP",
        add_serve,
        ("serve photos-gallery", "serve photos-gallery --host 0.0.0.0 --key-file keys.txt"),
    ),
    "export": Command(
        "publishing",
        "write a model as two ONNX graphs, for images and for captions, checked against PyTorch",
        add_export,
        ("export outputs/demo demo-onnx", "export outputs/demo demo-int8 --int8"),
    ),
    "push": Command(
        "publishing",
        "publish a model, or a Space of this package, on the Hub",
        add_push,
        (
            "push outputs/demo --repo-id me/cffa-demo --dry-run look",
            "push --space search --repo-id me/person-search --model outputs/demo",
        ),
    ),
    "push-dataset": Command(
        "publishing",
        "publish a dataset on the Hub, privately unless told otherwise: the licences of the benchmarks do not allow them "
        "to be passed on; with --dry-run it converts originals to shards and publishes nothing. An attempt that broke off goes "
        "on with the files that it lacks: run the same command again",
        add_push_dataset,
        ("push-dataset my-data --repo-id me/people --dry-run look",),
    ),
    "completion": Command(
        "this command",
        "print a script that completes commands and options in a shell",
        add_completion,
        ("completion bash > ~/.local/share/bash-completion/completions/cffa-hf",),
    ),
}


class HelpFormatter(argparse.HelpFormatter):
    """Wraps all but examples, which stay as they are written."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        kept = text.startswith("examples:")
        return (
            "\n".join(indent + line for line in text.splitlines()) if kept else super()._fill_text(text, width, indent)
        )


def asks_for_help(words: Sequence[str]) -> bool:
    """Tell whether a command line asks for help."""
    return not {"-h", "--help"}.isdisjoint(words)


def configured(parser: CommandParser, name: str) -> CommandParser:
    """Give a parser the options, the description and the examples of a command."""
    command = COMMANDS[name]
    parser.usage = command.usage
    parser.description = f"{command.text[0].upper()}{command.text[1:]}."
    parser.epilog = "examples:\n" + "\n".join(f"  cffa-hf {line}" for line in command.examples)
    parser.formatter_class = HelpFormatter
    command.add(parser)
    return parser
