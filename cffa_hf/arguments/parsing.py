"""Settings of a run: YAML files give the defaults, the command line wins, an unknown key is an error."""

import argparse
import re
import sys
from collections.abc import Sequence
from functools import wraps
from typing import Any, get_args, get_type_hints

from transformers import HfArgumentParser

from cffa_hf.arguments.config_files import read_configs
from cffa_hf.arguments.data import TrainingDataArguments
from cffa_hf.arguments.model import ModelArguments
from cffa_hf.arguments.training import SECRETS, CFFATrainingArguments
from cffa_hf.command_line import without_values
from cffa_hf.errors import InputError, one_line

RUN_CLASSES: tuple[Any, ...] = (ModelArguments, TrainingDataArguments, CFFATrainingArguments)


class QuietArgumentParser(HfArgumentParser):
    """A parser whose errors are one sentence instead of three hundred lines of usage.

    Attributes:
        actions: What the command line does with each setting, by the setting's name.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self.actions: dict[str, argparse.Action] = {}
        super().__init__(*args, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        """Add an option, and remember the first one of a setting."""
        action = super().add_argument(*args, **kwargs)
        if action.dest not in ("help", "config"):
            self.actions.setdefault(action.dest, action)
        return action

    def set_defaults(self, **values: Any) -> None:
        """Take the values where the command line gives none; what was required no longer is."""
        super().set_defaults(**values)
        for name in values.keys() & self.actions.keys():
            self.actions[name].required = False

    def allow_null(self, classes: Sequence[Any]) -> None:
        """Read `null` as a config does, where a setting may have no value."""
        hints = {name: hint for kind in classes for name, hint in get_type_hints(kind).items()}
        for name, action in self.actions.items():
            if type(None) in get_args(hints[name]) and action.type is not None:
                action.type = _or_null(action.type)

    def error(self, message: str):
        """Raise InputError.

        Raises:
            InputError: Always. Of options that nobody knows only the names are told: their values may be secret.
        """
        if any(f"--{name}" in message for name in SECRETS):
            message = re.sub(r": .*", ": its value is not accepted", message, count=1, flags=re.DOTALL)
        raise InputError(f"{without_values(message, list(self._option_string_actions))} (--help lists all settings).")


def _or_null(convert: Any) -> Any:
    @wraps(convert)
    def read(text: str) -> Any:
        return None if text == "null" else convert(text)

    return read


def parse_arguments(arguments: Sequence[str] | None = None, classes: Sequence[Any] = RUN_CLASSES) -> tuple[Any, ...]:
    """Read `--config FILE ...` and the command line into the argument classes.

    Args:
        arguments: Command line without the program's name; None: that of the process.
        classes: Dataclasses to fill.

    Returns:
        One instance of each class.

    Raises:
        InputError: One sentence that names the setting and the file.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = QuietArgumentParser(classes, allow_abbrev=False)
    parser.allow_null(classes)
    option: dict[str, Any] = {"nargs": "+", "action": "extend", "metavar": "CONFIG"}
    first = QuietArgumentParser((), add_help=False, allow_abbrev=False)
    for each in (first, parser):
        each.add_argument(
            "--config",
            **option,
            help="YAML files with settings, or names that `cffa-hf config` lists: later ones win, and the command line over all",
        )
    given, rest = first.parse_known_args(words)
    if given.config:
        parser.set_defaults(**read_configs(given.config, parser.actions, classes))
    try:
        *filled, unknown = parser.parse_args_into_dataclasses(rest, return_remaining_strings=True)
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        return tuple(filled[: len(classes)])
    except InputError:
        raise
    except (ValueError, ImportError, OSError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            why = f"cannot be read ({error.strerror}); give another one"
            raise InputError(f"{error.filename}: this file, which a setting names, {why}.") from error
        raise InputError(f"{one_line(error)}.") from error
