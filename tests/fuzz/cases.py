"""One case: whole files are copied, one of them is damaged, and what reads them must end well or in one sentence.

Cases run in a process of their own, with bounded memory, that is killed when one takes too long.
"""

import os
import random
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.processes import CONTEXT

SECONDS, PREPARATION, MEMORY = 40, 600, 6 * 2**30
READY = "ready"
LONGEST = 500


@dataclass(frozen=True)
class Outcome:
    """How a case ended.

    Attributes:
        target: Name of the target.
        seed: Of the case.
        damage: What was done to which file.
        verdict: "well", "refused", or what is wrong.
        detail: The sentence, or the traceback.
    """

    target: str
    seed: int
    damage: str
    verdict: str
    detail: str = ""

    @property
    def failed(self) -> bool:
        """Tell whether the case shows a bug."""
        return self.verdict not in ("well", "refused")


def run_cases(name: str, seeds: Sequence[int]) -> Iterator[Outcome]:
    """Run cases of a target one after another; a process that dies or hangs costs its case alone."""
    waiting = list(seeds)
    while waiting:
        receiver, sender = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_work, args=(name, waiting, sender), daemon=True)
        process.start()
        sender.close()
        if not receiver.poll(PREPARATION) or receiver.recv() != READY:
            raise RuntimeError(f"the whole files of {name} cannot be read; its process says why")
        while waiting:
            try:
                answer = receiver.recv() if receiver.poll(SECONDS) else None
                verdict = "hang"
            except EOFError:
                answer, verdict = None, "died"
            if answer is None:
                yield Outcome(name, waiting.pop(0), "", verdict, f"nothing was heard for {SECONDS} s")
                break
            waiting.pop(0)
            yield answer
        process.kill()
        process.join()


def _work(name: str, seeds: Sequence[int], sender) -> None:
    import datasets

    from tests.fuzz.targets import TARGETS

    target = next(target for target in TARGETS if target.name == name)
    warnings.simplefilter("ignore")
    if hasattr(os, "sched_setaffinity"):  # one processor: nothing is shared out to processes, which would take seconds
        os.sched_setaffinity(0, {random.choice(sorted(os.sched_getaffinity(0)))})
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"
        whole = Path(folder) / "whole"
        whole.mkdir()
        target.prepare(whole)
        target.read(whole) if target.name != "settings" else None  # whole files are read well, and libraries are loaded
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY, resource.RLIM_INFINITY))
        sender.send(READY)
        with open(os.devnull, "w") as nothing:  # bars and warnings of thousands of cases
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
        for seed in seeds:
            sender.send(_case(target, seed, whole, Path(folder) / f"case{seed}"))


def _case(target, seed: int, whole: Path, folder: Path) -> Outcome:
    from cffa_hf.errors import InputError, RunStopped, plain_error

    rng = random.Random(f"{target.name}-{seed}")
    shutil.copytree(whole, folder, symlinks=True)
    done = target.damage(folder, rng)
    try:
        target.read(folder)
        return Outcome(target.name, seed, done, "well")
    except (InputError, RunStopped) as error:
        sentence = str(plain_error(error)) if isinstance(error, InputError) else str(error)
        return Outcome(target.name, seed, done, _judge(sentence, str(folder)), sentence)
    except (Exception, SystemExit) as error:
        return Outcome(target.name, seed, done, type(error).__name__, traceback.format_exc())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _judge(sentence: str, folder: str) -> str:
    """Check that a refusal is one short printable sentence."""
    short = sentence.replace(folder, "")
    if len(short) > LONGEST:
        return f"{len(short)} characters"
    if "\n" in sentence or "Traceback" in sentence:
        return "several lines"
    if not sentence.endswith("."):
        return "no full stop"
    try:
        sentence.encode("utf-8")
    except UnicodeEncodeError:
        return "cannot be printed"
    return "refused"


def _address_space() -> int:
    """Return how much is mapped already, in bytes: the libraries take gigabytes of it."""
    if not sys.platform.startswith("linux"):
        return 0
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
