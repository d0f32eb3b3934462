"""`python -m tests.torture`: every command is killed at random moments; ends with 1 if one does not survive it."""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.torture.commands import start_server
from tests.torture.scenarios import SCENARIOS, write_inputs
from tests.torture.trials import table, trials


def main() -> None:
    """Kill all commands as often as is asked, and print a table of what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of each command; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="draws the moments; default: %(default)s")
    parser.add_argument("--only", nargs="+", metavar="COMMAND", help="names of commands in the table; default: all")
    options = parser.parse_args()
    start_server()
    counts: dict[str, Counter[str]] = {}
    failed = 0
    with tempfile.TemporaryDirectory(prefix="cffa-torture-") as folder:
        base = Path(folder)
        write_inputs(base / "inputs")
        for scenario in SCENARIOS:
            if options.only and scenario.name not in options.only:
                continue
            count = counts[scenario.name] = Counter()
            for trial in trials(scenario, base / "inputs", base, options.kills, options.seed):
                count[trial.verdict] += 1
                if trial.problems:
                    failed += 1
                    count["problems"] += 1
                    print(
                        f"{trial.scenario}, killed after {trial.moment:.2f} s:", *trial.problems, sep="\n  ", flush=True
                    )
            print(f"{scenario.name}: {dict(count)}", file=sys.stderr, flush=True)
    print(table(counts))
    if failed:
        sys.exit(f"{failed} problems")


if __name__ == "__main__":
    main()
