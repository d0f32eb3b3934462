"""The errors that end in one sentence: a mistake in the input, and a run that the world stopped."""

import os
import re


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


class InputError(ValueError):
    """A mistake in the input that the user can fix.

    The message is one whole sentence that names the file, the row or the field, what is wrong with it and the remedy.
    The scripts print it without a traceback and exit with status 2. Tokens in it are masked.
    """

    def __init__(self, message: object = ""):
        super().__init__(mask_tokens(str(message)))


class RunStopped(RuntimeError):
    """A run cannot go on, through no mistake in its input: the message says why, what is saved and what to do."""


class LossNotFinite(RunStopped):
    """A run cannot go on because a loss or the gradient is not finite."""


def plain_error(error: InputError) -> InputError:
    """Take the sentence of an InputError out of the traceback that a `DataLoader` puts around it."""
    text = str(error)
    if "Original Traceback" not in text:
        return error
    return InputError(text.rpartition(f"{InputError.__name__}: ")[2].strip())
