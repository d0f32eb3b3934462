"""Commands in forked processes with everything imported, which can be killed with all that they have started."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
LOG = "log"


def start_server() -> None:
    """Set up the environment of all commands and what the fork server imports."""
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    CONTEXT.set_forkserver_preload(["tests.torture.preload"])
    first = CONTEXT.Process(target=time.sleep, args=(0,))  # the imports are no part of any command's time
    first.start()
    first.join()


def become(words: list[str], work: str) -> None:
    """Run a command, in the child process, with its folders for temporary files and caches below `work`."""
    os.setsid()
    os.chdir(work)
    for name in ("tmp", "cache"):
        Path(name).mkdir(exist_ok=True)
    output = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ["TMPDIR"], tempfile.tempdir = f"{work}/tmp", None
    import datasets

    datasets.config.HF_DATASETS_CACHE = Path(work) / "cache"
    multiprocessing.set_start_method("fork", force=True)  # as in a process that was started from a shell
    if words == ["caches"]:
        from tests.torture import caches

        caches.main()
        return
    from cffa_hf.cli import main

    sys.argv = ["cffa-hf", *words]
    sys.exit(main(words))


class Command:
    """A running command.

    Args:
        words: Of `cffa-hf`, or "caches".
        work: Folder that it runs in; what it prints stands in `log` there.
    """

    def __init__(self, words: list[str], work: Path):
        self.log = work / LOG
        self.log.unlink(missing_ok=True)
        self.process = CONTEXT.Process(target=become, args=(words, str(work)))
        self.process.start()

    def end(self, seconds: float = 600) -> int:
        """Wait for the end; the exit code, negative after a signal."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.kill()
            raise TimeoutError(self.output())
        return self.process.exitcode

    def kill(self) -> None:
        """Kill it and all that it has started, and wait until they are gone."""
        group = self.process.pid or 0
        self.process.join(0)
        for number in (group, -group):  # before it leads a group there is only itself
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.process.join()
        end = time.monotonic() + 60
        while _has_members(group) and time.monotonic() < end:
            time.sleep(0.005)

    def output(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def _has_members(group: int) -> bool:
    try:
        os.kill(-group, 0)
    except ProcessLookupError:
        return False
    return True


def fresh(work: Path) -> None:
    """Empty a folder."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
