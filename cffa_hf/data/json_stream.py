"""JSON files of any size, read entry by entry."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ijson

from cffa_hf.errors import InputError, one_line

_KINDS = {"[": "a list", "{": "an object"}


def stream_list(file: Path) -> Iterator[Any]:
    """Yield the items of the list that a JSON file holds.

    Raises:
        InputError: If the file holds something else, or says after which row it is damaged.
    """
    yield from _guarded(file, "[", lambda stream: ijson.items(stream, "item", use_float=True))


def stream_object(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of the object that a JSON file holds, also those of a key that is there twice.

    Raises:
        InputError: If the file holds something else, or says after which row it is damaged.
    """
    yield from _guarded(file, "{", lambda stream: ijson.kvitems(stream, "", use_float=True))


def _guarded(file: Path, opening: str, read: Any) -> Iterator[Any]:
    row = 0
    try:
        with file.open("rb", buffering=2**20) as stream:
            start = stream.read(4096)
            if start.startswith(b"\xef\xbb\xbf"):
                start = start[3:]
                stream.seek(3)
            else:
                stream.seek(0)
            first = start.lstrip()[:1].decode("latin-1")
            if first != opening:
                found = _KINDS.get(first, f"{first!r} in its first place" if first else "nothing")
                raise InputError(
                    f"{file}: holds {found}, but must be {_KINDS[opening]} with an entry for each image; use the "
                    "original file."
                )
            for entry in read(stream):
                yield entry
                row += 1
    except ijson.JSONError as error:
        where = f"after row {row - 1}" if row else "in the first row"
        raise InputError(
            f"{file}: no valid JSON {where} ({one_line(error, 80)}); the file is truncated or damaged: copy or unpack "
            "it again."
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: no valid JSON in UTF-8 ({error}); copy or unpack the file again.") from error
    except OSError as error:
        raise InputError(f"{file}: the file cannot be read ({error.strerror}); check its permissions.") from error
