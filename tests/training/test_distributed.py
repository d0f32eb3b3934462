"""Two real processes against one. Run as a script under torchrun, this file is the worker."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from torch import Tensor, nn
from transformers import TrainerCallback

from cffa_hf.demo import write_demo_dataset
from cffa_hf.evaluation.evaluator import RetrievalEvaluator
from cffa_hf.training.distributed import (
    BatchCounts,
    SyncedBatchNorm1d,
    gather_rows,
    process_count,
    synchronise_batch_norm,
)
from tests.processes import run_ranks
from tests.tiny import person_rows, tiny_model, tiny_processor
from tests.trainers import QUIET, FixedTransform, tiny_trainer

REPOSITORY = Path(__file__).resolve().parents[2]
GLOBAL_BATCH = 8
NO_HEADS = {"use_mlm": False, "use_identity": False, "use_flfr": False}
SCENARIOS: dict[str, dict[str, Any]] = {
    "mal": {"evaluate": True},
    "sdm_uneven": {"alignment_loss": "sdm", "pairs": 23},
    "two_captions": {"alignment_loss": "triplet", "share": False},
    "weights_of_zero": {"identity_weight": 0.0, "mlm_weight": 0.0, "alignment_weight": 0.0},
    "no_heads": {"model": NO_HEADS},
    "cached_uneven": {"cached_batch_size": 3, "alignment_loss": "sdm", "pairs": 23, "share": False},
    "cached_accumulated": {"cached_batch_size": 3, "gradient_accumulation_steps": 2},
    "consensus": {"noisy_pairs": "consensus", "pairs": 23},
    "cached_consensus": {"noisy_pairs": "consensus", "cached_batch_size": 3, "alignment_loss": "cmpm", "max_steps": 6},
    "identity_sampler": {"sampler": "identity", "captions_per_identity": 2},
}
PUBLISHED = {"precision": "published", "optim": "adamw_torch", "adam_epsilon": 1e-3}


class KeepGradients(TrainerCallback):
    """Copy the gradients of the first step."""

    def __init__(self) -> None:
        self.gradients: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, args, state, control, model: nn.Module, **kwargs):
        if state.global_step == 0:
            named = ((name.removeprefix("module."), parameter) for name, parameter in model.named_parameters())
            self.gradients = {name: parameter.grad.clone() for name, parameter in named}


def train(folder: str, processes: int, **options: Any) -> dict[str, Any]:
    """Train a tiny model for three steps on batches of eight pairs over all processes."""
    share, pairs = options.pop("share", True), options.pop("pairs", 24)
    fields, evaluate = options.pop("model", {}), options.pop("evaluate", False)
    rows = person_rows()
    processor = tiny_processor(rows)
    shorter = rows
    if pairs < len(rows) * 2:
        texts = [texts[:1] if index == 0 else texts for index, texts in enumerate(rows["captions"])]
        shorter = rows.remove_columns("captions").add_column("captions", texts)
    keeper, transform = KeepGradients(), FixedTransform(share)
    settings = {
        "per_device_train_batch_size": GLOBAL_BATCH // processes,
        "max_steps": 3,
        "optim": "sgd",
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "dataloader_drop_last": False,
        "accelerator_config": {"even_batches": False},
        "temperature": 0.1,
        **QUIET,
        **options,
    }
    trainer = tiny_trainer(
        folder,
        rows=shorter,
        processor=processor,
        model=tiny_model(**fields).train(),
        transform=transform,
        callbacks=[keeper],
        **settings,
    )
    trainer.train()
    names = ("loss", "grad_norm", "mlm_accuracy")
    log = [
        {name: value for name, value in entry.items() if name in names or name.startswith("loss_")}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    result = {
        "log": log,
        "gradients": keeper.gradients,
        "weights": {name: value.clone() for name, value in trainer.model.state_dict().items()},
        "batches": transform.seen,
        "pair_weights": trainer.consensus.weights if trainer.consensus else None,
    }
    if evaluate:
        evaluator = RetrievalEvaluator(rows, processor, batch_size=5, progress=False)
        embedded = evaluator.embed(trainer.accelerator.unwrap_model(trainer.model))
        result |= {"metrics": trainer.evaluate(rows), "text": embedded.text, "image": embedded.image}
    return result


def statistics_of_norm(rank: int) -> dict[str, Any]:
    """Normalise 3 rows on the first process and 1 on the second, twice, with a loss that differs between them."""
    rows = torch.randn(4, 5, generator=torch.Generator().manual_seed(1)) * 3 + 2
    share = rows.split([3, 1])[rank].clone().requires_grad_()
    module = nn.Sequential(nn.BatchNorm1d(5))
    nn.init.constant_(module[0].weight, 1.5)
    synchronise_batch_norm(module)
    output = module(share)
    (output.square() * (rank + 1)).sum().backward()
    return {
        "output": output.detach(),
        "gradient": share.grad,
        "weight": module[0].weight.grad,
        "state": module.state_dict(),
        "synced": type(module[0]) is SyncedBatchNorm1d,
    }


def worker(folder: str) -> None:
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        name: train(folder, 2, **json.loads(json.dumps(options))) for name, options in SCENARIOS.items()
    }
    results["apart"] = train(folder, 2, sync_batch_norm=False, max_steps=1)
    results["published"] = train(folder, 2, **PUBLISHED)
    results["norm"] = statistics_of_norm(int(os.environ["RANK"]))
    sizes = [2, 1]
    share = torch.arange(3.0).split(sizes)[int(os.environ["RANK"])][:, None].clone().requires_grad_()
    (gathered,) = gather_rows([share], sizes)
    (gathered[:, 0] * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    results["gather"] = {"value": gathered.detach(), "gradient": share.grad}
    torch.save(results, Path(folder) / f"rank{os.environ['RANK']}.pt")


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("two")
    for done in run_ranks(2, __file__, folder):
        assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


def close(actual: Tensor, expected: Tensor, noise: float = 1e-7) -> None:
    """Equal to 1e-5 of the largest entry; `noise` is what a gradient of exactly zero may come out as."""
    scale = float(expected.abs().max())
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * scale + noise)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_two_processes_equal_one(two, name, tmp_path):
    plain = {key: value for key, value in SCENARIOS[name].items() if key != "cached_batch_size"}
    one = train(str(tmp_path), 1, **plain)
    assert len(one["log"]) == plain.get("max_steps", 3)
    assert one["gradients"].keys() == dict(tiny_model(**plain.get("model", {})).named_parameters()).keys()
    for rank, result in enumerate(two):
        for step, (here, there) in enumerate(zip(one["log"], result[name]["log"], strict=True)):
            assert there == pytest.approx(here, rel=1e-4 if step else 1e-5, abs=1e-6)  # weights drift apart by rounding
        for parameter, gradient in one["gradients"].items():
            close(result[name]["gradients"][parameter], gradient, noise=1e-7 * one["log"][0]["grad_norm"])
        for key, value in one["weights"].items():
            torch.testing.assert_close(result[name]["weights"][key], value, rtol=1e-4, atol=1e-5)
        if one["pair_weights"] is not None:
            assert torch.equal(result[name]["pair_weights"], one["pair_weights"])
        begin, end = (rank * GLOBAL_BATCH // 2, (rank + 1) * GLOBAL_BATCH // 2)
        assert result[name]["batches"] == [labels[begin:end] for labels in one["batches"]]


@pytest.mark.slow
def test_float16_gradients_are_averaged_over_processes(two, tmp_path):
    one = train(str(tmp_path), 1, **PUBLISHED)
    first, second = (result["published"] for result in two)
    assert {value.dtype for value in first["gradients"].values()} == {torch.float16, torch.float32}
    assert first["log"][0] == pytest.approx(one["log"][0], rel=2e-3)
    for name, gradient in one["gradients"].items():
        expected = gradient.float()
        noise = 1e-3 * one["log"][0]["grad_norm"]  # a sum that float16 rounds once more than in one process
        difference = (first["gradients"][name].float() - expected).norm()
        assert difference <= 0.02 * expected.norm() + noise, name
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name


@pytest.mark.slow
def test_running_statistics_are_equal_on_all_processes(two):
    first, second = (result["mal"]["weights"] for result in two)
    statistics = [key for key in first if "running_" in key]
    assert len(statistics) == 4
    for key in statistics:
        assert torch.equal(first[key], second[key])


@pytest.mark.slow
def test_batch_norm_can_be_left_to_each_process(two):
    apart, together = two[0]["apart"], two[0]["mal"]
    assert apart["log"][0]["loss_identity"] == pytest.approx(together["log"][0]["loss_identity"], rel=1e-5)
    assert apart["log"][0]["loss_alignment_local"] != pytest.approx(
        together["log"][0]["loss_alignment_local"], rel=1e-5
    )


@pytest.mark.slow
def test_evaluation_does_not_depend_on_the_number_of_processes(two, tmp_path):
    one = train(str(tmp_path), 1, evaluate=True)
    for result in two:
        torch.testing.assert_close(result["mal"]["text"], one["text"], rtol=0, atol=1e-5)
        torch.testing.assert_close(result["mal"]["image"], one["image"], rtol=0, atol=1e-5)
        times = ("runtime", "per_second")
        metrics = {key: value for key, value in one["metrics"].items() if not key.endswith((*times, "epoch"))}
        assert {key: result["mal"]["metrics"][key] for key in metrics} == pytest.approx(metrics)


@pytest.mark.slow
def test_norm_over_processes_with_one_row_on_one_of_them(two):
    rows = torch.randn(4, 5, generator=torch.Generator().manual_seed(1)) * 3 + 2
    rows.requires_grad_()
    norm = nn.BatchNorm1d(5)
    nn.init.constant_(norm.weight, 1.5)
    output = norm(rows)
    (output.square() * torch.tensor([1.0, 1.0, 1.0, 2.0])[:, None]).sum().backward()
    results = [result["norm"] for result in two]
    assert all(result["synced"] for result in results)
    close(torch.cat([result["output"] for result in results]), output.detach())
    close(torch.cat([result["gradient"] for result in results]), rows.grad)
    close(sum(result["weight"] for result in results), norm.weight.grad)
    for result in results:
        for key, value in norm.state_dict().items():
            close(result["state"][f"0.{key}"].float(), value.float())


@pytest.mark.slow
def test_gathered_rows_add_up_the_gradients_of_all_processes(two):
    for result in two:
        assert result["gather"]["value"][:, 0].tolist() == [0.0, 1.0, 2.0]
    gradients = torch.cat([result["gather"]["gradient"] for result in two])
    assert gradients[:, 0].tolist() == [2.0, 20.0, 200.0]


def test_one_process_gathers_nothing():
    rows = torch.randn(3, 2, requires_grad=True)
    assert process_count() == 1
    assert gather_rows([rows], [3])[0] is rows
    counts = BatchCounts.of(torch.tensor([4, 4, 5]), torch.tensor([[-100, 1], [-100, -100], [3, 3]]))
    assert (counts.sizes, counts.pairs, int(counts.masked)) == ([3], 3, 3)
    assert int(BatchCounts.of(torch.tensor([4]), None).masked) == 1


def test_synchronised_norm_has_the_same_state_and_one_process_result():
    torch.manual_seed(0)
    plain, synced = nn.Sequential(nn.BatchNorm1d(4)), nn.Sequential(nn.BatchNorm1d(4))
    weight = synced[0].weight
    synchronise_batch_norm(synced)
    assert synced.state_dict().keys() == plain.state_dict().keys()
    assert synced[0].weight is weight
    for mode in (True, False):
        rows = torch.randn(7, 4)
        assert torch.equal(synced.train(mode)(rows), plain.train(mode)(rows))


HOLD_THE_GROUP_AND_LEAVE = """
import os, torch, torch.distributed as dist
from cffa_hf.training.distributed import leave_process_group

