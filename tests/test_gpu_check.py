"""The check of a GPU: what needs none of it runs here, and a machine without one is told so."""

import importlib.util
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from tests.processes import run_python

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPT = REPOSITORY / "benchmarks" / "gpu_check.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_check"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_machine_without_a_gpu_is_told_so(tmp_path):
    done = run_python(SCRIPT, "--output", tmp_path / "report.md")
    assert done.returncode == 0
    assert "There is no GPU" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_needs_no_gpu_runs(tmp_path):
    report = tmp_path / "report.md"
    parts = ["bfloat16", "two processes", "fp16"]
    done = run_python(SCRIPT, "--device", "cpu", "--quick", "--only", *parts, "--output", report)
    assert done.returncode == 0, done.stdout + done.stderr
    text = report.read_text()
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert "| float32 | 0.00% |" in text
    for part in parts:
        assert rows[part].endswith("| not run: needs a GPU |" if part == "fp16" else "| ok |")
    assert "| float32 | ours | " in text
    assert "| bfloat16 | " in text.partition("lowest cosine")[2]
    assert "configs/published/icfg_pedes.yaml | 60 |" in text
    assert "times in a week" in text


def row(script, losses, reference, *, tolerance=0.05, gradients=None, problem=""):
    logs = [[{"loss": loss, "grad_norm": norm} for loss, norm in values] for values in (losses, reference)]
    return script.verdict(script.Run("a", (), tolerance, gradients), *logs, problem, "1")


def test_other_losses_and_gradients_fail(script):
    assert row(script, [(1, 1), (2.02, 9)], [(1, 1), (2, 1)]).endswith("| ok |")
    assert row(script, [(1, 1), (2.02, 9)], [(1, 1), (2, 1)], gradients=0.1).endswith("| FAILED |")
    assert row(script, [(1, 1), (2.2, 1)], [(1, 1), (2, 1)]).endswith("| FAILED |")
    assert "FAILED" in row(script, [(1, 1)], [(1, 1), (2, 1)])
    assert "FAILED: why" in row(script, [], [(1, 1)], problem="why")
    assert "does not fit: CUDA out of memory" in row(script, [], [(1, 1)], problem="CUDA out of memory")
    assert "FAILED" in row(script, [(float("nan"), 1)], [(1, 1)], tolerance=None)
    assert row(script, [(3, 1)], [(1, 1)], tolerance=None).endswith("| ok |")


def test_a_part_that_fails_is_one_line_and_leaves_its_log(script, tmp_path):
    log = tmp_path / "report.a.log"
    code = "print('begin')\nraise ValueError('a | b')"
    _, problem = script.run_limited([sys.executable, "-S", "-c", code], 60, log)
    assert problem == "ValueError: a / b; all of it in report.a.log"
    assert "begin" in log.read_text()


def test_a_part_that_hangs_ends_with_all_that_it_started(script, tmp_path):
    code = "import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', 'import time; time.sleep(600)'])"
    begin = time.monotonic()
    _, problem = script.run_limited([sys.executable, "-S", "-c", code], 2, tmp_path / "log")
    assert problem.startswith("took longer than 2 s")
    assert time.monotonic() - begin < 300  # the pipe closes only when the grandchild has ended, too


def test_nothing_is_begun_when_the_time_is_over(script, tmp_path):
    clock = script.Clock(0.1, full=False)
    options = Namespace(quick=True, device="cpu", only=None, output=tmp_path / "report.md", steps=1)
    table = script.check_trainings(options, tmp_path, clock)[2:]
    assert len(table) == len(script.RUNS)
    assert all("not run: " in line for line in table)
    speed, lines = script.check_speed(options, clock)
    assert speed == 0
    assert "--full" in " ".join([*lines, *script.check_search(options, tmp_path, clock)])
    assert script.Clock(10, full=True).limit(100) == 300


def test_the_fastest_of_our_rows_counts(script):
    lines = [
        "| precision | way | images/s |",
        "| --- | --- | --- |",
        "| float32 | plain | 900 |",
        "| float32 | ours | 20.50 |",
    ]
    assert script.images_per_second([*lines, "| bf16 | ours | 1,030 |"]) == 1030
    assert script.images_per_second(lines[:3]) == 0


def test_hours_follow_from_the_speed(script):
    table = script.recipes(100.0, Namespace(quick=False))
    assert "| configs/cuhk_pedes.yaml | 60 | 11.4 |" in table  # 68,126 pairs, 60 epochs
    assert "not known" in script.recipes(0.0, Namespace(quick=False))[0]
