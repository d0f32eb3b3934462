"""No lost work: real processes that are killed, stopped, or run out of something."""

import copy
import json
import math
import os
import re
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cffa_hf.errors import InputError
from cffa_hf.training.lora import add_lora
from cffa_hf.training.resume import checkpoint_to_resume, flaw_of, newest_whole_checkpoint
from cffa_hf.training.saving import RunStopped, StopOnSignal, explained_writes
from tests.checkpoints.test_conversion import Hostile
from tests.disks import disk  # noqa: F401
from tests.processes import Run, write_people
from tests.tiny import person_rows, tiny_model, tiny_processor
from tests.trainers import fitting_model, new_trainer

TIMES = ("_runtime", "_per_second", "data_time", "data_time_share", "train_loss", "total_flos")


def same_history(one: list[dict], other: list[dict]) -> bool:
    """Whether two logs have the same entries; only times may differ."""

    def values(entry: dict) -> dict:
        return {name: value for name, value in entry.items() if not name.endswith(TIMES)}

    assert [entry["step"] for entry in one] == [entry["step"] for entry in other]
    for left, right in zip(map(values, one), map(values, other), strict=True):
        assert left == pytest.approx(right, abs=1e-6)
    return True


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_people(tmp_path_factory.mktemp("data") / "people")


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory) -> Run:
    """The run that nobody killed: 18 steps in 3 epochs."""
    run = Run(tmp_path_factory.mktemp("whole") / "run", data)
    assert run.end() == 0, run.output()
    return run


