"""What all commands share: a parser that prints no secrets, and a guard that prints every mistake as one sentence."""

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from cffa_hf.errors import InputError, RunStopped, mask_tokens, plain_error


def without_values(message: str, options: Sequence[str]) -> str:
    """Take the values out of argparse's complaint about unknown options, and name the option that was meant.

    Args:
        message: The complaint of argparse.
        options: All options of the command.

    Example:
        >>> without_values("unrecognized arguments: --hub_tokne secret", ["--hub_token"])
        "unrecognized arguments: --hub_tokne; did you mean '--hub_token'?"
    """
    head, found, tail = message.partition("unrecognized arguments: ")
    if not found:
        return mask_tokens(message)
    names = [word.partition("=")[0] for word in tail.split() if word.startswith("-")]
    close = [match for name in names for match in difflib.get_close_matches(name, options, n=1)]
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return mask_tokens(f"{head}{found}{', '.join(names) or tail}{hint}")


class CommandParser(argparse.ArgumentParser):
    """A parser of options with hyphens, which takes underscores for them; its complaints print no values."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, after spelling `--some_option` as `--some-option` where that is the option."""
        return super().parse_known_args(
            [self._with_hyphens(word) for word in (sys.argv[1:] if args is None else args)], namespace
        )

    def _with_hyphens(self, word: str) -> str:
        name, equals, value = word.partition("=")
        hyphened = name.replace("_", "-")
        is_option = hyphened.startswith("--") and hyphened in self._option_string_actions
        return hyphened + equals + value if is_option else word

    def error(self, message: str) -> NoReturn:
        """Print usage and complaint, and end with status 2."""
        super().error(without_values(message, list(self._option_string_actions)))


def guarded(main: Callable[[], object]) -> int:
    """Run a command, and print in one sentence why it failed.

    Args:
        main: The command; what it returns is the status, if it is an integer.

    Returns:
        The exit status: 2 after a mistake in the input, 1 if it could not go on for another reason.
    """
    try:
        status = main()
    except InputError as error:
        print(f"error: {plain_error(error)}", file=sys.stderr)
        return 2
    except RunStopped as error:
        print(f"error: {mask_tokens(str(error))}", file=sys.stderr)
        return 1
    return status if isinstance(status, int) else 0


def run_guarded(main: Callable[[], object]) -> None:
    """Run a command as `guarded` does; where it fails the process ends with its status."""
    if status := guarded(main):
        sys.exit(status)
