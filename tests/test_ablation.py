"""The ablation runs at its quick size, goes on where it stopped, and its statistics are those of their definition."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "benchmarks"))

from ablation_report import Measured, exchange_test, resampled_difference  # noqa: E402


def measured(values, queries) -> Measured:
    """A method with a value of Rank-1 for each seed and identity, in percent of its queries."""
    queries = np.array(queries)
    return Measured("method", 0.0, {"rank1": np.array(values) * queries}, queries, 1.0, [])


def run_ablation(*words) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "ablation.py"), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def test_means_are_over_queries():
    one = measured([[100, 0], [50, 0]], [3, 1])
    assert one.of_seeds("rank1").tolist() == [75, 37.5]
    assert one.mean("rank1") == 56.25


def test_intervals_hold_the_mean_and_shrink_with_more_identities():
    generator = np.random.default_rng(3)
    few, many = (measured(generator.uniform(0, 100, (3, count)), [4] * count) for count in (20, 2000))
    widths = []
    for method in (few, many):
        low, high = resampled_difference(method, None, "rank1")
        assert low < method.mean("rank1") < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 4


def test_equal_methods_do_not_differ_and_better_ones_do():
    generator = np.random.default_rng(4)
    base = generator.uniform(20, 60, (3, 50))
    first, better = measured(base, [4] * 50), measured(base + 10, [4] * 50)
    assert resampled_difference(first, first, "rank1") == (0, 0)
    assert exchange_test(first, first, "rank1") == 1
    low, high = resampled_difference(first, better, "rank1")
    # Seeds are drawn for the difference of the two, which is 10 in each of them.
    assert low == pytest.approx(10) == high
    assert exchange_test(first, better, "rank1") == pytest.approx(1 / 10_001)


@pytest.mark.slow
def test_the_ablation_runs_goes_on_and_writes_its_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- methods: written by benchmarks/ablation.py -->\nold\n<!-- end of methods -->\nafter\n"
    )
    words = [
        "--quick",
        "--output",
        str(tmp_path / "out"),
        "--only",
        "cffa",
        "--write",
        str(page),
        "--jobs",
        "2",
    ]
    printed = run_ablation(*words, "--seeds", "1")
    assert "3 cells, 3 to run" in printed  # with clean captions and at two rates of noise
    printed = run_ablation(*words, "--seeds", "1", "2")
    assert "6 cells, 3 to run" in printed  # a finished cell is not run again
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| cffa | " in text
    assert "50% shuffled" in text
    assert (tmp_path / "ablation.png").stat().st_size > 1000
