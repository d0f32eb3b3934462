"""The errors that are printed as one sentence: a mistake in the input, and a run that cannot go on."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

# Of environment variables: HF_TOKEN, WANDB_API_KEY, PGPASSWORD, AWS_SECRET_ACCESS_KEY ...
SECRET_VARIABLE = re.compile(r"(TOKEN|SECRET|PASSWORD|(^|_)(API)?KEY)S?$", re.IGNORECASE)
SHORTEST_SECRET = 6  # shorter ones stand in ordinary words
SHAPES = (
    (re.compile(r"\b(hf|api_org)_[A-Za-z0-9]{8,}"), r"\1_..."),
    (re.compile(r"(hf|api_org)_[A-Za-z0-9]{30,}"), r"\1_..."),
    (re.compile(r"(wandb_v1)_\w+"), r"\1_..."),
    (re.compile(r"(://[^/\s:@]*):\S+@"), r"\1:...@"),
    (re.compile(r"((?:password|api[_-]?key|access_token)=)[^\s&#,)]+", re.IGNORECASE), r"\1..."),
)
_secrets: set[str] = set()


def keep_secret(*values: str | None) -> None:
    """Remember secrets that were given, so that no message, traceback or report of this process shows them.

    Example:
        >>> keep_secret("correct-horse")
        >>> mask_tokens("the key correct-horse is too short")
        'the key ... is too short'
    """
    _secrets.update(value for value in values if value and len(value) >= SHORTEST_SECRET)


def mask_tokens(text: str) -> str:
    """Hide everything that is, or looks like, a token, a key or a password.

    Hidden are what `keep_secret` was told, the values of environment variables with names such as HF_TOKEN, WANDB_API_KEY
    and PGPASSWORD, tokens of Hugging Face and of Weights & Biases, and passwords in addresses.

    Example:
        >>> mask_tokens("--hub_tokne hf_abcdefghijkl is unknown")
        '--hub_tokne hf_... is unknown'
        >>> mask_tokens("postgresql://me:secret@host/db is down")
        'postgresql://me:...@host/db is down'
    """
    given = (value for name, value in os.environ.items() if SECRET_VARIABLE.search(name))
    pieces = {piece for value in given for piece in (value.strip(), *re.split(r"[\s,]+", value)) if len(piece) >= 8}
    for secret in sorted(pieces | _secrets, key=len, reverse=True):
        text = text.replace(secret, "hf_..." if secret.startswith("hf_") else "...")
    for shape, masked in SHAPES:
        text = shape.sub(masked, text)
    return text


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


def visible(name: str) -> str:
    r"""Return the name of a file or a weight as a terminal may show it: what is not printable is escaped.

    Example:
        >>> visible("red\x1b[31m coat.png")
        'red\\x1b[31m coat.png'
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in name
    )


def is_text(name: str) -> bool:
    r"""Tell whether a name can be written into a record: names of files that are no UTF-8 hold halves of letters.

    Example:
        >>> is_text("café.png"), is_text("caf\udce9.png")
        (True, False)
    """
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)


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
    Tokens in it are masked, and it is made `printable`.
    """

    def __init__(self, message: object = ""):
        super().__init__(printable(str(message)))


# What a full disk, a quota and a limit on the size of files say; libraries in Rust tell it by their number alone.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def unwritable(path: str | os.PathLike[str], error: Exception, remedy: str = "choose another place") -> Exception:
    """Return the error to raise for a file or a folder that cannot be written.

    Args:
        path: The file or folder.
        error: Of the system or of a library.
        remedy: What the message proposes, for a full disk besides making room.

    Returns:
        RunStopped if the disk is full, which no input can mend, otherwise (a read-only folder, a file in its place) InputError.

    Example:
        >>> unwritable("out/a.json", OSError(errno.EACCES, "Permission denied"))
        InputError('out/a.json cannot be written (Permission denied); choose another place.')
    """
    reason = (getattr(error, "strerror", None) or one_line(error))[:200]
    full = getattr(error, "errno", None) in FULL or any(f"(os error {number})" in str(error) for number in FULL)
    sentence = f"{os.fspath(path)} cannot be written ({reason}); {'make room, or ' if full else ''}{remedy}."
    return RunStopped(sentence) if full else InputError(sentence)


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
