"""Training on streams and on several sets: the same batches again, after a kill, and over processes."""

import json
import os
import shlex
import signal
import sys
from pathlib import Path

import pytest
import yaml

from cffa_hf.arguments.parsing import parse_arguments
from cffa_hf.cli import main as run_command
from cffa_hf.cli.train import main
from cffa_hf.data.collator import PairCollator
from cffa_hf.data.seen import read_seen
from cffa_hf.data.shards import open_shards
from cffa_hf.data.stream import StreamBatches
from cffa_hf.demo import write_demo_dataset
from cffa_hf.errors import InputError
from cffa_hf.training.order import check_order_to_resume
from tests.processes import SETTINGS, Run, run_python, run_ranks, write_people
from tests.shards import write_shards
from tests.tiny import IMAGE_SIZE, person_rows, tiny_processor
from tests.trainers import CONTEXT, QUIET, FixedTransform, fitting_model, tiny_trainer

REPOSITORY = Path(__file__).resolve().parents[2]
SIZES = (17, 3, 22, 8)
STREAM = {"streaming": "true", "stream_buffer": 10, "eval_strategy": '"no"', "logging_steps": 1}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder)
        patch.setenv("HF_DATASETS_CACHE", str(folder))
        yield


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return write_shards(tmp_path_factory.mktemp("data") / "shards", SIZES)


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    return write_people(tmp_path_factory.mktemp("data") / "people")


def losses(history) -> list[dict]:
    return [
        {name: entry[name] for name in entry if name.startswith("loss") or name in ("step", "grad_norm")}
        for entry in history
        if "loss" in entry
    ]


def stream_trainer(folder, shards, *, rank=0, processes=1, **settings):
    """A trainer of a stream, and the labels of its batches, which its transform notes."""
    processor = tiny_processor(person_rows())
    tokenizer = processor.tokenizer
    stream = StreamBatches(
        open_shards(shards),
        tokenizer,
        PairCollator(tokenizer.pad_token_id),
        image_size=IMAGE_SIZE,
        context_length=CONTEXT,
        batch_size=6,
        rank=rank,
        processes=processes,
        buffer=6,
    )
    transform = FixedTransform(True)
    always = {
        "per_device_train_batch_size": 6,
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        **QUIET,
    }
    trainer = tiny_trainer(
        folder,
        processor=processor,
        transform=transform,
        pairs=lambda *_: stream,
        **{"model": fitting_model(processor, use_identity=False), **always, **settings},
    )
    return trainer, transform.seen


def test_a_run_that_goes_on_has_the_batches_it_would_have_had(shards, tmp_path):
    accumulated = {"gradient_accumulation_steps": 2}
    whole, batches = stream_trainer(tmp_path / "whole", shards, **accumulated)
    whole.train()
    assert whole.num_examples(whole.get_train_dataloader()) == 48
    assert len(batches) == 16
    for epoch in (batches[:8], batches[8:]):  # no image twice; the label of one without identity is negative
        numbers = [-1 - label if label < 0 else label for batch in epoch for label in batch]
        assert len(numbers) == len(set(numbers)) == 48  # of 50
    stopped, first = stream_trainer(
        tmp_path / "run", shards, **accumulated, max_steps=5, save_strategy="steps", save_steps=5
    )
    stopped.train()
    again, rest = stream_trainer(tmp_path / "run", shards, **accumulated)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-5"))
    assert first + rest == batches
    other, _ = stream_trainer(tmp_path / "run", write_shards(tmp_path / "other", (30, 20)), **accumulated)
    with pytest.raises(
        InputError, match=r"had other batches \(.*shards .* instead of .*samples 50 instead of 50|had other batches"
    ):
        other.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-5"))


def test_a_stream_and_a_classifier_do_not_go_together(shards, tmp_path):
    processor = tiny_processor(person_rows())
    with pytest.raises(InputError, match="no classes; make the model with use_identity=False"):
        stream_trainer(tmp_path, shards, model=fitting_model(processor))


@pytest.mark.parametrize(
    ("before", "record", "message"),
    [
        ({}, {"stream": {"processes": 1}}, "trained on one data set, not streamed"),
        ({"weights": {"a": 1.0}}, {"weights": {"a": 2.0}}, r"other batches \(a 1\.0 instead of 2\.0\)"),
        ({"stream": {"processes": 4}}, {"stream": {"processes": 2}}, "processes 4 instead of 2"),
        ({"stream": {"processes": 4}}, {}, "trained on a stream"),
        ([], {}, "is damaged"),
    ],
)
def test_a_checkpoint_of_another_order_is_refused(tmp_path, before, record, message):
    if before != {}:
        (tmp_path / "order.json").write_text(json.dumps(before))
    with pytest.raises(InputError, match=message):
        check_order_to_resume(tmp_path, record)
    check_order_to_resume(tmp_path / "none", {})


