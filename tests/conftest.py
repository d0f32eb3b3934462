"""Fixtures that every test may use."""

import runpy
import signal
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as of a shell that runs the tests in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Numbers recorded from the published implementation; README.md there says how."""
    return REPOSITORY / "tests" / "golden"


@pytest.fixture(scope="session")
def larger_golden_folder() -> Path:
    """The same recordings of a larger model, which are not part of the project."""
    folder = REPOSITORY.parent / "shared" / "golden"
    if not folder.is_dir():
        pytest.skip("the larger recordings are not beside this checkout; those of tests/golden are checked")
    return folder


@pytest.fixture(scope="session")
def browser():
    """A real browser, one for all tests: Playwright has one event loop in a process."""
    from tests.browser import open_browser

    with open_browser() as browser:
        yield browser


@pytest.fixture
def evaluate(monkeypatch):
    """Run the evaluation script in this process."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["run_eval.py", *map(str, words)])
        runpy.run_path(str(REPOSITORY / "run_eval.py"), run_name="__main__")

    return run
