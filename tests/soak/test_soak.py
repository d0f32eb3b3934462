"""A quick share of the long runs, and leaks that are planted; `make soak` runs all of it."""

import mmap
import os
import threading

import pytest

from tests.soak.judging import BOUNDS, KIB, Watch, judge
from tests.soak.running import run_work
from tests.soak.work import WORKS

SHORT = {"steps": 40, "evaluations": 8, "searches": 80, "requests": 120, "openings": 8}


def leaking(verdicts):
    return [verdict.name for verdict in verdicts if verdict.leaks]


class Plain:
    """An object that the collector knows."""


def keep(kind, kept):
    """Keep one more of something for ever; gives how to let go of it."""
    if kind == "resident memory, KiB":
        fresh = mmap.mmap(-1, 256 * KIB)  # of the system, since the allocator may have some left
        fresh.write(os.urandom(256 * KIB))
        kept.append(fresh)
    elif kind == "Python objects":
        kept.extend(Plain() for _ in range(20))
    elif kind == "open descriptors":
        descriptor = os.open(os.devnull, os.O_RDONLY)
        return lambda: os.close(descriptor)
    elif kind == "threads":
        released = threading.Event()
        thread = threading.Thread(target=released.wait)
        thread.start()
        return lambda: (released.set(), thread.join())
    else:
        child = os.posix_spawnp("sleep", ["sleep", "600"], os.environ)
        return lambda: (os.kill(child, 9), os.waitpid(child, 0))
    return kept.clear


@pytest.mark.parametrize("kind", [bound.name for bound in BOUNDS])
def test_a_planted_leak_is_found(kind):
    watch, kept, releases = Watch(4), [], []
    try:
        for _ in range(48):
            releases.append(keep(kind, kept))
            watch.step()
    finally:
        for release in releases:
            release()
    assert kind in leaking(judge(watch.samples))


def test_what_is_let_go_is_no_leak():
    watch = Watch(4)
    for _ in range(48):
        for bound in BOUNDS:
            kept = []
            keep(bound.name, kept)()
        watch.step()
    assert leaking(judge(watch.samples)) == []


def samples(resident):
    return [(100 * (place + 1), [value, 0, 0, 0, 0]) for place, value in enumerate(resident)]


def test_what_fills_at_the_start_and_single_steps_are_no_leak():
    filling = [100_000 + min(place, 5) * 20_000 for place in range(40)]
    step = [100_000 + (place > 20) * 3_000 for place in range(40)]
    growing = [100_000 + place * 150 for place in range(40)]
    assert leaking(judge(samples(filling))) == []
    assert leaking(judge(samples(step))) == []
    assert leaking(judge(samples(growing))) == ["resident memory, KiB"]
    assert judge(samples(growing))[0].per_thousand == pytest.approx(1500)


def test_too_few_samples_say_nothing():
    with pytest.raises(ValueError, match="at least eight"):
        judge(samples(range(7)))


@pytest.mark.slow
@pytest.mark.parametrize("place", range(len(WORKS)), ids=[work.name for work in WORKS])
def test_no_work_leaks_in_a_short_run(place):
    verdicts = judge(run_work(place, SHORT[WORKS[place].option]))
    # Caches and allocators still fill in so short a run; what is counted does not grow.
    assert set(leaking(verdicts)) <= {"resident memory, KiB"}
