"""The benchmark of the training step finds equal losses and prints ratios; the fast layers equal the stock ones."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from cffa_hf.matrix_product import ONEDNN, ONEDNN_OPERATIONS
from cffa_hf.training.cpu_layers import ImageAttention, Linear, RecomputedAttention, use_cpu_layers
from tests.tiny import tiny_model

REPOSITORY = Path(__file__).resolve().parents[1]


def run_benchmark(*arguments):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "training.py"), "--tiny", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_training_benchmark_prints_ratios_and_equal_losses():
    done = run_benchmark("--batch-sizes", "4", "--steps", "1")
    assert not done.returncode, done.stderr
    plain, ours = map(float, re.search(r"losses equal in float32: plain ([\d.]+), ours ([\d.]+)", done.stdout).groups())
    assert math.isclose(plain, ours, rel_tol=1e-4)
    header, _, *rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")]
    table = {tuple(row[:2]): dict(zip(header, row, strict=True)) for row in rows}
    assert set(table) == {(precision, way) for precision in ("float32", "bf16") for way in ("plain", "ours")}
    for (_, way), row in table.items():
        assert all(re.fullmatch(r"\d+\.\d\dx", row[name]) for name in ("ratio", "CPU ratio", "to f32", "memory"))
        assert re.fullmatch(r"\d+%", row["peak"])
        assert (way == "ours") or row["ratio"] == row["memory"] == "1.00x"
    # Arithmetic and memory do not depend on what else the machine does.
    assert float(table["float32", "ours"]["memory"].rstrip("x")) < 1
    assert float(table["float32", "ours"]["GFLOP/pair"]) <= float(table["float32", "plain"]["GFLOP/pair"])


def test_one_precision_can_be_measured_alone():
    done = run_benchmark("--batch-sizes", "2", "--steps", "1", "--precision", "bf16")
    assert not done.returncode, done.stderr
    assert "| bf16 | ours |" in done.stdout
    assert "| float32 |" not in done.stdout


@pytest.mark.skipif(not ONEDNN, reason="this processor takes the stock linear layer")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_large_linear_layers_equal_the_stock_one(bias, frozen):
    torch.manual_seed(0)
    layer, inputs = Linear(256, 512, bias=bias), torch.randn(4, 20, 256, requires_grad=True)
    layer.weight.requires_grad_(not frozen)
    assert inputs.numel() * 512 >= ONEDNN_OPERATIONS
    output, expected = layer(inputs), F.linear(inputs, layer.weight, layer.bias)
    assert type(output.grad_fn).__name__ == "OneDNNLinearBackward"
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    wanted = [tensor for tensor in (inputs, layer.weight, layer.bias) if tensor is not None and tensor.requires_grad]
    direction = torch.randn_like(output)
    for ours, stock in zip(
        torch.autograd.grad(output, wanted, direction), torch.autograd.grad(expected, wanted, direction), strict=True
    ):
        torch.testing.assert_close(ours, stock, atol=1e-4, rtol=1e-5)


def test_linear_layers_take_any_input():
    layer = Linear(8, 4)
    assert layer(torch.randn(8)).shape == (4,)
    assert layer(torch.randn(0, 8)).shape == (0, 4)
    assert layer.bfloat16()(torch.randn(2, 8).bfloat16()).dtype == torch.bfloat16


def test_recomputed_attention_equals_the_fused_one():
    torch.manual_seed(0)
    heads = [torch.randn(2, 3, 20, 16, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    output, expected = RecomputedAttention.apply(*heads), F.scaled_dot_product_attention(*heads)
    torch.testing.assert_close(output, expected)
    direction = torch.randn_like(output)
    for ours, stock in zip(
        torch.autograd.grad(output, heads, direction), torch.autograd.grad(expected, heads, direction), strict=True
    ):
        torch.testing.assert_close(ours, stock)


def test_image_features_under_autocast_are_those_of_float32():
    model = tiny_model().eval()
    use_cpu_layers(model)
    assert any(isinstance(module, ImageAttention) for module in model.modules())
    pixels = torch.randn(3, 3, *model.config.image_size)
    with torch.no_grad():
        expected = model.get_image_features(pixels)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model.get_image_features(pixels)
    assert F.cosine_similarity(found, expected).min() > 0.99


@pytest.mark.slow
def test_the_pretraining_benchmark_runs_once_and_prints_a_table(tmp_path):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    words = ["--quick", "--output", str(tmp_path), "--seeds", "1", "--jobs", "1"]
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "pretraining.py"), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    logs = "".join(path.read_text()[-1500:] for path in tmp_path.glob("*.log"))
    assert not done.returncode, done.stderr + logs
    assert "4 trainings, 4 to run" in done.stdout
    steps = dict(re.findall(r"(\w[\w ,-]*?) (\d+)[,.]", done.stdout.partition("Steps: ")[2].partition("\n")[0]))
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [
        "demo alone, as many steps as both",
        "demo alone",
        "pre-trained, direct transfer",
        "pre-trained, then demo",
    ]
    assert len(steps) == 4
    assert not (tmp_path / "pretrained-seed1").exists()
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "4 trainings, 0 to run" in again.stdout
    assert again.stdout.splitlines()[-4:] == rows
