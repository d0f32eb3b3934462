"""The command `cffa-hf`. Read parsers.py for all options; each other file runs the command of its name."""

import argparse
import difflib
import re
import textwrap
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from cffa_hf.cli.parsers import COMMANDS, asks_for_help, configured
from cffa_hf.command_line import CommandParser, guarded
from cffa_hf.errors import printable
from cffa_hf.names import KEY_VARIABLE
from cffa_hf.version import VERSION

# Command -> the module that runs it. The first two read their many settings by themselves, with `main(words)`; the modules of
# the others have `run(arguments)`.
PROGRAMS = {"train": "cffa_hf.cli.train", "evaluate": "cffa_hf.cli.evaluation"}

DESCRIPTION = """
Find a person in a gallery of camera images from a sentence: render demo data, train and evaluate CFFA models, search
folders of images, publish models. CFFA is Cross-Modal Fine-grained Feature Alignment, on the Hugging Face stack.
"""
ABOUT = f"""
first result, from nothing:
  cffa-hf demo-data demo-data
  cffa-hf train --config configs/demo.yaml --dataset_root demo-data --output_dir outputs/demo
  cffa-hf evaluate outputs/demo --config configs/demo.yaml --dataset_root demo-data --report
  cffa-hf index demo-data/CUHK-PEDES/imgs demo-gallery --checkpoint outputs/demo
  cffa-hf search demo-gallery "a woman in a green coat" --sheet found.png

environment variables:
  HF_TOKEN              token of the Hub; `hf auth login` keeps one, too
  HF_HOME               folder for models and data of the Hub (default: ~/.cache/huggingface)
  HF_HUB_OFFLINE        1: never ask the Hub, use what is in that folder
  HF_DATASETS_CACHE     folder for tables and decoded images, which may become large
  CUDA_VISIBLE_DEVICES  numbers of the GPUs that may be used; empty: none
  OMP_NUM_THREADS       threads of the CPU
  {KEY_VARIABLE}   a key that opens `cffa-hf serve`

exit status:
  0    done
  1    could not go on, through no mistake in the input: what was saved before is whole
  2    a mistake in the input or on the command line, told in one sentence
  130  interrupted by Ctrl-C (143: by SIGTERM, in training)

`cffa-hf COMMAND --help` explains a command; `--debug` behind any command prints the traceback of an error.
The documentation is README.md and docs/ of the source: training.md, data.md, evaluation.md, search.md, publishing.md ...
"""


class MainParser(CommandParser):
    """The parser of `cffa-hf`, whose help lists the commands in groups, and which knows what a typo was meant to be."""

    commands: dict[str, CommandParser]

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does; an option that a command does not have is the complaint of that command."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.commands[found.command].error(f"unrecognized arguments: {' '.join(unknown)}")
        return found

    def format_help(self) -> str:
        """Return the whole help."""
        lines = ["usage: cffa-hf COMMAND ...", "       cffa-hf --help | --version"]
        lines += ["", *textwrap.wrap(" ".join(DESCRIPTION.split()), 100), "", "commands:"]
        group = None
        for name, command in COMMANDS.items():
            if command.group != group:
                group = command.group
                lines.append(f"  {group}")
            lines += textwrap.wrap(command.text, 100, initial_indent=f"    {name:<14}", subsequent_indent=" " * 18)
        return "\n".join(lines) + "\n" + ABOUT

    def error(self, message: str) -> NoReturn:
        """End with status 2, in one sentence where a command is not known."""
        wrong = re.search(r"invalid choice: '([^']*)'", message)
        if wrong is None:
            super().error(message)
        close = difflib.get_close_matches(wrong[1], COMMANDS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"There are {', '.join(COMMANDS)}."
        self.exit(2, f"error: cffa-hf has no command '{printable(wrong[1])}'; {hint}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: Command line without the program's name; None: that of the process.

    Returns:
        The exit status: 0; 2 after a mistake in the input, 1 if it could not go on for another reason.
    """
    return guarded(_run, argv)


def command_parser() -> CommandParser:
    """Return the parser of all commands."""
    parser = MainParser(prog="cffa-hf")
    parser.add_argument("--version", action="version", version=f"cffa-hf {VERSION}", help="print the version and exit")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=CommandParser)
    for name, command in COMMANDS.items():
        configured(subparsers.add_parser(name, help=command.text), name)
    parser.commands = subparsers.choices
    return parser


def _run(words: Sequence[str]) -> object:
    if words and words[0] in PROGRAMS and not asks_for_help(words[1:]):
        return import_module(PROGRAMS[words[0]]).main(words[1:])
    arguments: argparse.Namespace = command_parser().parse_args(words)
    return import_module(f"cffa_hf.cli.{arguments.command.replace('-', '_')}").run(arguments)
