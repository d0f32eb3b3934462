"""One work in a process of its own, measured at 40 points."""

import multiprocessing
import os
import sys
import tempfile
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

from tests.processes import CONTEXT
from tests.soak.judging import Watch
from tests.soak.work import WORKS

SAMPLES = 40


def run_work(place: int, times: int) -> list[tuple[int, list[float]]]:
    """Repeat one of the works in a process of its own.

    Args:
        place: In `WORKS`.
        times: Units of work.

    Returns:
        The samples of its watch.

    Raises:
        SystemExit: If the process ends before it is through.
    """
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    CONTEXT.set_forkserver_preload(["tests.preload"])
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_work, args=(place, times, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        sys.exit("The work ended before it was through; its error stands above.")
    finally:
        process.join()


def _work(place: int, times: int, sender: Connection) -> None:
    multiprocessing.set_start_method("fork", force=True)  # as in a process that was started from a shell
    warnings.simplefilter("ignore")
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # the trainer prints its log
    watch = Watch(max(1, times // SAMPLES))
    with tempfile.TemporaryDirectory() as folder:
        WORKS[place].run(times, watch, Path(folder))
    sender.send(watch.samples)
