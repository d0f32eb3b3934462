"""The command `cffa-hf`."""

import argparse
from collections.abc import Callable, Sequence
from importlib import import_module

from cffa_hf.command_line import CommandParser, guarded
from cffa_hf.version import VERSION

# Where each subcommand's `add_parser(subparsers)` is, and its line of help. Only the module that is asked for is
# imported, so that help is printed at once.
COMMANDS = {
    "index": ("cffa_hf.cli.index", "embed a folder of images into a gallery, or bring it up to date"),
    "search": ("cffa_hf.cli.search", "rank a gallery, or a folder of images, by a sentence"),
    "serve": ("cffa_hf.cli.serve", "serve a gallery to many users over HTTP"),
    "app": ("cffa_hf.cli.app", "search a gallery on a page in the browser"),
    "check-data": ("cffa_hf.cli.check_data", "list all problems of a dataset, or write a copy without them"),
    "demo-data": ("cffa_hf.cli.demo_data", "render a demo dataset"),
    "config": ("cffa_hf.cli.config", "list the configs of the package, or print one"),
    "convert": (
        "cffa_hf.cli.convert",
        "turn a checkpoint of CLIP, open_clip, IRRA, RDE or CFFA into a model of this package",
    ),
    "export": ("cffa_hf.cli.export", "write a model as two ONNX graphs, checked against PyTorch"),
    "push-dataset": ("cffa_hf.cli.push_dataset", "publish a dataset on the Hub"),
}
# The same programs as the scripts run_train.py, run_eval.py and push_to_hub.py; each reads its own words with `main(words)`.
PROGRAMS = {
    "train": ("cffa_hf.cli.train", "train a model; --help lists all settings"),
    "evaluate": ("cffa_hf.cli.evaluation", "evaluate a checkpoint on one or more datasets"),
    "push": ("cffa_hf.cli.push", "publish a model, or a Space of this package, on the Hub"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: Command line without the program's name; None: that of the process.

    Returns:
        The exit status: 0; 2 after a mistake in the input, 1 if it could not go on for another reason.
    """
    return guarded(_run, argv)


def _run(words: Sequence[str]) -> object:
    parser = CommandParser(prog="cffa-hf", description="Text-based person retrieval with CFFA.")
    parser.add_argument("--version", action="version", version=f"cffa-hf {VERSION}")
    if words and words[0] in PROGRAMS:
        return import_module(PROGRAMS[words[0]][0]).main(words[1:])
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, text) in PROGRAMS.items():
        subparsers.add_parser(name, help=text)
    for name, (module, text) in COMMANDS.items():
        if words and words[0] == name:
            import_module(module).add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=text)
    arguments = parser.parse_args(words)
    run: Callable[[argparse.Namespace], int | None] = arguments.run
    return run(arguments)