@pytest.mark.slow
def test_killed_three_times_the_run_is_the_same(data, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    run = Run(folder, data)
    run.wait_for_step(3)  # in the middle of an epoch
    run.kill(signal.SIGKILL)
    assert run.end() == -signal.SIGKILL

    unfinished = folder / "_unfinished"
    for _ in range(5):
        run = Run(folder, data, resume_from_checkpoint="auto")
        run.wait_for(lambda: any(unfinished.glob("checkpoint-*/model.safetensors")))
        run.kill(signal.SIGKILL)  # while a checkpoint is being written
        assert run.end() == -signal.SIGKILL
        if unfinished.exists():
            break
    assert any(unfinished.iterdir())
    newest = newest_whole_checkpoint(folder)
    assert newest is not None
    assert all(flaw_of(checkpoint) is None for checkpoint in folder.glob("checkpoint-*"))

    run = Run(folder, data, resume_from_checkpoint="auto")
    run.wait_for(lambda: "epoch 2.0" in run.output())  # between two epochs
    run.kill(signal.SIGKILL)
    assert run.end() == -signal.SIGKILL
    assert f"going on from {newest}" in run.output()

    run = Run(folder, data, resume_from_checkpoint="true")
    assert run.end() == 0, run.output()
    assert same_history(run.history(), uninterrupted.history())
    one = Path(folder / "model.safetensors").read_bytes()
    assert one == Path(uninterrupted.folder / "model.safetensors").read_bytes()
    assert not unfinished.exists()
    assert len(list(folder.glob("checkpoint-*"))) == 2


@pytest.mark.slow
def test_sigterm_saves_and_workers_change_nothing(data, uninterrupted, tmp_path):
    # The scheduler's signal reaches the whole process group, the loading processes too.
    settings = {"dataloader_num_workers": 2, "cache_images": "true", "save_steps": 100}
    os.environ["HF_DATASETS_CACHE"] = str(tmp_path / "cache")
    run = Run(tmp_path / "run", data, group=True, **settings)
    run.wait_for_step(4)
    os.killpg(run.process.pid or 0, signal.SIGTERM)
    assert run.end() == 128 + signal.SIGTERM, run.output()
    assert "SIGTERM: saving at the end of this step" in run.output()
    assert "Traceback" not in run.output()
    checkpoint = newest_whole_checkpoint(run.folder)
    assert checkpoint is not None
    assert f"saved {checkpoint}" in run.output()
    assert run.output().rstrip().endswith("stopped by SIGTERM before the end; go on with --resume_from_checkpoint auto")
    assert not (run.folder / "model.safetensors").exists()  # nothing half trained is published

    run = Run(tmp_path / "run", data, resume_from_checkpoint="auto", **settings)
    assert run.end() == 0, run.output()
    assert f"going on from {checkpoint}" in run.output()
    assert same_history(run.history(), uninterrupted.history())


@pytest.mark.slow
def test_a_signal_at_the_last_step_of_an_epoch_waits_for_the_evaluation(data, uninterrupted, tmp_path):
    run = Run(tmp_path / "run", data, save_strategy="epoch", load_best_model_at_end="true", save_total_limit=1)
    run.wait_for_step(6)
    run.kill(signal.SIGINT)
    assert run.end() == 128 + signal.SIGINT, run.output()
    checkpoint = newest_whole_checkpoint(run.folder)
    assert checkpoint is not None  # although it may not be the best one, of which alone a finished run keeps
    history = json.loads((Path(checkpoint) / "trainer_state.json").read_text())["log_history"]
    assert same_history(history, uninterrupted.history()[: len(history)])


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(data, tmp_path):
    run = Run(tmp_path / "run", data, learning_rate="1e38", warmup_epochs=0, save_steps=1, logging_steps=50)
    assert run.end() == 1
    last = run.output().strip().splitlines()[-1]
    assert last.startswith("error: the loss is not finite in step 2 (loss_alignment_global ")
    assert "learning_rate" in last
    assert "Traceback" not in run.output()
    assert f"the last good checkpoint is {run.folder}/checkpoint-1" in last
    assert not (run.folder / "checkpoint-2").exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_vanishes_is_named(data, tmp_path, workers):
    shutil.copytree(data, tmp_path / "data")
    run = Run(tmp_path / "run", tmp_path / "data", num_train_epochs=50, dataloader_num_workers=workers)
    run.wait_for_step(3)
    for image in (tmp_path / "data").glob("*.png"):
        image.unlink()
    assert run.end() == 2
    last = run.output().strip().splitlines()[-1]
    assert last.startswith("error: row ")
    assert f"{tmp_path}/data/" in last
    assert "there is no such image" in last
    assert "Traceback" not in run.output()
    newest = newest_whole_checkpoint(run.folder)
    assert newest is not None
    assert f"the last good checkpoint is {newest}" in last


@pytest.mark.slow
@pytest.mark.parametrize("how", ["removed", "unmounted"])
def test_a_folder_that_vanishes_stops_the_run(data, disk, tmp_path, how):  # noqa: F811
    folder = tmp_path / "run" if how == "removed" else disk.folder
    run = Run(folder, data, num_train_epochs=500, save_steps=10_000)
    run.wait_for_step(2)
    folder.rename(tmp_path / "elsewhere") if how == "removed" else disk.unmount()
    assert run.end() == 1, run.output()
    last = run.output().strip().splitlines()[-1]
    assert last.startswith(f"error: {folder} has vanished: it was removed, or its disk was unmounted")
    assert "Traceback" not in run.output()
    assert not folder.exists() or list(folder.iterdir()) == []


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_good_checkpoint(data, tmp_path):
    run = Run(tmp_path / "run", data, num_train_epochs=50)
    run.wait_for_step(3)
    # Files of more than 200 kB cannot be written any more: what a quota or a full disk does.
    resource.prlimit(run.process.pid or 0, resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    assert run.end() == 1
    last = run.output().strip().splitlines()[-1]
    assert last.startswith("error: the checkpoint of step ")
    assert "could not be written" in last
    assert "MiB are free there" in last
    newest = newest_whole_checkpoint(run.folder)
    assert newest is not None
    assert f"the last good checkpoint is {newest}" in last
    assert not (run.folder / "_unfinished").exists()


def test_the_second_signal_ends_the_process_at_once():
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        stop = StopOnSignal()
        stop.install()
        os.kill(os.getpid(), signal.SIGTERM)
        if stop.received == signal.SIGTERM:
            os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGTERM


def checkpoint(folder: Path, step: int) -> Path:
    """A checkpoint as the Trainer writes it."""
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"weight": torch.zeros(1000)}, path / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.zeros(1000)}, path / name)
    (path / "trainer_state.json").write_text(
        json.dumps({"global_step": step, "train_batch_size": 8, "stateful_callbacks": {"TrainerControl": {}}})
    )
    return path


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
)
@pytest.mark.parametrize("share", [None, 0.0, 0.5, 0.99])
def test_a_checkpoint_with_a_missing_or_short_file_is_passed_over(tmp_path, name, share):
    whole, broken = checkpoint(tmp_path, 5), checkpoint(tmp_path, 10)
    assert newest_whole_checkpoint(tmp_path) == str(broken)
    if share is None:
        (broken / name).unlink()
    else:
        os.truncate(broken / name, math.floor((broken / name).stat().st_size * share))
    assert flaw_of(broken) is not None
    assert newest_whole_checkpoint(tmp_path) == str(whole)
    assert checkpoint_to_resume("auto", tmp_path) == str(whole)
    with pytest.raises(InputError, match=f"from {broken}: .*take {whole}"):
        checkpoint_to_resume(str(broken), tmp_path)