def words_of(folder: Path, data: Path | None, **changes: object) -> list[str]:
    """Write a config of a tiny run; what the command is called with."""
    values = SETTINGS | {"output_dir": folder, "num_train_epochs": 1, "warmup_epochs": 0, "save_strategy": '"no"'}
    values |= {"report_to": "none"} | ({} if data is None else {"dataset": data}) | changes
    config = folder.with_suffix(".yaml")
    config.write_text("".join(f"{name}: {value}\n" for name, value in values.items()))
    return ["--config", str(config)]


def record_of(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_several_sets_train_together_and_another_one_is_evaluated(people, shards, tmp_path, capsys):
    write_mals(people.parent)
    sets = {"people": 2, str(shards): {"weight": 0.5, "validation_identities": 0, "test_identities": 0}, "mals": 1.0}
    changes = {"datasets": json.dumps(sets), "dataset_root": people.parent, "eval_dataset": "people"}
    main(words_of(tmp_path / "run", None, **changes, check_images="true"))
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    record = record_of(tmp_path / "run")
    assert record["dataset"]["name"] == "people+shards+mals"
    assert list(record["dataset"]["weights"].values()) == [2.0, 0.5, 1.0]
    assert str(shards.parent) not in json.dumps(record)  # no path of this machine
    assert any("eval_rank1" in entry for entry in state["log_history"])
    assert state["global_step"] == (2 * 48 + 50 + 16) // 8
    seen = read_seen(tmp_path / "run")
    assert [sorted(each.splits) for each in seen.datasets] == [["train"], ["train"], ["train"], ["validation"]]
    assert seen.unrecorded == []


def write_mals(folder: Path) -> Path:
    """A set of single images without a validation split."""
    (folder / "MALS" / "gene_crop").mkdir(parents=True)
    entries = []
    for row in person_rows(16, 1, first_id=70):
        (folder / "MALS" / "gene_crop" / row["file_path"]).write_bytes(row["image"]["bytes"])
        entries.append({"image": f"gene_crop/{row['file_path']}", "caption": row["captions"][0]})
    (folder / "MALS" / "g_0_attrs.json").write_text(json.dumps(entries))
    return folder / "MALS"


def test_one_set_under_two_names_is_refused(tmp_path):
    root = write_mals(tmp_path).parent
    with pytest.raises(InputError, match="mals and MALS are the same images; name them once, with one weight"):
        main(words_of(tmp_path / "run", None, datasets='{"mals": 1, "MALS": 1}', dataset_root=root))


def test_without_a_validation_split_none_is_said_to_be_evaluated(tmp_path, caplog, capsys):
    root = write_mals(tmp_path).parent
    main(words_of(tmp_path / "run", None, datasets='{"mals": 1}', dataset_root=root))
    assert "of several data sets" not in caplog.text
    assert "no validation split" in caplog.text
    next_line = capsys.readouterr().out.splitlines()[-1]
    assert next_line.startswith(
        f"Next: cffa-hf evaluate {tmp_path / 'run'} --dataset DATASET --report, where DATASET has"
    )


def test_the_next_command_of_a_set_without_test_people_runs_as_it_is_printed(tmp_path, capsys):
    root = write_mals(tmp_path).parent
    main(words_of(tmp_path / "DATASET", Path("mals"), dataset_root=root, validation_identities=4))
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.endswith("--split validation --report")
    run_command(shlex.split(line.removeprefix("Next: cffa-hf ")))
    assert "/validation  text-to-image" in capsys.readouterr().out
    assert (tmp_path / "DATASET" / "report.html").is_file()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"datasets": {"a": 0}}, "gives a the weight 0, but it must be a positive number"),
        ({"datasets": {"a": {"weight": -1}}}, "gives a the weight -1"),
        ({"datasets": {"a": {"wait": 1}}}, "unknown setting 'wait' for a"),
        ({"datasets": {"a": {"test_identities": "x"}}}, "'x' as test_identities, but it must be a whole number"),
        ({"datasets": {"a": 1}, "dataset": "b"}, "dataset and datasets do not go together"),
        ({"datasets": {"a": 1}, "streaming": True}, "streaming takes one set"),
        ({"dataset": "a", "streaming": True, "caption_noise": 0.1}, "caption_noise takes one data set"),
        (
            {"dataset": "a", "streaming": True, "validation_identities": 3},
            "leave validation_identities out, and set eval_d",
        ),
        ({"dataset": "a", "streaming": True, "cache_images": True}, "leave cache_images out"),
        ({"datasets": '{"a": 1, "a": 2}'}, r"got .* \('a' is set twice\)"),
        ({"datasets": "{"}, r"datasets must be JSON like .* \(Expecting property name"),
        ({"dataset": "a", "stream_buffer": 0}, "stream_buffer must be at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_sentence(tmp_path, settings, message):
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({**settings, "output_dir": str(tmp_path / "run")}))
    with pytest.raises(InputError, match=message) as error:
        parse_arguments(["--config", str(tmp_path / "x.yaml")])
    assert str(error.value).endswith(".")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "identity"}, "does not go with sampler identity"),
        ({"noisy_pairs": "consensus"}, "does not go with noisy_pairs"),
        ({"per_device_train_batch_size": 64}, "the shards hold 50 samples, but a batch of 64"),
    ],
)
def test_a_stream_refuses_what_it_cannot_follow(shards, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        main(words_of(tmp_path / "run", shards, **STREAM, **changes))


@pytest.mark.slow
def test_a_killed_stream_goes_on_as_the_undisturbed_one(shards, people, tmp_path):
    evaluated = {"eval_dataset": people, "eval_strategy": "epoch"}
    settings = {**STREAM, **evaluated, "dataloader_num_workers": 2, "per_device_train_batch_size": 4}
    whole = Run(tmp_path / "whole", shards, **settings)
    run = Run(tmp_path / "run", shards, **settings)
    run.wait_for_step(9)  # in the second epoch of 12 steps at the latest
    run.kill(signal.SIGKILL)
    assert run.end() == -signal.SIGKILL
    run = Run(tmp_path / "run", shards, resume_from_checkpoint="auto", **settings)
    assert run.end() == 0, run.output()
    assert whole.end() == 0, whole.output()
    assert losses(run.history()) == losses(whole.history())
    assert any("eval_rank1" in entry for entry in run.history())
    assert "use_identity is off for this run" in run.output()
    assert "2 images left out of each epoch" in run.output()
    record = record_of(tmp_path / "run")
    assert record["dataset"]["stream"]["loading_processes"] == 2
    refused = Run(tmp_path / "run", shards, resume_from_checkpoint="auto", **{**settings, "dataloader_num_workers": 1})
    assert refused.end() == 2
    assert "loading_processes 2 instead of 1" in refused.output()


def worker(folder: str, shards: str) -> None:
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    trainer, batches = stream_trainer(folder, shards, rank=rank, processes=processes)
    trainer.train()
    Path(folder, f"batches-{rank}.json").write_text(json.dumps([batches, losses(trainer.state.log_history)]))


@pytest.mark.slow
def test_four_processes_share_uneven_shards(shards, tmp_path):
    for done in run_ranks(4, __file__, tmp_path, shards):
        assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads((tmp_path / f"batches-{rank}.json").read_text()) for rank in range(4)]
    assert {len(batches) for batches, _ in found} == {4}
    for epoch in (slice(0, 2), slice(2, 4)):
        read = [label for batches, _ in found for batch in batches[epoch] for label in batch]
        assert len(read) == len(set(read)) == 48  # of 50 images; the loss saw those of all processes


