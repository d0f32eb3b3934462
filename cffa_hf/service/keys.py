"""Keys that open the service: where they come from, and how one is compared."""

import hmac
from collections.abc import Mapping, Sequence
from pathlib import Path

from cffa_hf.errors import InputError, keep_secret
from cffa_hf.names import KEY_VARIABLE

SHORTEST = 16


def read_keys(file: Path | None, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Read the keys of a file, one a line, and that of the environment variable `CFFA_HF_SERVICE_KEY`.

    Args:
        file: Blank lines, and lines that begin with `#`, are passed over; None: no file.
        environment: Of the process.

    Returns:
        All of them; no key if there is neither a file nor the variable.

    Raises:
        InputError: If the file cannot be read or holds no key, or a key is short or not ASCII; no message quotes a key.
    """
    found: list[tuple[str, str]] = []
    if file is not None:
        try:
            if file.exists() and not file.is_file():
                raise OSError(f"{file} is no regular file")
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: the keys cannot be read; name a text file with one key a line.") from error
        numbered = enumerate((line.strip() for line in lines), start=1)
        found = [(f"{file}, line {number}", line) for number, line in numbered if line and not line.startswith("#")]
        if not found:
            raise InputError(f"{file}: there is no key in this file; write one on a line of its own.")
    if KEY_VARIABLE in environment:
        found.append((KEY_VARIABLE, environment[KEY_VARIABLE].strip()))
    for place, key in found:
        if len(key) < SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
            raise InputError(
                f"{place}: a key needs at least {SHORTEST} ASCII characters without spaces; "
                "`openssl rand -hex 32` makes a good one."
            )
    keep_secret(*(key for _, key in found))
    return tuple(key for _, key in found)


def matching_key(authorization: bytes, keys: Sequence[str]) -> int | None:
    """Find the key of a header `Authorization: Bearer KEY`, in a time that does not depend on the keys' characters.

    Args:
        authorization: Value of the header.
        keys: Those that open the service.

    Returns:
        Position of the key; None if it is none of them.

    Example:
        >>> matching_key(b"Bearer abc", ["xyz", "abc"]), matching_key(b"Basic abc", ["abc"])
        (1, None)
    """
    scheme, _, given = authorization.partition(b" ")
    matches = [hmac.compare_digest(given.strip(), key.encode()) for key in keys]
    return matches.index(True) if scheme.lower() == b"bearer" and any(matches) else None
