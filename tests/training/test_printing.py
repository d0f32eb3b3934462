"""What a run prints."""

from types import SimpleNamespace

import pytest
from transformers import ProgressCallback, TrainerState

from cffa_hf.arguments.data import TrainingDataArguments
from cffa_hf.cli.train import evaluation_command
from cffa_hf.training.printing import PrintedLines, ProgressWithLines, best_sentence, entry_line, use_readable_lines
from tests.trainers import tiny_trainer


def test_an_entry_is_one_line_with_the_time_left():
    logs = {"loss": 24.84, "loss_alignment_global": 5.641, "loss_mlm": 8.977, "grad_norm": 126.2, "mlm_accuracy": 0.57}
    logs |= {"learning_rate_heads": 1e-5, "images_per_second": 320.4, "data_time": 0.1, "data_time_share": 3.2}
    line = entry_line(logs, TrainerState(global_step=50, max_steps=1096, epoch=0.46), 400)
    assert line == (
        "step 50 of 1,096, epoch 0.5: loss 24.84 (alignment_global 5.64, mlm 8.98), words guessed 0.6%, gradient 126, "
        "320 images/s, 3% of it waiting for data; 7 min left"
    )


def test_a_run_in_a_log_file_prints_lines_and_no_bar(tmp_path, capfd):
    settings = {"num_train_epochs": 2, "logging_steps": 1, "disable_tqdm": False, "per_device_train_batch_size": 8}
    trainer = tiny_trainer(tmp_path, eval_strategy="epoch", save_strategy="epoch", **settings)
    trainer.train()
    trainer.save_published()
    printed = capfd.readouterr()
    steps = trainer.state.max_steps
    assert len([line for line in printed.out.splitlines() if line.startswith("step ")]) == steps
    assert f"trained {steps} steps in " in printed.out
    assert printed.out.count("text-to-image: Rank-1") == 2
    assert "{" not in printed.out
    assert "it/s" not in printed.out + printed.err
    assert "model shards" not in printed.err
    again = tiny_trainer(tmp_path, eval_strategy="epoch", save_strategy="epoch", **settings)
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{steps // 2}"))
    assert f"trained {steps - steps // 2} steps in " in capfd.readouterr().out


def test_a_terminal_gets_the_bar(monkeypatch):
    for terminal, wanted in ((True, ProgressWithLines), (False, PrintedLines)):
        added = []
        trainer = SimpleNamespace(
            pop_callback=lambda kind: kind if kind is ProgressCallback else None, add_callback=added.append
        )
        monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda terminal=terminal: terminal))
        use_readable_lines(trainer)
        assert added == [wanted]


def test_the_end_names_the_best_epoch_and_the_folder():
    history = [{"step": 7, "epoch": 1.0}, {"step": 14, "epoch": 2.0}]
    state = TrainerState(log_history=history, best_metric=31.25, best_model_checkpoint="out/checkpoint-14")
    assert best_sentence(state, "out", "eval_rank1") == "The best model, of epoch 2 (Rank-1 31.25), is in out."
    assert "(mAP 31.25)" in best_sentence(state, "out", "eval_test_mAP")
    assert best_sentence(TrainerState(), "out", "eval_rank1") == "The model of the last epoch is in out."


def test_the_next_command_has_what_the_training_was_told_of_the_data():
    words = [
        "--config",
        "a b.yaml",
        "methods/rde",
        "--seed",
        "3",
        "--dataset=my data",
        "--split_seed",
        "2",
        "--lora",
        "x",
    ]
    one = evaluation_command(words[:2] + words[3:], "out", TrainingDataArguments(dataset="x"))
    assert one == "cffa-hf evaluate out --config 'a b.yaml' '--dataset=my data' --split_seed 2 --report"
    data = TrainingDataArguments(dataset="my data", dataset_root="here", split_seed=2)
    assert evaluation_command(words, "out", data) == (
        "cffa-hf evaluate out --dataset 'my data' --dataset_root here --split_seed 2 --report"
    )


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"dataset": "x", "dataset_root": "here", "eval_dataset": "rstpreid"}, "rstpreid --dataset_root here"),
        ({"dataset": "x", "eval_dataset": "y", "eval_dataset_root": "there"}, "y --dataset_root there"),
        ({"dataset": "s3://shards", "streaming": True}, "DATASET"),
        ({"datasets": {"x": 1.0, "y": 2.0}, "dataset_root": "here"}, "DATASET"),
        ({"datasets": {"x": 1.0, "y": 2.0}, "eval_dataset": "y"}, "y"),
    ],
)
def test_the_next_command_evaluates_another_set_where_there_is_one(settings, told):
    command = evaluation_command(["--config", "x"], "out", TrainingDataArguments(**settings))
    assert command == f"cffa-hf evaluate out --dataset {told} --report"


@pytest.mark.parametrize(
    ("splits", "told"),
    [
        (["train", "validation", "test"], "--config x --dataset mals"),
        (["train", "validation"], "--config x --dataset mals --split validation"),
        (["train"], "--dataset DATASET"),
    ],
)
def test_the_next_command_names_a_split_that_is_there(splits, told):
    words = ["--config", "x", "--dataset", "mals"]
    command = evaluation_command(words, "out", TrainingDataArguments(dataset="mals"), splits)
    assert command == f"cffa-hf evaluate out {told} --report"
