"""Bars on terminals, few lines elsewhere."""

import io

import pytest

from cffa_hf import progress
from cffa_hf.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_file_gets_no_bar_of_what_is_done_soon():
    file = io.StringIO()
    with progress_bar(range(1000), desc="reading", file=file) as bar:
        assert list(bar) == list(range(1000))
    assert file.getvalue() == ""


@pytest.mark.parametrize("total", [3, None])
def test_a_log_file_gets_whole_lines_of_what_takes_long(monkeypatch, total):
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    file = io.StringIO()
    with progress_bar(total=total, desc="reading", unit="image", file=file, leave=False) as bar:
        for _ in range(3):
            bar.update(1)
    lines = file.getvalue().splitlines()
    assert lines[-1].startswith(f"reading: 3 of {total or '?'}, ")
    assert lines[-1].endswith(" left")
    assert "\r" not in file.getvalue()


def test_a_terminal_gets_a_bar():
    file = Terminal()
    with progress_bar(range(3), desc="reading", file=file, mininterval=0) as bar:
        assert list(bar) == [0, 1, 2]
    assert "\r" in file.getvalue()


def test_a_bar_may_be_switched_off():
    file = io.StringIO()
    with progress_bar(total=2, disable=True, file=file) as bar:
        bar.update(2)
    assert file.getvalue() == ""