def threads():
    names = [open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")]
    return sum("gloo" in name for name in names)

def train():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    holder = {"model": torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))}
    holder["itself"] = holder
    holder["model"](torch.ones(3, 2)).sum().backward()
    assert threads() > 0

train()
leave_process_group()
assert threads() == 0, threads()
leave_process_group()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the names of threads from /proc")
def test_no_thread_of_the_process_group_is_left_when_a_training_ends():
    ended = subprocess.run([sys.executable, "-c", HOLD_THE_GROUP_AND_LEAVE], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


CONFIGS = REPOSITORY / "configs" / "accelerate"
SMALL_RUN = ["--config", "configs/demo.yaml", "--use_cpu", "true", "--max_steps", "1", "--precision", "float32"]
SMALL_RUN += ["--per_device_train_batch_size", "8", "--hidden_size", "64", "--num_layers", "1", "--local_dim", "32"]
SMALL_RUN += ["--projection_dim", "64", "--vocabulary_size", "600", "--eval_strategy", "no", "--save_strategy", "no"]
SMALL_RUN += ["--load_best_model_at_end", "false", "--report_to", "none", "--logging_steps", "1"]


def launch(options: list[str]) -> subprocess.Popen:
    """Start run_train.py with accelerate."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "accelerate.commands.launch", *options]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=REPOSITORY
    )


@pytest.mark.parametrize("name", ["ddp", "fsdp", "deepspeed_zero2", "multi_node"])
def test_accelerate_reads_the_configs(name):
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert config.num_processes >= 2


# A config of FSDP starts as plain distributed training where there is no GPU, and DeepSpeed is not installed here.
@pytest.mark.slow
@pytest.mark.parametrize(("name", "machines"), [("ddp", 1), ("multi_node", 2)])
def test_accelerate_launches_two_processes(name, machines, tmp_path):
    write_demo_dataset(tmp_path / "data", identities=(12, 4, 6), workers=0)
    run = ["run_train.py", *SMALL_RUN, "--dataset_root", str(tmp_path / "data"), "--output_dir", str(tmp_path / "out")]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    options = ["--config_file", str(CONFIGS / f"{name}.yaml"), "--num_processes", "2", "--main_process_port", port]
    started = [launch([*options, "--machine_rank", str(rank), *run]) for rank in range(machines)]
    outputs = [process.communicate(timeout=200)[0] for process in started]
    assert [process.returncode for process in started] == [0] * machines, outputs[0][-3000:]
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert state["log_history"][0]["epoch"] == pytest.approx(16 / 96)  # 8 pairs on each of two processes
    assert (tmp_path / "out" / "model.safetensors").exists()


if __name__ == "__main__":
    worker(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
