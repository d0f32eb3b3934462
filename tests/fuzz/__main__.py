"""`python -m tests.fuzz`: mutated files for a given time, all targets in turn; ends with 1 if one shows a bug."""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.cases import Outcome, run_cases
from tests.fuzz.targets import TARGETS

BATCH = 50


def main() -> None:
    """Run rounds of cases until the time is over, and print a table of what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="how long; default: %(default)s")
    parser.add_argument("--seed", type=int, default=1_000_000, help="first seed; default: %(default)s")
    parser.add_argument("--only", nargs="+", metavar="TARGET", help="names of targets; default: all")
    parser.add_argument(
        "--out", type=Path, default=Path("fuzz-failures.txt"), help="where bugs go; default: %(default)s"
    )
    options = parser.parse_args()
    names = [target.name for target in TARGETS if not options.only or target.name in options.only]
    end, seed = time.monotonic() + 60 * options.minutes, options.seed
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    failures: list[Outcome] = []
    while time.monotonic() < end:
        for name in names:
            for outcome in run_cases(name, range(seed, seed + BATCH)):
                counts[name]["bug" if outcome.failed else outcome.verdict] += 1
                if outcome.failed:
                    failures.append(outcome)
                    with options.out.open("a", encoding="utf-8", errors="backslashreplace") as file:
                        file.write(
                            f"{outcome.target} {outcome.seed} [{outcome.damage}] {outcome.verdict}\n{outcome.detail}\n"
                        )
        seed += BATCH
    print("| read | cases | well | refused in a sentence | bugs |\n| --- | --- | --- | --- | --- |")
    for name, count in counts.items():
        print(f"| {name} | {sum(count.values()):,} | {count['well']:,} | {count['refused']:,} | {count['bug']} |")
    if failures:
        sys.exit(f"{len(failures)} bugs, written to {options.out}")


if __name__ == "__main__":
    main()
