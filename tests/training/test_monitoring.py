"""What a run writes into a TensorBoard file, and what it measures."""

import importlib.util
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cffa_hf.data.pairs import PairDataset
from cffa_hf.training.monitoring import TrainingMonitor
from cffa_hf.training.saving import RunStopped
from cffa_hf.training.trainer import CFFATrainer
from tests.trainers import QUIET, tiny_trainer


class SlowPairs(PairDataset):
    """Pairs whose reading takes its time."""

    def __getitem__(self, index: int) -> dict:
        time.sleep(0.005)
        return super().__getitem__(index)


def monitored(folder: Path, **settings) -> CFFATrainer:
    """A run of two epochs, six steps each, that logs every second step."""
    every = {"logging_steps": 2, "num_train_epochs": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-4}
    return tiny_trainer(folder, **{**every, **QUIET, **settings})


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """The values of every tag of a TensorBoard file by step."""
    (file,) = folder.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file))
    events.Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def test_tensorboard_gets_everything(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    trainer = monitored(tmp_path / "run", report_to=["tensorboard"], eval_strategy="epoch")
    trainer.train()
    board = scalars(tmp_path / "board")
    steps = {2, 4, 6, 8, 10, 12}
    groups = [f"train/learning_rate_{group['name']}" for group in trainer.optimizer.param_groups]
    assert len(groups) == 8
    terms = ["alignment_global", "alignment_local", "identity", "mlm"]
    names = ["loss", "grad_norm", "temperature", "mlm_accuracy", "images_per_second", "data_time", "data_time_share"]
    for tag in [*(f"train/{name}" for name in names), *(f"train/loss_{term}" for term in terms), *groups]:
        assert steps <= set(board[tag]), tag
        assert all(math.isfinite(value) for value in board[tag].values())
    for step in steps:
        total = sum(board[f"train/loss_{term}"][step] for term in terms)
        assert total == pytest.approx(board["train/loss"][step], rel=1e-5)
        # The rate of the step itself, as the Trainer logs it for the first group.
        first = board["train/learning_rate_encoders_weights"][step]
        assert first == pytest.approx(board["train/learning_rate"][step], rel=1e-6)
        assert board["train/learning_rate_encoders_biases"][step] == pytest.approx(2 * first, rel=1e-5)
    assert set(board["eval/rank1"]) == {6, 12}
    assert board["train/temperature"][2] == pytest.approx(0.015)
    assert all(value > 0 for value in board["train/grad_norm"].values())  # although nothing is clipped
    assert all(0 <= value <= 100 for value in board["train/mlm_accuracy"].values())


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["trackio", "wandb"])
def test_other_trackers_get_everything(tmp_path, tracker):
    if importlib.util.find_spec(tracker) is None:
        pytest.skip(f"{tracker} is not installed; it is the user's choice")
    script = f"""
from pathlib import Path
from tests.training.test_monitoring import monitored
monitored(
    Path({str(tmp_path / "run")!r}), report_to=[{tracker!r}], eval_strategy="epoch", project="people", run_name="first"
).train()
"""
    offline = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "TRACKIO_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **offline}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.suffix in {".db", ".db-wal", ".wandb"})
    terms = [f"loss_{term}" for term in ("alignment_global", "alignment_local", "identity", "mlm")]
    names = [*terms, "grad_norm", "temperature", "learning_rate_heads_biases", "mlm_accuracy", "images_per_second"]
    for tag in [*(f"train/{name}" for name in names), "eval/rank1", "eval/image_to_text_mAP"]:
        assert tag.encode() in written, tag


def test_the_wait_for_data_is_measured(tmp_path):
    trainer = monitored(tmp_path, pairs=SlowPairs)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "data_time" in entry]
    # 4 pairs of at least 5 ms a step; accelerate reads one batch ahead, hence the mean over whole epochs.
    assert np.mean([entry["data_time"] for entry in entries]) > 0.9 * 0.02
    for entry in entries:
        steps_per_second = entry["images_per_second"] / 4
        assert entry["data_time"] * steps_per_second == pytest.approx(entry["data_time_share"] / 100, rel=1e-3)


def test_a_gradient_that_is_not_finite_is_not_saved(tmp_path):
    trainer = monitored(tmp_path, save_strategy="steps", save_steps=2, logging_steps=100)

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("nan") if trainer.state.global_step == 3 else gradient

    trainer.model.identity_classifier.weight.register_hook(spoil)
    with pytest.raises(RunStopped, match=r"the gradient is not finite \(norm nan.*checkpoint-2"):
        trainer.train()
    assert (tmp_path / "checkpoint-2").is_dir()
    assert not (tmp_path / "checkpoint-4").exists()


def test_the_first_bad_step_is_named_although_it_is_read_later():
    monitor = TrainingMonitor()
    for step, value in [(1, 1.0), (2, float("inf")), (3, float("nan")), (4, 2.0)]:
        monitor.add_terms(step, {"identity": torch.tensor(value), "mlm": torch.tensor(3.0)})
    logs = monitor.read(lambda values: values, 1)
    assert monitor.complaint(logs) == "the loss is not finite in step 2 (loss_identity inf, loss_mlm 3)"


def test_accuracy_counts_the_masked_words():
    monitor = TrainingMonitor()
    labels = torch.tensor([[-100, 2, -100], [1, -100, 0]])
    monitor.add_terms(1, {"mlm": torch.tensor(1.0)})
    monitor.add_accuracy(torch.eye(3)[[2, 1, 1]], labels)
    monitor.add_accuracy(torch.eye(3)[[2]], torch.tensor([[2]]))
    logs = monitor.read(lambda values: values, 1)
    assert logs["mlm_accuracy"] == pytest.approx(75)
    assert monitor.read(lambda values: values, 1) == {}


def test_no_step_waits_for_the_device(tmp_path):
    """Between two log entries no value is taken off the device."""
    trainer = monitored(tmp_path, logging_steps=6)
    reads: list[int] = []
    original = torch.Tensor.item

    def counted(tensor: torch.Tensor) -> float:
        reads.append(trainer.state.global_step)
        return original(tensor)

    torch.Tensor.item = counted  # type: ignore[method-assign]
    try:
        trainer.train()
    finally:
        torch.Tensor.item = original  # type: ignore[method-assign]
    assert set(reads) <= {0, 6, 12}


@pytest.mark.parametrize("workers", [0, 2])
def test_log_entries_end_at_checkpoints(tmp_path, workers):
    trainer = monitored(tmp_path, save_strategy="steps", save_steps=4, logging_steps=5, dataloader_num_workers=workers)
    trainer.train()
    steps = [entry["step"] for entry in trainer.state.log_history if "loss" in entry]
    assert steps == [4, 5, 8, 10, 12]
    assert np.isfinite([entry["loss"] for entry in trainer.state.log_history if "loss" in entry]).all()
