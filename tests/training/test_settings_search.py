"""A search for settings: trials are runs like any other, and a killed search is the same as one that was not."""

import copy
import importlib.util
import itertools
import json
import signal
import sqlite3
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from transformers import TrainerCallback

from cffa_hf.arguments.parsing import parse_arguments
from cffa_hf.arguments.training import SEARCHABLE, CFFATrainingArguments
from cffa_hf.cli.train import main
from cffa_hf.errors import InputError, RunStopped
from cffa_hf.training.lora import add_lora
from cffa_hf.training.settings_search import (
    BEST_SETTINGS,
    SEARCH_RECORD,
    STUDY,
    SearchTrainer,
    open_study,
    refuse_what_cannot_be_searched,
    search_subject,
)
from cffa_hf.training.trainer import CFFATrainer
from tests.processes import Run, write_people
from tests.tiny import person_rows, tiny_processor
from tests.trainers import CONTEXT, new_model
from tests.training.test_resume import same_history

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
DATA_CONFIGS = sorted(path for path in CONFIGS.glob("*.yaml") if "dataset:" in path.read_text())
RATE = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
RUN = {"num_train_epochs": 2, "warmup_epochs": 1, "logging_steps": 1, "metric_for_best_model": "eval_mAP"}


@pytest.fixture(scope="module")
def data():
    rows = {"train": person_rows(6), "validation": person_rows(4, first_id=200)}
    return rows | {"processor": tiny_processor(rows["train"])}


class Recorder(TrainerCallback):
    """Keep the log of each training."""

    def __init__(self):
        self.histories = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.histories.append([])

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.histories[-1].append({**(logs or {}), "step": state.global_step})


def arguments(folder, **settings) -> CFFATrainingArguments:
    common: dict[str, Any] = {"per_device_train_batch_size": 6, "learning_rate": 1e-3, "adam_epsilon": 1e-8, **RUN}
    common |= {"use_cpu": True, "precision": "float32", "report_to": "none", "dataloader_pin_memory": False}
    return CFFATrainingArguments(output_dir=str(folder), **{**common, "disable_tqdm": True, **settings})


def make(trainer_class, data, args, lora=None, **changes):
    """A trainer of 24 pairs, and what it logs."""
    recorder, processor = Recorder(), copy.deepcopy(data["processor"])
    processor.tokenizer.model_max_length = CONTEXT
    model: Any = new_model(data)
    parts = {
        "model": model if lora is None else add_lora(model, lora),
        "train_dataset": data["train"],
        "eval_dataset": data["validation"],
        "processing_class": processor,
        "callbacks": [recorder],
        **changes,
    }
    return trainer_class(args=args, **parts), recorder


