"""Settings of a run: one YAML file gives the defaults, the command line wins, an unknown key is an error."""

import argparse
import difflib
import re
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from cffa_hf.arguments.data import DataArguments
from cffa_hf.arguments.model import ModelArguments
from cffa_hf.arguments.training import SECRETS, CFFATrainingArguments
from cffa_hf.command_line import without_values
from cffa_hf.errors import InputError, one_line


class QuietArgumentParser(HfArgumentParser):
    """A parser whose errors are one sentence instead of three hundred lines of usage."""

    def error(self, message: str):
        """Raise InputError.

        Raises:
            InputError: Always. Of options that nobody knows only the names are told: their values may be secret.
        """
        if any(f"--{name}" in message for name in SECRETS):
            message = re.sub(r": .*", ": its value is not accepted", message, count=1, flags=re.DOTALL)
        raise InputError(f"{without_values(message, list(self._option_string_actions))} (--help lists all settings)")


def read_config(path: str | Path, known: Sequence[str]) -> dict[str, Any]:
    """Read a YAML file of settings.

    Args:
        path: The file.
        known: Names of all settings there are.

    Raises:
        InputError: If the file is missing, is no mapping, or has a key that nobody knows.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"the config {path} does not exist") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        # Not the text of the error: it quotes the line, which may hold a token.
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        reason = problem or getattr(error, "strerror", None) or type(error).__name__
        raise InputError(f"the config {path} cannot be read as YAML: {where}{reason}") from error
    if not isinstance(content, dict):
        raise InputError(f"the config {path} must be a list of 'setting: value' lines")
    for name in content:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else "; --help lists all settings"
            raise InputError(f"the config {path} has an unknown setting '{name}'{hint}")
    return content


def config_default(path: str | Path, action: argparse.Action, hint: Any, value: Any) -> Any:
    """Turn a YAML value into what the command line would have made of it.

    Args:
        path: The config, for messages.
        action: What the command line does with the setting.
        hint: Type of the setting.
        value: As the YAML file has it.

    Raises:
        InputError: If a list stands where one value is wanted, or the other way round, a value has the wrong type, or
            there is none where one is needed.
    """
    shown = "a value" if action.dest in SECRETS else repr(value)

    def convert(item: Any) -> Any:
        if action.type is None:
            return item
        try:
            return action.type(str(item))  # type: ignore[operator]
        except (TypeError, ValueError, argparse.ArgumentTypeError) as error:
            kind = getattr(action.type, "__name__", "value").replace("string_to_bool", "true or false")
            raise InputError(f"the config {path} sets {action.dest} to {item!r}, which is not {kind}") from error

    kinds = [typing.get_origin(kind) or kind for kind in typing.get_args(hint) or (hint,)]
    if isinstance(value, dict) and dict in kinds:
        return value
    if value is None:
        if type(None) in kinds:
            return None
        raise InputError(f"the config {path} leaves {action.dest} empty, but it needs a value")
    wants_list = action.nargs in ("+", "*")
    if isinstance(value, list) != wants_list or isinstance(value, dict):
        wanted = "a list" if wants_list else "one value"
        raise InputError(f"the config {path} sets {action.dest} to {shown}, but it must be {wanted}")
    converted = [convert(item) for item in value] if wants_list else convert(value)
    if action.choices is not None and converted not in action.choices:
        choices = ", ".join(map(str, action.choices))
        raise InputError(f"the config {path} sets {action.dest} to {value!r}, which is not one of {choices}")
    return converted


def parse_arguments(
    arguments: Sequence[str] | None = None,
    classes: Sequence[Any] = (ModelArguments, DataArguments, CFFATrainingArguments),
) -> tuple[Any, ...]:
    """Read `--config FILE` and the command line into the argument classes.

    Args:
        arguments: Command line without the program's name; None: that of the process.
        classes: Dataclasses to fill.

    Returns:
        One instance of each class.

    Raises:
        InputError: One sentence that names the setting and the file.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    first = QuietArgumentParser((), add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    config, rest = first.parse_known_args(words)
    parser = QuietArgumentParser(classes, allow_abbrev=False)
    parser.add_argument("--config", help="YAML file with settings; the command line wins")
    if config.config is not None:
        actions = {action.dest: action for action in reversed(parser._actions)}
        settings = read_config(config.config, [name for name in actions if name not in ("help", "config")])
        hints = {name: hint for kind in classes for name, hint in typing.get_type_hints(kind).items()}
        values = {
            name: config_default(config.config, actions[name], hints[name], value) for name, value in settings.items()
        }
        parser.set_defaults(**values)
        for name in values:
            actions[name].required = False
    try:
        *filled, unknown = parser.parse_args_into_dataclasses(rest, return_remaining_strings=True)
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        return tuple(filled[: len(classes)])
    except InputError:
        raise
    except (ValueError, ImportError) as error:
        raise InputError(f"{one_line(error)}.") from error
