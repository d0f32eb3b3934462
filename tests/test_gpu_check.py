"""The check of a GPU: what needs none of it runs here, and a machine without one is told so."""

import importlib.util
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

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


def run(*words):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_machine_without_a_gpu_is_told_so(tmp_path):
    done = run("--output", str(tmp_path / "report.md"))
    assert done.returncode == 0
    assert "There is no GPU" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_needs_no_gpu_runs(tmp_path):
    report = tmp_path / "report.md"
    done = run("--device", "cpu", "--quick", "--only", "two processes", "fp16", "--output", str(report))
    assert done.returncode == 0, done.stdout + done.stderr
    text = report.read_text()
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert "| float32 | 0.00% |" in text
    assert rows["two processes"].endswith("| ok |")
    assert "not run: needs a GPU" in rows["fp16"]
    assert "60 epochs at" in text


def row(script, losses, reference, *, tolerance=0.05, problem=""):
    return script.verdict(script.Run("a", (), tolerance), losses, reference, problem, "1")


def test_other_losses_fail(script):
    assert row(script, [1.0, 2.02], [1.0, 2.0]).endswith("| ok |")
    assert row(script, [1.0, 2.2], [1.0, 2.0]).endswith("| FAILED |")
    assert "FAILED" in row(script, [1.0], [1.0, 2.0])
    assert "FAILED: why" in row(script, [], [1.0], problem="why")
    assert "FAILED" in row(script, [float("nan")], [1.0], tolerance=None)
    assert row(script, [3.0], [1.0], tolerance=None).endswith("| ok |")


def test_a_training_that_fails_leaves_its_log(script, tmp_path):
    broken = script.Run("a b", ("--no_such_setting", "1"), 0.1)
    options = Namespace(quick=True, steps=1, device="cpu", output=tmp_path / "report.md")
    losses, problem = script.train(broken, tmp_path, options)
    assert losses == []
    assert "no_such_setting" in problem
    assert "no_such_setting" in (tmp_path / "report.a-b.log").read_text()


def test_the_fastest_of_our_rows_counts(script):
    lines = [
        "| precision | way | images/s |",
        "| --- | --- | --- |",
        "| float32 | plain | 900 |",
        "| float32 | ours | 20.50 |",
    ]
    assert script.images_per_second([*lines, "| bf16 | ours | 1,030 |"]) == 1030
    with pytest.raises(SystemExit):
        script.images_per_second(lines[:3])
