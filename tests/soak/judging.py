"""What is measured while work is repeated, and what counts as a leak."""

import gc
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psutil

WARM_UP = 0.25  # share of the samples that caches, pools and allocators may take to fill
KIB = 1024


@dataclass(frozen=True)
class Bound:
    """How far a measure may grow; it leaks if its slope passes both.

    Attributes:
        name: For the table.
        each: Growth for each unit of work.
        total: Growth over the measured part of the run, which is noise up to there.
    """

    name: str
    each: float
    total: float


# A quarter of a KiB is less than one small object with its attributes; allocators take memory in steps, so that 4 MiB over
# a run say nothing. A unit that keeps one object in ten leaks; what is remembered and let go in turns makes up to 250.
# Descriptors, threads and processes come and go with pools: fewer than 3 over a run say nothing, and a leak of one in a
# hundred units shows.
BOUNDS = (
    Bound("resident memory, KiB", 0.25, 4 * KIB),
    Bound("Python objects", 0.1, 300),
    Bound("open descriptors", 0, 3),
    Bound("threads", 0, 3),
    Bound("child processes", 0, 3),
)


def measure() -> list[float]:
    """Measure this process and the memory of its children, in the order of `BOUNDS`."""
    gc.collect()
    process = psutil.Process()
    children = process.children(recursive=True)
    resident = process.memory_info().rss
    for child in children:
        try:
            resident += child.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return [resident / KIB, len(gc.get_objects()), process.num_fds(), process.num_threads(), len(children)]


class Watch:
    """Samples of a run.

    Args:
        every: Units of work between two samples.
    """

    def __init__(self, every: int):
        self.every, self.done = every, 0
        self._numbers = array("d")  # no objects, which would be counted

    def step(self) -> None:
        """Count a unit of work, and measure if it is time."""
        self.done += 1
        if self.done % self.every == 0:
            self._numbers.extend([self.done, *measure()])

    @property
    def samples(self) -> list[tuple[int, list[float]]]:
        """Return units of work that were done, and what was measured then."""
        rows = np.array(self._numbers).reshape(-1, 1 + len(BOUNDS))
        return [(int(row[0]), row[1:].tolist()) for row in rows]


@dataclass(frozen=True)
class Verdict:
    """What became of one measure.

    Attributes:
        name: Of the measure.
        start: At the first sample.
        settled: At the first sample after the warm-up.
        end: At the last sample.
        per_thousand: Slope after the warm-up, for 1,000 units.
        allowed: The slope that is no leak, for 1,000 units.
        leaks: Whether it grows beyond its bound.
    """

    name: str
    start: float
    settled: float
    end: float
    per_thousand: float
    allowed: float
    leaks: bool


def judge(samples: Sequence[tuple[int, Sequence[float]]]) -> list[Verdict]:
    """Fit a line to each measure after the warm-up, and compare its slope with the bound.

    Args:
        samples: Units of work that were done, and what was measured then; at least eight.

    Raises:
        ValueError: If there are too few samples to say anything.
    """
    if len(samples) < 8:
        raise ValueError(f"{len(samples)} samples show no slope; at least eight are needed")
    first = int(len(samples) * WARM_UP)
    units = np.array([done for done, _ in samples], dtype=float)
    values = np.array([measured for _, measured in samples], dtype=float)
    span = units[-1] - units[first]
    verdicts = []
    for column, bound in zip(values.T, BOUNDS, strict=True):
        slope = _slope(units[first:], column[first:])
        allowed = max(bound.each, bound.total / span)
        verdicts.append(
            Verdict(bound.name, column[0], column[first], column[-1], 1000 * slope, 1000 * allowed, slope > allowed)
        )
    return verdicts


def _slope(units: np.ndarray, values: np.ndarray) -> float:
    """Return the median slope of all pairs (Theil and Sen): one step of an allocator, or one odd sample, moves it little."""
    before, after = np.triu_indices(len(units), k=1)
    return float(np.median((values[after] - values[before]) / (units[after] - units[before])))
