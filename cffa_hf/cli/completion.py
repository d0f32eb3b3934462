"""`cffa-hf completion`: a script that completes commands, options and files in a shell."""

import argparse

import shtab

from cffa_hf.cli import command_parser

# Of options and arguments that are no `Path`, those that name a file or a folder.
FILES = {"CHECKPOINT", "CONFIG", "DATASET", "FILE", "MODEL", "OUT", "SOURCE"}


def run(arguments: argparse.Namespace) -> None:
    """Print the script."""
    print(script(arguments.shell), end="")


def script(shell: str) -> str:
    """Return the completion script of a shell, which needs nothing of this package when it runs.

    Args:
        shell: As shtab names it.
    """
    parser = command_parser()
    _complete_files(parser)
    return shtab.complete(parser, shell)


def _complete_files(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                _complete_files(subparser)
        elif action.help != argparse.SUPPRESS and (_names_a_file(action)):
            action.complete = shtab.FILE  # type: ignore[attr-defined]


def _names_a_file(action: argparse.Action) -> bool:
    by_name = action.metavar in FILES or action.dest in ("checkpoint", "output_dir", "dataset_root", "init_from")
    return getattr(action.type, "__name__", None) == "Path" or by_name
