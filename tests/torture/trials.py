"""Trials: a command is killed at a random moment, looked at, run again, and compared with an undisturbed run."""

import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.torture.commands import Command, fresh
from tests.torture.scenarios import Scenario, run_to_end, state_of


@dataclass(frozen=True)
class Trial:
    """What became of one kill.

    Attributes:
        scenario: Name of the command.
        moment: Seconds after its start.
        verdict: "killed", or "ended before" if it was too late.
        problems: What was wrong afterwards.
    """

    scenario: str
    moment: float
    verdict: str
    problems: tuple[str, ...] = ()


def trials(scenario: Scenario, inputs: Path, base: Path, kills: int, seed: int = 0) -> Iterator[Trial]:
    """Kill a command as often as is asked, at moments spread over the time that an undisturbed run takes.

    Args:
        scenario: The command.
        inputs: What `write_inputs` wrote.
        base: A folder to work in.
        kills: How often.
        seed: Draws the moments.
    """
    before, work = base / "before", base / "work"
    fresh(work)  # the same place every time: some files hold absolute paths
    for name in scenario.inputs:
        copy = shutil.copytree if (inputs / name).is_dir() else shutil.copy2
        copy(inputs / name, work / name)
    scenario.prepare(work)
    old = state_of(work)
    shutil.rmtree(before, ignore_errors=True)
    shutil.copytree(work, before, symlinks=True)
    began = time.monotonic()
    run_to_end(scenario.words, work)
    duration = time.monotonic() - began
    new = state_of(work)
    draw = random.Random(f"{scenario.name} {seed}")
    done = 0
    for attempt in range(3 * kills):
        if done == kills:
            return
        moment = duration * (attempt % kills + draw.random()) / kills
        shutil.rmtree(work)
        shutil.copytree(before, work, symlinks=True)
        began = time.monotonic()
        trial = _trial(scenario, work, moment, old, new)
        if trial.verdict == "killed":
            done += 1
        else:  # the machine has become faster
            duration = min(duration, time.monotonic() - began)
        yield trial


def _trial(scenario: Scenario, work: Path, moment: float, old: dict[str, Any], new: dict[str, Any]) -> Trial:
    began = time.monotonic()
    command = Command(list(scenario.words), work)
    command.process.join(max(0.0, began + moment - time.monotonic()))
    if command.process.exitcode is not None:
        return Trial(scenario.name, moment, "ended before")
    command.kill()
    problems = []
    if problem := scenario.problem(work, old, new):
        problems.append(f"right after the kill: {problem}")
    again = Command(list(scenario.words), work)
    status = again.end()
    if status == 2 and scenario.refuses_finished and "exists and is not empty" in again.output():
        status = 0  # it was killed in the moment between its last write and its end
    if status:
        problems.append(f"the second run ended with {status}: {again.output()[-1500:]}")
    else:
        problems += _differences(state_of(work), new)
    return Trial(scenario.name, moment, "killed", tuple(problems))


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    left = sorted(found.keys() - wanted.keys())
    missing = sorted(wanted.keys() - found.keys())
    other = [
        f"{name}{where}"
        for name in sorted(found.keys() & wanted.keys())
        if (where := first_difference(found[name], wanted[name])) is not None
    ]
    lists = {"left over": left, "missing": missing, "different": other}
    return [f"{what}: {', '.join(names[:5])}" for what, names in lists.items() if names]


def first_difference(found: Any, wanted: Any) -> str | None:
    """Say where two values differ first, as `[key][place] found, not wanted`; None if they are equal."""
    if found == wanted:
        return None
    if isinstance(found, dict) and isinstance(wanted, dict) and found.keys() == wanted.keys():
        pairs = [(key, found[key], wanted[key]) for key in found]
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        pairs = list(zip(range(len(found)), found, wanted, strict=True))
    else:
        return f" {str(found)[:100]}, not {str(wanted)[:100]}"
    key, where = next((key, where) for key, one, two in pairs if (where := first_difference(one, two)) is not None)
    return f"[{key!r}]{where}"


def table(counts: dict[str, Counter[str]]) -> str:
    """Return the counts as a table in Markdown."""
    lines = ["| command | killed | too late | went on and equal | problems |", "| --- | --- | --- | --- | --- |"]
    for name, count in counts.items():
        equal = count["killed"] - count["problems"]
        lines.append(f"| {name} | {count['killed']} | {count['ended before']} | {equal} | {count['problems']} |")
    return "\n".join(lines)