@pytest.mark.parametrize(
    ("change", "flaw"),
    [
        ({"identity": 1}, "a name that no state has"),
        ({"stateful_callbacks": {}}, "lost the state of the callbacks"),
        ({"log_history": "x"}, "no list of log entries"),
        ({"epoch": "one"}, "something else than a number as epoch"),
        ({"train_batch_size": None}, "names no batch size"),
    ],
)
def test_a_state_that_no_trainer_wrote_is_passed_over(tmp_path, change, flaw):
    path = checkpoint(tmp_path, 5) / "trainer_state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert flaw in flaw_of(path.parent)


def test_an_archive_of_several_disks_is_damaged(tmp_path):
    path = checkpoint(tmp_path, 5) / "optimizer.pt"
    torch.save({"state": 1}, path)
    assert flaw_of(path.parent) is None
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x06\x07") + 16] = 5  # of the locator of the directory, APPNOTE.TXT 4.3.15
    path.write_bytes(content)
    assert flaw_of(path.parent) == "its optimizer.pt is truncated or damaged"


def test_the_newest_checkpoint_is_the_one_written_last(tmp_path):
    old, new = checkpoint(tmp_path, 500), checkpoint(tmp_path, 10)
    os.utime(old / "trainer_state.json", (1, 1))
    assert checkpoint_to_resume(True, tmp_path) == str(new)


@pytest.mark.parametrize("setting", [None, False, "false"])
def test_without_a_wish_training_starts_anew(tmp_path, setting):
    checkpoint(tmp_path, 5)
    assert checkpoint_to_resume(setting, tmp_path) is None


