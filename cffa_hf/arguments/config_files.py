"""Settings in YAML files: later files win over earlier ones, and an unknown key is an error that names the file."""

import argparse
import difflib
import glob
import logging
import typing
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cffa_hf.arguments.training import SECRETS
from cffa_hf.command_line import closest_option
from cffa_hf.errors import InputError, is_text

logger = logging.getLogger(__name__)

CONFIG_FOLDER = Path("configs")
SHIPPED = Path(__file__).resolve().parents[1] / "configs"
LARGEST = 2**20


class SettingsLoader(yaml.SafeLoader):
    """Reads YAML without aliases, which can unfold to any size, and without keys that stand twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Read a node that is no alias."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "aliases are not read in settings", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Read a mapping whose keys stand once each."""
        seen = set()
        for key, _ in node.value:
            name = getattr(key, "value", None)
            if isinstance(name, str) and name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{name}' is set twice", key.start_mark)
            seen.add(name if isinstance(name, str) else None)
        return super().construct_mapping(node, deep)


def config_path(config: str) -> Path:
    """Return the file that a config's path or bare name means: `methods/rde` is `configs/methods/rde.yaml`.

    What `configs/` in the working folder does not have is taken from the configs that the package ships.
    """
    path = Path(config)
    if not path.suffix and not path.is_file():
        path = CONFIG_FOLDER / f"{config}.yaml"
    if not path.exists() and path.parts[0] == CONFIG_FOLDER.name:
        shipped = SHIPPED.joinpath(*path.parts[1:])
        if shipped.is_file():
            logger.warning("%s is not in this folder: the one that cffa_hf ships is read", path)
            return shipped
    return path


def shipped_configs() -> dict[str, Path]:
    """Return the configs that the package ships, by the names that `--config` takes, sorted."""
    files = SHIPPED.glob("**/*.yaml")
    return dict(sorted((file.relative_to(SHIPPED).with_suffix("").as_posix(), file) for file in files))


def read_config(path: Path, known: Collection[str]) -> dict[str, Any]:
    """Read a YAML file of settings.

    Args:
        path: The file.
        known: Names of all settings there are.

    Raises:
        InputError: If the file is missing, is no mapping, or has a key that nobody knows.
    """
    try:
        if path.exists() and not (path.is_file() and path.stat().st_size <= LARGEST):
            raise InputError(f"the config {path} is no file of at most {LARGEST // 2**20} MiB.")
        content = yaml.load(path.read_text(encoding="utf-8"), SettingsLoader)
    except FileNotFoundError as error:
        raise InputError(f"the config {path} does not exist; {_nearest_config(path)}.") from error
    except InputError:
        raise
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        # Not the text of the error: it quotes the line, which may hold a token.
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        reason = problem or getattr(error, "strerror", None) or type(error).__name__
        raise InputError(f"the config {path} cannot be read as YAML: {where}{reason}.") from error
    if not isinstance(content, dict):
        raise InputError(f"the config {path} must be a list of 'setting: value' lines.")
    for name in content:
        if name not in known:
            close = closest_option(str(name), list(known))
            hint = f"did you mean '{close}'?" if close else "--help lists all settings"
            raise InputError(f"the config {path} has an unknown setting '{name}' ({hint}).")
    return content


def closest_config(wrong: str, names: Collection[str]) -> str | None:
    """Return the config that was probably meant, judged by the last part of its name; one in the same folder comes first.

    Example:
        >>> closest_config("clpi", ["demo", "methods/clip", "sizes/tiny"])
        'methods/clip'
    """
    folder, _, last = wrong.rpartition("/")
    close = difflib.get_close_matches(last, {name.rpartition("/")[2] for name in names}, n=1, cutoff=0.7)
    meant = [name for name in sorted(names) if name.rpartition("/")[2] in close]
    return min(meant, key=lambda name: name.rpartition("/")[0] != folder, default=None)


def _nearest_config(path: Path) -> str:
    """Say which config a missing one was meant to be, or which there are."""
    if path.parts[0] == CONFIG_FOLDER.name:
        here = {file.relative_to(CONFIG_FOLDER).with_suffix("").as_posix() for file in CONFIG_FOLDER.glob("**/*.yaml")}
        wrong = path.relative_to(CONFIG_FOLDER).with_suffix("").as_posix()
        if close := closest_config(wrong, here | set(shipped_configs())):
            return f"did you mean '{close}'? `cffa-hf config` lists those of the package"
    if same := sorted(path.parent.glob(f"{glob.escape(path.stem)}.y*ml")):
        return f"did you mean '{same[0]}'? `cffa-hf config` lists those of the package"
    beside = sorted(file.stem for file in path.parent.glob("*.yaml"))
    return f"{path.parent} has {', '.join(beside)}" if beside else "`cffa-hf config` lists those of the package"


def read_configs(
    configs: Sequence[str],
    actions: Mapping[str, argparse.Action],
    classes: Sequence[Any],
    wanted: Collection[str] | None = None,
) -> dict[str, Any]:
    """Read several configs as the command line would have read their values.

    Args:
        configs: Paths or names; where two set the same thing, the later one wins.
        actions: What the command line does with each setting there is.
        classes: Dataclasses of the settings, for their types.
        wanted: Settings that are kept; the values of the others are not looked at. None: all.

    Raises:
        InputError: If a file is missing, is no mapping, has a key that nobody knows or a value that does not fit.
    """
    hints = {name: hint for kind in classes for name, hint in typing.get_type_hints(kind).items()}
    values: dict[str, Any] = {}
    for path in map(config_path, configs):
        for name, value in read_config(path, actions.keys()).items():
            if wanted is None or name in wanted:
                values[name] = config_value(path, actions[name], hints[name], value)
    return values


def config_value(path: Path, action: argparse.Action, hint: Any, value: Any) -> Any:
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
    if any(
        isinstance(item, int) and item.bit_length() > 1024 for item in (value if isinstance(value, list) else [value])
    ):
        raise InputError(f"the config {path} sets {action.dest} to a number of hundreds of digits; correct it.")
    shown = "a value" if action.dest in SECRETS else repr(value)

    def convert(item: Any) -> Any:
        if action.type is None:
            return item
        try:
            return action.type(str(item))  # type: ignore[operator]
        except (TypeError, ValueError, argparse.ArgumentTypeError) as error:
            kind = getattr(action.type, "__name__", "value").replace("string_to_bool", "true or false")
            raise InputError(f"the config {path} sets {action.dest} to {item!r}, which is not {kind}.") from error

    kinds = [typing.get_origin(kind) or kind for kind in typing.get_args(hint) or (hint,)]
    if isinstance(value, dict) and dict in kinds:
        return value
    if value is None:
        if type(None) in kinds:
            return None
        raise InputError(f"the config {path} leaves {action.dest} empty, but it needs a value.")
    if isinstance(value, str) and ("\0" in value or not is_text(value)):
        raise InputError(f"the config {path} sets {action.dest} to a text that no name can be; correct it.")
    wants_list = action.nargs in ("+", "*")
    if isinstance(value, list) != wants_list or isinstance(value, dict):
        wanted = "a list" if wants_list else "one value"
        raise InputError(f"the config {path} sets {action.dest} to {shown}, but it must be {wanted}.")
    converted = [convert(item) for item in value] if wants_list else convert(value)
    if action.choices is not None and converted not in action.choices:
        choices = ", ".join(map(str, action.choices))
        raise InputError(f"the config {path} sets {action.dest} to {value!r}, which is not one of {choices}.")
    return converted
