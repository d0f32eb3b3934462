"""Pages of memory-mapped files, given back to the system after they were read, so that a process does not keep them all.

Arrow files are mapped, and whatever is read of them counts as resident memory of the process from then on: after an epoch
that is the whole file. Given back, a page stays in the system's page cache as long as there is room, and reading it again
costs some microseconds. Nothing happens where the system is another one than Linux, or where the data are in memory.
"""

import ctypes
import mmap
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

READS = 1024
"""Reads at random places after which pages are given back: measured, 60 MiB of rows or of token ids are resident by then.

Linux maps up to 64 KiB around a place that is read, and has to do it anew: 15 microseconds a read.
"""


class MappedPages:
    """The pages of the files in which some arrays or rows lie, as far as they are mapped.

    Args:
        source: Rows, or arrays that may lie in mapped files; they are kept, so that nothing else can come to lie in their place.
    """

    def __init__(self, source: Dataset | Sequence[np.ndarray]) -> None:
        self._source = source
        self._ranges = _mapped_ranges(_addresses(source))
        self._reads = 0

    def __reduce__(self) -> Any:
        return (MappedPages, (self._source,))  # they lie elsewhere in another process

    def count_read(self) -> None:
        """Take note of a read at a random place; give pages back after `READS` of them."""
        self._reads += 1
        if self._reads >= READS:
            self.release()

    def release(self) -> None:
        """Give all pages back to the system."""
        self._reads = 0
        for start, size in self._ranges:
            _advise(start, size, mmap.MADV_DONTNEED)


def _addresses(source: Dataset | Sequence[np.ndarray]) -> Iterator[int]:
    if not isinstance(source, Dataset):
        yield from (array.__array_interface__["data"][0] for array in source)
        return
    for column in source.data.columns:
        for chunk in column.chunks:
            yield from (buffer.address for buffer in chunk.buffers() if buffer is not None and buffer.size)


def _mapped_ranges(addresses: Iterable[int]) -> list[tuple[int, int]]:
    """Return start and size of each mapping of a file, not writable, in which one of the addresses is."""
    mappings = _file_mappings()
    starts = [start for start, _ in mappings]
    found = set()
    for address in addresses:
        place = bisect_right(starts, address) - 1
        if place >= 0 and address < mappings[place][1]:
            found.add(place)
    return [(mappings[place][0], mappings[place][1] - mappings[place][0]) for place in sorted(found)]


def _file_mappings() -> list[tuple[int, int]]:
    """Return start and end of all mappings of files that this process cannot write to, by start; none if it is not told."""
    if _advise is None or not hasattr(mmap, "MADV_DONTNEED"):
        return []
    found = []
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
            for line in file:
                bounds, rights, _, _, inode = line.split(maxsplit=5)[:5]
                # What is in memory only would be lost: a mapping without a file, or with changes of its own.
                if rights.startswith("r-") and inode != "0":
                    start, _, end = bounds.partition("-")
                    found.append((int(start, 16), int(end, 16)))
    except (OSError, ValueError):
        return []
    return sorted(found)


def _load_advise() -> Any:
    """Find the system's call that gives pages back; None where there is none."""
    try:
        function = ctypes.CDLL(None).madvise
    except (OSError, AttributeError, TypeError):
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    function.restype = ctypes.c_int
    return function


_advise = _load_advise()