def record(folder) -> dict:
    return json.loads((folder / SEARCH_RECORD).read_text())


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_a_trial_is_a_run_with_its_settings(data, tmp_path, capsys, lora):
    space = RATE | {
        "warmup_epochs": {"low": 0.1, "high": 0.9},
        "crop_padding": {"low": 0, "high": 4},
        "flip_probability": [0, 1],
        "caption_corruption": {"low": 0, "high": 0.5},
        "per_device_train_batch_size": [
            6,
            30,
        ],  # 30 are more than all pairs: the last short batch is kept, in that trial
        "alignment_loss": ["mal", "info_nce"],
        "share_masked_captions": [True, False],
    }
    args = arguments(tmp_path / "search", search=space, search_trials=4 if lora is None else 2, seed=1)
    trainer, recorder = make(SearchTrainer, data, args, lora)
    best = trainer.search()

    trials = record(tmp_path / "search")["trials"]
    assert {trial["state"] for trial in trials} == {"complete"}
    if lora is None:
        sizes = [trial["settings"]["per_device_train_batch_size"] for trial in trials]
        assert (30, 6) in itertools.pairwise(sizes)  # what one trial switches off is on in the next
    for trial, history in zip(trials, recorder.histories, strict=True):
        settings = trial["settings"]
        run, own = make(CFFATrainer, data, arguments(tmp_path / f"run-{trial['number']}", seed=1, **settings), lora)
        run.train()
        assert same_history(history, own.histories[0])
        assert trial["value"] == max(entry["eval_mAP"] for entry in history if "eval_mAP" in entry)

    winner = max(trials, key=lambda trial: trial["value"])
    assert winner["settings"] == best == yaml.safe_load((tmp_path / "search" / BEST_SETTINGS).read_text())
    first, *_ = (tmp_path / "search" / BEST_SETTINGS).read_text().splitlines()
    head = f"# eval_mAP {winner['value']:.2f}, trial {winner['number']}, the best of {len(trials)} trials"
    assert first.startswith(head)
    assert (args.learning_rate, args.per_device_train_batch_size, args.dataloader_drop_last) == (1e-3, 6, True)
    visible = {path.name for path in (tmp_path / "search").iterdir() if not path.name.startswith(".")}
    assert visible == {STUDY, SEARCH_RECORD, BEST_SETTINGS}
    lines = [line for line in capsys.readouterr().out.splitlines() if f"of {len(trials)} trials" in line]
    assert [line.split()[0] for line in lines] == [*map(str, range(1, len(trials) + 1)), "best"]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_trial_and_not_the_search(data, tmp_path, capsys):
    settings = {"search": {"learning_rate": [1e38, 1e-3]}, "warmup_epochs": 0, "num_train_epochs": 1}
    for seed in range(10):
        args = arguments(tmp_path / str(seed), **settings, search_trials=3, seed=seed)
        trainer, recorder = make(SearchTrainer, data, args)
        trainer.search()
        trials = record(tmp_path / str(seed))["trials"]
        states = [trial["state"] for trial in trials]
        if states[:2] == ["not finite", "complete"]:
            break
    assert [trial["value"] is None for trial in trials] == [state == "not finite" for state in states]
    assert yaml.safe_load((tmp_path / str(seed) / BEST_SETTINGS).read_text()) == {"learning_rate": 1e-3}
    assert "the loss is not finite, trial 0" in capsys.readouterr().out
    own = {name: value for name, value in settings.items() if name != "search"}
    run, other = make(CFFATrainer, data, arguments(tmp_path / "run", **own, seed=seed))
    run.train()
    assert same_history(recorder.histories[1], other.histories[0])  # nothing of the broken trial is left


@pytest.mark.slow
def test_where_no_loss_is_finite_there_is_no_result(data, tmp_path):
    args = arguments(tmp_path, search={"learning_rate": [1e38]}, search_trials=2, warmup_epochs=0)
    with pytest.raises(RunStopped, match="finite in none of 2 trials"):
        make(SearchTrainer, data, args)[0].search()
    assert [trial["state"] for trial in record(tmp_path)["trials"]] == ["not finite"] * 2
    assert not (tmp_path / BEST_SETTINGS).exists()


def running(folder: Path) -> int:
    """How many trials the study says are running."""
    try:
        with sqlite3.connect(f"file:{folder / STUDY}?mode=ro", uri=True) as study:
            return study.execute("SELECT count(*) FROM trials WHERE state = 'RUNNING'").fetchone()[0]
    except sqlite3.OperationalError:
        return 0


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on_and_is_the_same(tmp_path):
    people = write_people(tmp_path / "people")
    settings = {"search": json.dumps(RATE | {"temperature": {"low": 0.01, "high": 0.1}}), "search_trials": 3, **RUN}
    whole = Run(tmp_path / "whole", people, **settings)
    assert whole.end() == 0, whole.output()

    run = Run(tmp_path / "run", people, **settings)
    run.wait_for(lambda: "1 of 3 trials: eval_mAP" in run.output() and running(run.folder) == 1)
    run.kill(signal.SIGKILL)
    assert run.end() == -signal.SIGKILL
    assert (run.folder / BEST_SETTINGS).is_file()
    run = Run(tmp_path / "run", people, **settings)
    run.wait_for(lambda: "2 of 3 trials: eval_mAP" in run.output() and running(run.folder) == 1)
    run.kill(signal.SIGTERM)
    assert run.end() == 128 + signal.SIGTERM, run.output()
    assert "SIGTERM: the search stops" in run.output()
    assert "Traceback" not in run.output()
    run = Run(tmp_path / "run", people, **settings)
    assert run.end() == 0, run.output()

    trials, expected = record(run.folder)["trials"], record(whole.folder)["trials"]
    assert [trial["state"] for trial in trials] == ["complete", "failed", "complete", "failed", "complete"]
    complete = [trial for trial in trials if trial["state"] == "complete"]
    for found, wanted in zip(complete, expected, strict=True):
        assert (found["settings"], found["value"]) == (wanted["settings"], wanted["value"])
    assert not [path for path in run.folder.iterdir() if path.is_dir()]
    assert not (run.folder / "model.safetensors").exists()

    best = yaml.safe_load((run.folder / BEST_SETTINGS).read_text())
    plain = Run(tmp_path / "plain", people, **RUN, **best)
    assert plain.end() == 0, plain.output()
    values = [entry["eval_mAP"] for entry in plain.history() if "eval_mAP" in entry]
    assert max(values) == max(trial["value"] for trial in complete)


