"""What all commands share: a parser that prints no secrets, and a guard that prints every mistake as one sentence."""

import argparse
import difflib
import errno
import io
import os
import platform
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from cffa_hf.errors import FULL, InputError, RunStopped, is_text, mask_tokens, one_line, plain_error, printable, visible
from cffa_hf.version import VERSION


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
    close = [match for name in names if (match := closest_option(name, options))]
    hint = f"; did you mean '{close[0]}'?" if close else ""
    return mask_tokens(f"{head}{found}{', '.join(names) or tail}{hint}")


def closest_option(name: str, options: Sequence[str]) -> str | None:
    """Return the option that was probably meant: one that holds the name's words, or is spelt much alike.

    Args:
        name: Unknown.
        options: All that there are.

    Example:
        >>> closest_option("--batch_size", ["--patch_size", "--per_device_train_batch_size"])
        '--per_device_train_batch_size'
    """
    wanted = name.lstrip("-").replace("-", "_")
    holding = [option for option in options if wanted and f"_{wanted}_" in f"_{option.lstrip('-').replace('-', '_')}_"]
    holding.sort(key=lambda option: "train" not in option)
    return next(iter(holding or difflib.get_close_matches(name, options, n=1)), None)


class CommandParser(argparse.ArgumentParser):
    """A parser of options with hyphens, which takes underscores for them; its complaints print no values."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, after spelling `--some_option` as `--some-option` where that is the option.

        Raises:
            InputError: If a word is empty: as a path it would be the working directory.
        """
        words = list(sys.argv[1:] if args is None else args)
        if "" in words:
            raise InputError(
                "The command line holds an empty word; write the sentence or name that is meant (. is this folder)."
            )
        return super().parse_known_args([self._with_hyphens(word) for word in words], namespace)

    def _with_hyphens(self, word: str) -> str:
        name, equals, value = word.partition("=")
        hyphened = name.replace("_", "-")
        is_option = hyphened.startswith("--") and hyphened in self._option_string_actions
        return hyphened + equals + value if is_option else word

    def error(self, message: str) -> NoReturn:
        """Print usage and complaint, and end with status 2."""
        super().error(without_values(message, list(self._option_string_actions)))


def guarded(main: Callable[[Sequence[str]], object], words: Sequence[str] | None = None) -> int:
    """Run a command, and print in one sentence why it failed.

    What nobody foresaw is a bug of this package: its traceback goes into a file that can be sent to us. `--debug` without
    a value prints every traceback instead.

    Args:
        main: The command, which takes its command line; what it returns is the status, if it is an integer.
        words: Command line without the program's name; None: that of the process.

    Returns:
        The exit status: 2 after a mistake in the input, 1 if it could not go on for another reason, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if words is None else words)
    debug = [place for place, word in enumerate(words) if word == "--debug" and _has_no_value(words, place)]
    try:
        with _plain_output():
            check_words(words)
            status = main([word for place, word in enumerate(words) if place not in debug])
    except KeyboardInterrupt:
        print(
            "interrupted: what was saved before is whole, and the same command goes on or starts again.",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            print(mask_tokens(traceback.format_exc()), file=sys.stderr)
        sentence, status = explain(error)
        print(f"error: {sentence}", file=sys.stderr)
        return status
    return status if isinstance(status, int) else 0


def check_words(words: Sequence[str]) -> None:
    """Refuse what no library could write into a record or a file name.

    Raises:
        InputError: If a word is no UTF-8 or holds a null character.
    """
    for word in words:
        if "\0" in word or not is_text(word):
            raise InputError(
                f"The command line holds {visible(word)[:200]!r}, which is no UTF-8 text; rename the file."
            )


@contextmanager
def _plain_output() -> Iterator[None]:
    """Print warnings as one line, and escape what the terminal has no letters for instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    former = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {printable(str(message))}\n"
    try:
        yield
    finally:
        warnings.formatwarning = former


def _has_no_value(words: Sequence[str], place: int) -> bool:
    """Tell our `--debug` from that of `transformers.TrainingArguments`, which takes a value."""
    return place + 1 == len(words) or words[place + 1].startswith("-")


def explain(error: Exception) -> tuple[str, int]:
    """Say in one sentence why a command failed.

    Args:
        error: That ended it.

    Returns:
        The sentence, and the exit status that goes with it.
    """
    if isinstance(error, InputError):
        return str(plain_error(error)), 2
    if isinstance(error, RunStopped):
        return str(error), 1
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "OutOfMemory" in type(error).__name__:
        return "The memory is full: take a smaller batch or a smaller model; what was saved before is whole.", 1
    if isinstance(error, OSError) and error.errno in (*FULL, errno.EROFS):
        place = f" ({error.filename})" if error.filename else ""
        status = 1 if error.errno in FULL else 2
        return f"Nothing more can be written{place}: {error.strerror}; make room or choose another place.", status
    what = printable(f"{type(error).__name__}: {one_line(error, 200)}")
    return (
        f"This is a bug of cffa_hf, not a mistake of yours ({what}); please send us {_write_report(error)}, or run the "
        "command with --debug to see it.",
        1,
    )


def _write_report(error: Exception) -> str:
    """Write the traceback of an error, without tokens, into a new file below the folder for temporary files."""
    text = "".join(traceback.format_exception(error))
    about = f"cffa_hf {VERSION}, Python {platform.python_version()}, {platform.platform()}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="cffa-hf-error-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(f"{about}\n{mask_tokens(text)}")
        return file.name
    except OSError:
        return "what it prints"


def run_guarded(main: Callable[[Sequence[str]], object]) -> None:
    """Run a command as `guarded` does; where it fails the process ends with its status."""
    if status := guarded(main):
        sys.exit(status)
