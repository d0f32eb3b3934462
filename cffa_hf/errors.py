"""The errors that are printed as one sentence: a mistake in the input, and a run that cannot go on."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager


def mask_tokens(text: str) -> str:
    """Hide everything that is, or looks like, a Hugging Face token.

    Example:
        >>> mask_tokens("--hub_tokne hf_abcdefghijkl is unknown")
        '--hub_tokne hf_... is unknown'
    """
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        secret = os.environ.get(name, "").strip()
        if len(secret) >= 8:
            text = text.replace(secret, "hf_...")
    return re.sub(r"\b(hf|api_org)_[A-Za-z0-9]{8,}", r"\1_...", text)


LONGEST_MESSAGE = 500


def printable(text: str) -> str:
    r"""Return a message on one line, without tokens and control characters, and cut in its middle if it is too long.

    Example:
        >>> printable("a.json:  line 3\nis no JSON\x1b[31m.")
        'a.json: line 3 is no JSON?[31m.'
    """
    line = " ".join(mask_tokens(text).split())
    line = "".join(letter if letter.isprintable() or letter == " " else "?" for letter in line)
    if len(line) > LONGEST_MESSAGE:
        line = f"{line[: LONGEST_MESSAGE - 185]} [...] {line[-178:]}"
    return line


class InputError(ValueError):
    """A mistake in the input that the user can fix.

    The message is one sentence with its full stop: the file, the row or the field, what is wrong with it and the remedy.
    The scripts print it without a traceback and exit with status 2. Tokens in it are masked, and it is made `printable`.
    """

    def __init__(self, message: object = ""):
        super().__init__(printable(str(message)))


class RunStopped(RuntimeError):
    """A run cannot go on, through no mistake in its input.

    The message is one sentence with its full stop: why, what is saved and what to do. The scripts exit with status 1.
    """


def one_line(error: BaseException, limit: int | None = None) -> str:
    """Return what an error says, to be quoted within a sentence.

    Args:
        error: Of any kind.
        limit: Characters to keep; None: all.

    Returns:
        Its message on one line, without a full stop; the name of its type where it has no message.

    Example:
        >>> one_line(ValueError("Missing key:  visual.proj.")), one_line(EOFError())
        ('Missing key: visual.proj', 'EOFError')
    """
    return " ".join(str(error).split())[:limit].rstrip(".") or type(error).__name__


@contextmanager
def explained(what: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of a library into an InputError that says what they mean; an InputError passes as it is.

    Args:
        what: Stands before a colon and the library's reason.
        *kinds: Errors to turn.

    Raises:
        InputError: In place of the library's error.
    """
    try:
        yield
    except InputError:
        raise
    except kinds as error:
        raise InputError(f"{what}: {one_line(error.__cause__ or error)}.") from error


class LossNotFinite(RunStopped):
    """A run cannot go on because a loss or the gradient is not finite."""


def plain_error(error: InputError) -> InputError:
    """Take the sentence of an InputError out of the traceback that a `DataLoader` puts around it."""
    text = str(error)
    if "Original Traceback" not in text:
        return error
    return InputError(text.rpartition(f"{InputError.__name__}: ")[2].strip())
