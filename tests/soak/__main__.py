"""`python -m tests.soak`: repeats work for an hour, and fails if memory, descriptors, threads or processes grow with it.

Each kind of work runs in a process of its own, which is measured at 40 points. After a quarter of them, in which caches and
pools fill, a line is fitted; ends with 1 if one of its slopes is a leak.
"""

import argparse
import sys

from tests.soak.judging import Verdict, judge
from tests.soak.running import run_work
from tests.soak.work import WORKS

TIMES = {"steps": 10_000, "evaluations": 100, "searches": 50_000, "requests": 20_000, "openings": 200}
HEAD = "| work | measure | first | after a quarter | end | slope per 1,000 | allowed | |\n" + "| --- " * 8 + "|"


def main() -> None:
    """Run all works one after another, and print a table of what grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, times in TIMES.items():
        parser.add_argument(f"--{option}", type=int, default=times, help="how many; 0: none; default: %(default)s")
    options = vars(parser.parse_args())
    print(HEAD)
    leaks = []
    for place, work in enumerate(WORKS):
        if options[work.option]:
            for verdict in judge(run_work(place, options[work.option])):
                print(row(f"{options[work.option]:,} {work.name}", verdict), flush=True)
                leaks += [f"{verdict.name} of {work.name}"] if verdict.leaks else []
    if leaks:
        sys.exit(f"leaks: {'; '.join(leaks)}")


def row(name: str, verdict: Verdict) -> str:
    """Return a row of the table."""
    values = [verdict.start, verdict.settled, verdict.end, verdict.per_thousand, verdict.allowed]
    cells = " | ".join(f"{value:,.1f}".removesuffix(".0") for value in values)
    return f"| {name} | {verdict.name} | {cells} | {'LEAK' if verdict.leaks else 'flat'} |"


if __name__ == "__main__":
    main()
