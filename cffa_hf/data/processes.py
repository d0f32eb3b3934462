"""Work that several processes share: results in order, only a few pieces of it in memory, and no process left behind."""

import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, TypeVar

from cffa_hf.errors import RunStopped

Item = TypeVar("Item")
Result = TypeVar("Result")

_shared: Any = None


def processor_count() -> int:
    """Return how many processors this process may use, at most 16."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return min(16, len(usable))


def ordered_map(
    function: Callable[[Any, Item], Result],
    items: Iterable[Item],
    *,
    shared: Any = None,
    processes: int | None = None,
) -> Iterator[Result]:
    """Apply a function to items in several processes, and yield the results in the order of the items.

    Items are taken from their iterator as results are fetched: at most two for each process are in memory.

    Args:
        function: Of a module, called with `shared` and an item.
        items: Anything that can be pickled.
        shared: What every call needs; it goes to each process once.
        processes: How many; by default one for each processor, at most 16; 1: this one.

    Raises:
        RunStopped: If one of the processes was killed.
    """
    processes = processes or processor_count()
    if processes == 1:
        yield from (function(shared, item) for item in items)
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    waiting: deque[Future[Result]] = deque()
    with ProcessPoolExecutor(processes, context, _begin, (shared,)) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(_call, function, item))
                if len(waiting) >= 2 * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise RunStopped(
                "A process that prepares the data was killed, perhaps for want of memory: what it had finished is kept "
                "where that is possible, so run the same command again."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _begin(shared: Any) -> None:
    """Prepare a process: keep what all calls need, and end with the process that started this one, even if it is killed."""
    global _shared
    _shared = shared
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are parallel already
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _call(function: Callable[[Any, Item], Result], item: Item) -> Result:
    return function(_shared, item)