# What is refused


def parse(folder, search, *words):
    path = folder / "config.yaml"
    text = f"dataset: rstpreid\noutput_dir: {folder}/run\nuse_cpu: true\nprecision: float32\n"
    path.write_text(f"{text}search: {search}\n")
    return parse_arguments(["--config", str(path), *words])


@pytest.mark.parametrize(
    ("search", "words", "message"),
    [
        ("{}", [], "search is empty"),
        ("[learning_rate]", [], "search"),
        (
            "{learning_rat: [1, 2]}",
            [],
            "'learning_rat' is no setting that can be searched (did you mean 'learning_rate'",
        ),
        ("{output_dir: [a, b]}", [], "'output_dir' is no setting that can be searched"),
        ("{precision: [float32, bfloat16]}", [], "'precision' is no setting that can be searched"),
        ("{seed: [1, 2]}", [], "'seed' is no setting that can be searched"),
        ("{dataset_root: [a, b]}", [], "'dataset_root' is no setting that can be searched"),
        ("{margin: {low: 0.3, high: 0.1}}", [], "margin has low 0.3, which is not below high 0.1"),
        ("{margin: {low: 0.1, high: 0.1}}", [], "not below high"),
        ("{margin: {low: 0, high: 0.1, log: true}}", [], "the logarithm needs bounds above 0"),
        ("{margin: {low: 0, high: 0.1, log: much}}", [], "log of margin must be true or false"),
        ("{margin: {low: 0, hi: 0.1}}", [], "unknown entry 'hi'"),
        ("{margin: {low: 0}}", [], "margin has no 'high'"),
        ("{margin: {low: little, high: 0.1}}", [], "margin has 'little', which is not a number from 0"),
        ("{margin: {low: -1, high: 0.1}}", [], "margin has -1, which is not a number from 0"),
        ("{margin: {low: 0, high: .inf}}", [], "which is not a number from 0"),
        ("{margin: {low: true, high: 2}}", [], "which is not a number from 0"),
        ("{temperature: {low: 0, high: 0.1}}", [], "temperature must be a finite number above 0"),
        ("{flip_probability: {low: 0, high: 2}}", [], "flip_probability must be between 0 and 1"),
        ("{per_device_train_batch_size: {low: 0, high: 64}}", [], "per_device_train_batch_size must be at least 1"),
        ("{crop_padding: {low: 0, high: 1.5}}", [], "crop_padding has 1.5, which is not a whole number from 0"),
        ("{crop_padding: 3}", [], "crop_padding must have low and high, or a list of choices"),
        ("{crop_padding: []}", [], "crop_padding has no choices"),
        ("{margin: [0.1, 0.2, 1e-1]}", [], "margin has the choice 0.1 twice"),
        ("{sampler: {low: 0, high: 1}}", [], "sampler has no bounds"),
        ("{sampler: [random, sorted]}", [], "sampler must be random or identity, got 'sorted'"),
        ("{share_masked_captions: [1, 0]}", [], "share_masked_captions has 1, which is not true or false"),
        ("{margin: [0.1]}", ["--search_trials", "0"], "search_trials must be at least 1"),
        ("{margin: [0.1]}", ["--resume_from_checkpoint", "auto"], "search and resume_from_checkpoint"),
        ("{margin: [0.1]}", ["--push_to_hub", "true"], "search and push_to_hub"),
        ("null", ["--search", "{margin"], "search is no JSON"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, search, words, message):
    with pytest.raises(InputError) as error:
        parse(tmp_path, search, *words)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_values_have_the_types_of_their_settings(tmp_path):
    *_, args = parse(
        tmp_path, "{learning_rate: {low: 1e-6, high: 1, log: true}, crop_padding: ['2', 4.0], margin: [1]}"
    )
    space = args.search_space()
    assert (space["learning_rate"].low, space["learning_rate"].high, space["learning_rate"].whole) == (1e-6, 1.0, False)
    assert [repr(value) for value in (*space["crop_padding"].values, *space["margin"].values)] == ["2", "4", "1.0"]
    hints = get_type_hints(CFFATrainingArguments)
    assert all(hints[name] is kind for name, kind in SEARCHABLE.items())


@pytest.mark.parametrize("path", DATA_CONFIGS, ids=lambda path: path.stem)
def test_the_shipped_space_goes_with_every_config_of_data(path):
    words = ["--config", str(path), str(CONFIGS / "search.yaml"), "--use_cpu", "true", "--precision", "float32"]
    *_, args = parse_arguments(words)
    refuse_what_cannot_be_searched(args)
    assert {"learning_rate", "temperature", "margin"} <= args.search_space().keys()
    assert args.output_dir == "outputs/search"


def test_what_this_machine_or_this_start_cannot(tmp_path, data, monkeypatch):
    args = arguments(tmp_path, search=RATE)
    for splits in (None, {"one": data["validation"], "other": data["validation"]}):
        with pytest.raises(InputError, match="one validation split"):
            make(SearchTrainer, data, args, eval_dataset=splits)
    with pytest.raises(InputError, match="eval_near_rank1 is none of eval_rank1, "):
        refuse_what_cannot_be_searched(arguments(tmp_path, search=RATE, metric_for_best_model="near_rank1"))
    monkeypatch.setattr(CFFATrainingArguments, "world_size", 2)
    with pytest.raises(InputError, match="one process"):
        refuse_what_cannot_be_searched(args)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'cffa_hf\[tune\]'"):
        refuse_what_cannot_be_searched(args)


def test_an_earlier_run_is_not_searched_over(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    words = ["--dataset", "rstpreid", "--output_dir", str(tmp_path), "--use_cpu", "true", "--precision", "float32"]
    words += ["--search", json.dumps(RATE)]
    with pytest.raises(InputError, match="holds an earlier run"):
        main(words)
    (tmp_path / STUDY).write_bytes(b"")  # with a search in it, it is that search that goes on
    with pytest.raises(InputError, match="annotations of RSTPReid are missing"):
        main([*words, "--dataset_root", str(tmp_path)])


def test_a_trainer_keeps_to_the_rules_of_its_folder(tmp_path, data):
    trainer, _ = make(SearchTrainer, data, arguments(tmp_path, search=RATE))
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match="holds an earlier run"):
        trainer.search()
    assert not (tmp_path / STUDY).exists()


def test_only_trials_of_the_same_search_are_compared(tmp_path):
    def subject(*words, search=RATE, data="one"):
        config = ["--dataset", "rstpreid", "--output_dir", str(tmp_path), "--use_cpu", "true", "--precision", "float32"]
        model_args, data_args, args = parse_arguments([*config, "--search", json.dumps(search), *words])
        return {**search_subject(model_args, data_args, args, None), "space": search, "data": {"train": data}}, args

    first, args = subject()
    study, _ = open_study(tmp_path, args, first)
    study.ask()
    again, _ = open_study(tmp_path, args, first)
    assert [trial.state.name for trial in again.trials] == ["FAIL"]
    for changed, words in [
        (subject(search=RATE | {"margin": [0.1]})[0], r"bounds or choices \(margin\)"),
        (subject(data="another")[0], r"data \(train\)"),
        (subject("--num_train_epochs", "3")[0], r"settings \(num_train_epochs\)"),
        (subject("--seed", "3")[0], r"settings \(seed\)"),
        (subject("--caption_noise", "0.2")[0], r"settings \(caption_noise\)"),
        (subject("--metric_for_best_model", "mAP")[0], r"settings \(metric_for_best_model\)"),
    ]:
        with pytest.raises(InputError, match=words):
            open_study(tmp_path, args, changed)
    # Its own learning rate is searched anyway, and evaluating in larger batches changes nothing.
    open_study(tmp_path, args, subject("--learning_rate", "1", "--per_device_eval_batch_size", "3")[0])
    _, args = subject("--overwrite_output_dir", "true")
    assert open_study(tmp_path, args, {"data": {}})[0].trials == []


def test_a_damaged_study_is_named(tmp_path):
    (tmp_path / STUDY).write_bytes(b"this is no database, but long enough to have a head of a hundred bytes" * 20)
    with pytest.raises(
        InputError, match=r"search\.db cannot be used as a study .*not a database.*overwrite_output_dir"
    ):
        open_study(tmp_path, arguments(tmp_path, search=RATE), {})