def test_nothing_to_go_on_from_is_said(tmp_path, caplog):
    assert checkpoint_to_resume("auto", tmp_path / "new") is None
    assert "training starts anew" in caplog.text
    with pytest.raises(InputError, match="there is no such folder; start anew"):
        checkpoint_to_resume(str(tmp_path / "checkpoint-7"), tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_errors_of_writing_become_one_sentence(tmp_path):
    with (
        pytest.raises(RunStopped, match=r"the model could not be written to .*No space left.*make room"),
        explained_writes("the model", tmp_path, tmp_path),
    ):
        Path("/dev/full").write_text("a")


# Is it the checkpoint of this run?

ONE_STEP = {"max_steps": 1, "eval_strategy": "no", "save_strategy": "steps", "load_best_model_at_end": False}


@pytest.fixture(scope="module")
def people():
    rows = {"train": person_rows(6), "validation": person_rows(4, first_id=200)}
    return rows | {"processor": tiny_processor(rows["train"])}


@pytest.fixture(scope="module")
def stopped(people, tmp_path_factory) -> Path:
    """The checkpoint of a run that stopped after one step."""
    folder = tmp_path_factory.mktemp("stopped")
    new_trainer(people, folder, **ONE_STEP, save_steps=1).train()
    return folder / "checkpoint-1"


def refused_to_go_on(people, checkpoint, tmp_path, model=None, **changes) -> str:
    """What a run says that cannot go on from a checkpoint; it has made no step and taken over no wrong weight."""
    trainer = new_trainer(people, tmp_path / "next", model=model, **{**ONE_STEP, "max_steps": 2, **changes})
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    with pytest.raises(InputError) as error:
        trainer.train(resume_from_checkpoint=str(checkpoint))
    said = str(error.value)
    assert trainer.state.global_step in (0, 1)  # 1 as read from the checkpoint
    assert "last good checkpoint" not in said
    assert "\n" not in said
    assert said.startswith("training cannot go on")
    assert said.endswith(".")
    if "weights are not" in said or "is not finite" in said:
        assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    return said


TEXT = {"vocab_size": 600, "max_position_embeddings": 24, "attention_dropout": 0.05}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"text": {**TEXT, "hidden_size": 128}},
            "of another size or type .*, the first 600 x 64.* instead of 600 x 128",
        ),
        ({"text": {**TEXT, "vocab_size": 700}}, r"token_embedding\.weight.* 600 x 64.* instead of 700 x 64"),
        ({"text": {**TEXT, "num_hidden_layers": 1}}, r"unknown \('cffa\.text_model\.encoder\.layers\.1"),
        ({"text": {**TEXT, "num_hidden_layers": 3}}, r"missing \('cffa\.text_model\.encoder\.layers\.2"),
        ({"text": TEXT, "use_mlm": False}, r"unknown \('cross_modal"),
        ({"text": TEXT, "use_flfr": False}, r"unknown \('cffa\.image_refinement"),
        ({"text": TEXT, "num_identities": 9}, r"2 of another size or type \('identity_classifier\.weight'"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(people, stopped, tmp_path, fields, message):
    said = refused_to_go_on(people, stopped, tmp_path, tiny_model(**fields))
    assert re.search(message, said), said
    assert str(stopped) in said


def test_missing_and_broken_weights_are_refused(people, stopped, tmp_path):
    source = Path(shutil.copytree(stopped, tmp_path / "checkpoint-1"))
    weights = {name: value.clone() for name, value in load_file(source / "model.safetensors").items()}
    name = "cffa.visual_projection.weight"
    save_file({other: value for other, value in weights.items() if other != name}, source / "model.safetensors")
    assert f"1 of {len(weights)} missing ('{name}')" in refused_to_go_on(people, source, tmp_path)
    for value in (float("nan"), float("inf")):
        save_file(weights | {name: weights[name] * value}, source / "model.safetensors")
        assert f"the weight '{name}' is not finite" in refused_to_go_on(people, source, tmp_path)


@pytest.mark.parametrize("optim", ["sgd", "adafactor", "rmsprop"])
def test_the_state_of_another_optimizer_is_refused(people, stopped, tmp_path, optim):
    said = refused_to_go_on(people, stopped, tmp_path, optim=optim)
    assert "its optimizer.pt is of another optimizer, of which only one has" in said


def test_other_groups_of_an_optimizer_are_refused(people, stopped, tmp_path):
    source = Path(shutil.copytree(stopped, tmp_path / "checkpoint-1"))
    state = torch.load(source / "optimizer.pt", weights_only=True)
    for change, message in (
        (lambda groups, _: groups.pop(), "with the groups encoders_weights, .* instead of"),
        (lambda groups, _: groups[0]["params"].pop(), r"with \d+ instead of \d+ weights in encoders_weights"),
        (lambda _, entries: entries[0].update(exp_avg=torch.zeros(3)), r"exp_avg of a weight is \(3,\), not"),
        (lambda groups, _: groups.__setitem__(0, None), "holds no state"),
    ):
        changed = copy.deepcopy(state)
        change(changed["param_groups"], changed["state"])
        torch.save(changed, source / "optimizer.pt")
        said = refused_to_go_on(people, source, tmp_path)
        assert re.search(message, said), said


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_state_that_wants_more_than_numbers_is_refused_and_not_run(people, stopped, tmp_path, name):
    source = Path(shutil.copytree(stopped, tmp_path / "checkpoint-1"))
    torch.save({"state": Hostile(tmp_path / "ran")}, source / name)
    said = refused_to_go_on(people, source, tmp_path)
    assert f"its {name} is damaged, or holds more than numbers" in said
    assert not (tmp_path / "ran").exists()


def test_adapters_and_whole_models_do_not_go_on_from_each_other(people, stopped, tmp_path):
    pytest.importorskip("peft", reason="the extra cffa_hf[lora] is not installed")

    def adapted(rank):
        return add_lora(fitting_model(people["processor"]), {"r": rank})

    assert "its run trained whole models (no lora)" in refused_to_go_on(people, stopped, tmp_path, adapted(4))
    new_trainer(people, tmp_path / "lora", model=adapted(4), **ONE_STEP, save_steps=1).train()
    checkpoint = tmp_path / "lora" / "checkpoint-1"
    assert "its run trained adapters (lora)" in refused_to_go_on(people, checkpoint, tmp_path)
    assert re.search(
        r"lora_A\.weight.*4 x 64.* instead of 8 x 64", refused_to_go_on(people, checkpoint, tmp_path, adapted(8))
    )
    weights = {name: value.clone() for name, value in load_file(checkpoint / "adapter_model.safetensors").items()}
    name = next(name for name in weights if "lora_B" in name)
    save_file(weights | {name: weights[name] * float("nan")}, checkpoint / "adapter_model.safetensors")
    assert "is not finite" in refused_to_go_on(people, checkpoint, tmp_path, adapted(4))


@pytest.mark.slow
def test_the_command_refuses_another_model_in_one_sentence(data, uninterrupted, tmp_path):
    checkpoint = max(uninterrupted.folder.glob("checkpoint-*"))
    run = Run(tmp_path / "run", data, resume_from_checkpoint=checkpoint, hidden_size=128)
    assert run.end() == 2
    assert "Traceback" not in run.output()
    last = run.output().strip().splitlines()[-1]
    assert last.startswith(f"error: training cannot go on from {checkpoint}: its weights are not those of this model: ")
    assert last.endswith("start anew in another output_dir.")
