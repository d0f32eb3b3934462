"""Keep freed memory while a model trains on a CPU: every step asks for the same memory again.

glibc gives large blocks back to the system when they are freed, and the system clears every page anew when it is touched
again: 80,000 page faults in each step of ViT-B/16 at batch 8.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # of mallopt(3)
NEVER = -1
KEPT_BLOCK = 2**30  # bytes; larger blocks go back to the system all the same
USUAL_BLOCK = 32 * 2**20  # where glibc's own rule ends


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep memory that is freed inside, and give it back at the end; without effect where the C library is not glibc."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "gnu_get_libc_version"):
        yield
        return
    library.mallopt(MMAP_THRESHOLD, KEPT_BLOCK)
    library.mallopt(TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        library.mallopt(MMAP_THRESHOLD, USUAL_BLOCK)
        library.mallopt(TRIM_THRESHOLD, 2 * USUAL_BLOCK)
        library.malloc_trim(0)