@pytest.mark.slow
def test_pre_training_then_fine_tuning_as_two_configs(tmp_path):
    write_demo_dataset(tmp_path / "many", identities=(40, 4, 4), images_per_identity=1, seed=7, workers=1)
    write_demo_dataset(tmp_path / "few", identities=(20, 6, 4), images_per_identity=2, workers=1)
    small = {"hidden_size": 64, "num_layers": 1, "projection_dim": 64, "local_dim": 32, "vocabulary_size": 600}
    common = {"use_cpu": "true", "precision": "float32", "report_to": "none", "per_device_train_batch_size": 8}
    common |= {"disable_tqdm": "true", "save_strategy": "epoch"}

    def launched(config: str, **settings: object) -> str:
        words = [word for name, value in {**common, **settings}.items() for word in (f"--{name}", str(value))]
        done = run_python(REPOSITORY / "run_train.py", "--config", config, *words)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout + done.stderr

    said = launched(
        "configs/pretrain/demo.yaml",
        dataset_root=tmp_path / "many",
        eval_dataset_root=tmp_path / "few",
        output_dir=tmp_path / "pre",
        num_train_epochs=1,
        **small,
    )
    assert "use_identity is off" in said
    seen = read_seen(tmp_path / "pre")
    assert [sorted(each.splits) for each in seen.datasets] == [["train"], ["validation"]]
    said = launched(
        "configs/demo.yaml",
        dataset_root=tmp_path / "few",
        init_from=tmp_path / "pre",
        output_dir=tmp_path / "fine",
        num_train_epochs=1,
    )
    record = record_of(tmp_path / "fine")
    assert record["init_from"] == "pre"
    assert [sorted(each.splits) for each in read_seen(tmp_path / "fine").datasets][:2] == [["train"], ["validation"]]


if __name__ == "__main__":
    worker(*sys.argv[1:])
