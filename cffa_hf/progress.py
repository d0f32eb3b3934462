"""Progress bars: on a terminal as usual; in a log file a line every half minute instead of thousands."""

import sys
from typing import Any

from tqdm import std
from tqdm.auto import tqdm

SECONDS = 30.0
"""Between two lines of a log file; what is done sooner leaves none."""


class ProgressLines(std.tqdm):
    """A progress bar for files: whole lines, few of them. Arguments as for `tqdm.tqdm`."""

    disable: bool = True  # until it is made: an interruption within `__init__` leaves an object that is closed, too

    def __init__(self, *args: Any, **kwargs: Any):
        lines = {"mininterval": SECONDS, "delay": SECONDS, "miniters": 1, "leave": False}
        form = "{desc}: {n_fmt} of {total_fmt}, {remaining} left"
        super().__init__(*args, **{**kwargs, **lines, "bar_format": form})

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Print a line."""
        self.fp.write(f"{str(self) if msg is None else msg}\n")
        self.fp.flush()
        return True

    def close(self) -> None:
        """End without wiping anything."""
        if not self.disable:
            self.disable = True
            self._decr_instances(self)


def progress_bar(*args: Any, **kwargs: Any) -> Any:
    """Make a progress bar.

    Args:
        *args: As for `tqdm.tqdm`.
        **kwargs: As for `tqdm.tqdm`.
    """
    file = kwargs.get("file") or sys.stderr
    is_seen = file.isatty() or "ipykernel" in sys.modules
    return (tqdm if is_seen else ProgressLines)(*args, **kwargs)
