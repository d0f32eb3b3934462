"""Which settings a search tries, and within which bounds: read from `search`, and refused where it makes no sense."""

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cffa_hf.errors import InputError, one_line
from cffa_hf.json_files import parse_json


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds, both of which may be tried.

    Args:
        low: Smallest.
        high: Largest.
        log: Whether the logarithm is spread evenly, instead of the number itself.
        whole: Whether only whole numbers are tried.
    """

    low: float
    high: float
    log: bool
    whole: bool


@dataclass(frozen=True)
class Choices:
    """Values without an order.

    Args:
        values: At least one, each of them once.
    """

    values: tuple[Any, ...]


SearchSpace = dict[str, Range | Choices]


@dataclass
class SearchSettings:
    """What is tried before the run that counts."""

    search: dict | str | None = field(
        default=None,
        metadata={
            "help": "Settings that are tried in short runs instead of training: each with low, high and, if the logarithm "
            "is to be spread evenly, log: true; or with a list of choices (JSON on the command line). null: no search"
        },
    )
    search_trials: int = field(
        default=20, metadata={"help": "Runs of a search, those of earlier starts in the same output_dir included"}
    )


def space_record(space: SearchSpace) -> dict[str, Any]:
    """Describe a space in words fit for JSON, by setting."""
    return {
        name: list(bounds.values) if isinstance(bounds, Choices) else asdict(bounds)
        for name, bounds in sorted(space.items())
    }


def read_space(search: Any, kinds: Mapping[str, type], check: Callable[[str, Any], None]) -> SearchSpace:
    """Read a search space.

    Args:
        search: As a config has it, or JSON.
        kinds: The settings that can be searched, and what their values are.
        check: Raises ValueError for a value that a setting cannot have.

    Returns:
        Bounds or choices of each setting, in alphabetical order.

    Raises:
        InputError: If a setting cannot be searched, or its bounds or choices make no sense.
    """
    if isinstance(search, str):
        try:
            search = parse_json(search)
        except ValueError as error:
            raise InputError(f"search is no JSON: {one_line(error, 120)}.") from error
    if not isinstance(search, Mapping):
        raise InputError("search must be a mapping from settings to bounds or choices.")
    if not search:
        raise InputError("search is empty: name at least one setting, with low and high or with a list of choices.")
    for name in search:
        if name not in kinds:
            close = difflib.get_close_matches(str(name), kinds, n=1)
            hint = f"did you mean '{close[0]}'?" if close else "docs/training.md lists those that can"
            raise InputError(f"search: '{name}' is no setting that can be searched ({hint}).")
    space: SearchSpace = {}
    for name, value in sorted(search.items()):
        bounds = _range(name, value, kinds[name]) if isinstance(value, Mapping) else _choices(name, value, kinds[name])
        for tried in bounds.values if isinstance(bounds, Choices) else (bounds.low, bounds.high):
            try:
                check(name, tried)
            except ValueError as error:
                raise InputError(f"search: {error}.") from error
        space[name] = bounds
    return space


def _range(name: str, value: Mapping[str, Any], kind: type) -> Range:
    if kind not in (int, float):
        raise InputError(f"search: {name} has no bounds; give a list of choices.")
    if unknown := sorted(map(str, set(value) - {"low", "high", "log"})):
        raise InputError(f"search: {name} has an unknown entry '{unknown[0]}'; there are low, high and log.")
    if missing := [bound for bound in ("low", "high") if value.get(bound) is None]:
        raise InputError(f"search: {name} has no '{missing[0]}'; give low and high, or a list of choices.")
    low, high = (_converted(name, value[bound], kind) for bound in ("low", "high"))
    log = value.get("log", False)
    if not isinstance(log, bool):
        raise InputError(f"search: log of {name} must be true or false, got {log!r}.")
    if low >= high:
        raise InputError(f"search: {name} has low {low}, which is not below high {high}.")
    if log and low <= 0:
        raise InputError(f"search: {name} has low {low}, but the logarithm needs bounds above 0.")
    return Range(low, high, log, kind is int)


def _choices(name: str, value: Any, kind: type) -> Choices:
    if not isinstance(value, list):
        raise InputError(f"search: {name} must have low and high, or a list of choices, got {value!r}.")
    if not value:
        raise InputError(f"search: {name} has no choices.")
    values = tuple(_converted(name, item, kind) for item in value)
    if twice := [item for item in values if values.count(item) > 1]:
        raise InputError(f"search: {name} has the choice {twice[0]} twice.")
    return Choices(values)


def _converted(name: str, value: Any, kind: type) -> Any:
    """Make a YAML value one of a setting: YAML takes 1e-5 for a word, and 1 is a whole number."""
    try:
        if kind in (int, float) and not isinstance(value, bool):
            number = float(value)
            if math.isfinite(number) and number >= 0 and (kind is float or number.is_integer()):
                return kind(number)
        elif type(value) is kind:
            return value
    except (TypeError, ValueError):
        pass
    words = {int: "a whole number from 0", float: "a number from 0", bool: "true or false", str: "a word"}
    raise InputError(f"search: {name} has {value!r}, which is not {words[kind]}.")
