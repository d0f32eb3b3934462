"""JSON files of any size, read entry by entry."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ijson
import numpy as np

from cffa_hf.errors import InputError, one_line

_KINDS = {"[": "a list", "{": "an object"}
DEEPEST = 100
"""Lists and objects within each other: ijson needs time and memory that grow with the square of their number."""
_OTHERS = bytes(set(range(256)) - set(b'"[]{}'))


class ShallowFile:
    """A JSON file whose lists and objects are counted as it is read.

    Args:
        stream: Open at the beginning of the text.
        name: For the message.
    """

    def __init__(self, stream: BinaryIO, name: Path) -> None:
        self.stream, self.name = stream, name
        self._depth, self._in_string, self._cut_escape = 0, 0, b""

    def read(self, size: int = -1) -> bytes:
        """Read as a file does.

        Raises:
            InputError: More than `DEEPEST` lists and objects lie within each other.
        """
        content = self.stream.read(size)
        text = self._cut_escape + content
        self._cut_escape = text[-1:] if (len(text) - len(text.rstrip(b"\\"))) % 2 else b""
        text = text[: len(text) - len(self._cut_escape)].replace(b"\\\\", b"").replace(b'\\"', b"")
        letters = np.frombuffer(text.translate(None, _OTHERS), np.uint8)
        if len(letters):
            inside = (np.cumsum(letters == ord('"'), dtype=np.uint8) & 1) ^ self._in_string
            self._in_string = int(inside[-1])
            folded = np.where(inside, 0, letters | 0x20)  # [ and {, ] and } differ in this bit alone
            steps = (folded == ord("{")).astype(np.int8) - (folded == ord("}")).astype(np.int8)
            depths = self._depth + np.cumsum(steps[steps != 0], dtype=np.int64)
            if len(depths):
                self._depth = int(depths[-1])
                if depths.max() > DEEPEST:
                    raise InputError(
                        f"{self.name}: has more than {DEEPEST} lists and objects within each other; use the original file."
                    )
        return content


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
            for entry in read(ShallowFile(stream, file)):
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
