"""A share of the torture in every run of the tests; `make torture` kills every command fifty times."""

import subprocess
import sys

import pytest

from tests.processes import REPOSITORY
from tests.torture.snapshots import snapshot

QUICK = ("convert", "index, up to date", "push --dry-run", "caches of rows, ids, images")


@pytest.mark.slow
def test_commands_survive_being_killed():
    words = [sys.executable, "-m", "tests.torture", "--kills", "2", "--only", *QUICK]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("| 2 | 0 |\n") == len(QUICK), done.stdout


def test_what_is_left_over_is_seen(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".a.txt.123.unfinished").touch()
    (tmp_path / "tmp" / "tmpabc").mkdir(parents=True)
    assert set(snapshot(tmp_path)) == {"out/.a.txt.123.unfinished", "tmp/tmpabc/"}
