"""From training to evaluation: people are divided once, and what was seen is refused or marked everywhere."""

import json
import shutil
from pathlib import Path

import pytest

from cffa_hf.arguments.data import DataArguments
from cffa_hf.cli import main
from cffa_hf.data.loading import load_person_dataset
from cffa_hf.data.seen import read_seen, seen_by_run
from cffa_hf.errors import InputError
from cffa_hf.evaluation.split import load_split
from cffa_hf.names import SEEN_RECORD
from cffa_hf.publishing.model import dry_run_model
from cffa_hf.records.results import shared_sentence
from tests.processes import Run, write_people
from tests.tiny import tiny_model, tiny_processor

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Sixteen people without splits."""
    folder = write_people(tmp_path_factory.mktemp("seen") / "people")
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for line in lines:
        del line["split"]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture(scope="module")
def model(people):
    """A model that has seen what seed 3 makes train and validation."""
    folder = people.parent / "model"
    data = load_person_dataset(people, seed=3)
    tiny_model().base_model.save_pretrained(folder)
    tiny_processor(data["train"]).save_pretrained(folder)
    seen_by_run(data, "people", False).write(folder)
    return folder


def ids(rows):
    return set(rows["person_id"])


def test_a_training_with_another_seed_is_evaluated_on_its_own_test(people, tmp_path):
    run = Run(tmp_path / "run", people, split_seed=3, max_steps=2, save_strategy="steps", save_steps=1)
    assert run.end() == 0, run.output()
    assert "divided with seed 3" in run.output()
    record = json.loads((tmp_path / "run" / "run.json").read_text())["dataset"]
    assert record["division"]["seed"] == 3
    assert all(len(split["fingerprint"]) == 16 for split in record["splits"].values())
    expected = load_person_dataset(people, seed=3)
    assert ids(load_person_dataset(people, seed=0)["test"]) != ids(expected["test"])
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-1"):
        split = load_split(DataArguments(dataset=str(people)), "test", {"run": read_seen(folder)})
        assert ids(split.rows) == ids(expected["test"])
        assert split.shared == []

    resumed = Run(tmp_path / "run", people, split_seed=4, max_steps=3, resume_from_checkpoint="auto")
    assert resumed.end() == 2
    assert "not the one that the resumed run was trained with" in resumed.output()
    further = Run(tmp_path / "further", people, init_from=tmp_path / "run", split_seed=4, max_steps=3)
    assert further.end() == 2
    assert "the checkpoint was trained on" in further.output()
    assert not list((tmp_path / "further").glob("checkpoint-*"))


def test_seen_people_are_refused_or_marked_on_screen_record_report_and_card(people, model, evaluate, tmp_path, capsys):
    rows = [json.loads(line) for line in (people / "metadata.jsonl").read_text().splitlines()]
    test = ids(load_person_dataset(people, seed=0)["test"])
    for row in rows:  # divided by their owner, and otherwise than the run
        row["split"] = "test" if row["person_id"] in test else "train"
        row["file_name"] = str(Path("people") / row["file_name"])
    (people.parent / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = (model, "--dataset", people.parent, "--num_workers", 0, "--output_dir", model)
    with pytest.raises(SystemExit) as end:
        evaluate(*words)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert "the test split shares" in error
    assert "set allow_shared_people true" in error
    assert not (model / "results.json").exists()

    evaluate(*words, "--allow_shared_people", "true", "--report")
    assert "NOT A FAIR TEST" in capsys.readouterr().out
    entry = json.loads((model / "results.json").read_text())["splits"]["test"]
    assert {part["role"] for part in entry["shared"]} <= {"trained", "chosen"}
    assert all(part["people"] > 0 < part["images"] for part in entry["shared"])
    assert shared_sentence(entry) in (model / "report.html").read_text()
    dry_run_model(model, tmp_path / "out", "me/model")
    assert shared_sentence(entry) in (tmp_path / "out" / "README.md").read_text()
    assert read_seen(tmp_path / "out") == read_seen(model)
    (people.parent / "metadata.jsonl").unlink()


def test_what_is_checked_is_what_is_evaluated(people, model, tmp_path):
    folder = tmp_path / "people"
    shutil.copytree(people, folder)
    expected = load_person_dataset(people, seed=3)["test"]  # the division of the model's run, not that of seed 0
    moved = next(
        path for path in expected["file_path"] if path not in load_person_dataset(people, seed=0)["test"]["file_path"]
    )
    (folder / moved).write_bytes((folder / moved).read_bytes()[:60])
    with pytest.raises(InputError, match=rf"1 of .* images is missing or cannot be read.*{moved}"):
        load_split(DataArguments(dataset=str(folder)), "test", {"model": read_seen(model)})


def test_a_compared_checkpoint_may_not_have_seen_the_test_either(people, model, tmp_path):
    other = seen_by_run(load_person_dataset(people, seed=0), "people", False)
    with pytest.raises(InputError, match=r"trained on.*\(other\)"):
        load_split(DataArguments(dataset=str(people)), "test", {"model": read_seen(model), "other": other})


def test_without_a_record_nothing_is_claimed(people, model):
    split = load_split(DataArguments(dataset=str(people)), "test", {"model": None})
    assert split.shared is None
    assert "not recorded" in shared_sentence({"shared": None})
    assert shared_sentence({"shared": []}) == ""


def test_validation_and_train_may_be_asked_for_and_are_marked(people, model):
    for split, role in (("validation", "chosen"), ("train", "trained")):
        (part,) = load_split(DataArguments(dataset=str(people)), split, {"model": read_seen(model)}).shared
        assert part["role"] == role


def test_a_published_dataset_is_divided_as_the_run_was_and_says_so(people, model, tmp_path, capsys):
    words = ["push-dataset", str(people), "--repo-id", "me/people"]
    assert main([*words, "--dry-run", str(tmp_path / "same"), "--run", str(model)]) == 0
    assert main([*words, "--dry-run", str(tmp_path / "default")]) == 0
    for folder, seed in (("same", 3), ("default", 0)):
        expected = load_person_dataset(people, seed=seed)
        published = {split: load_rows(tmp_path / folder / "data", split) for split in ("train", "validation", "test")}
        assert published == {split: ids(rows) for split, rows in expected.items()}
        assert expected.division.sentence in (tmp_path / folder / "README.md").read_text()
    assert "divided with seed 3" in capsys.readouterr().err
    assert main([*words, "--dry-run", str(tmp_path / "x"), "--run", str(people)]) == 2
    assert SEEN_RECORD in capsys.readouterr().err


def test_what_is_no_image_is_not_published(people, tmp_path, capsys):
    folder = tmp_path / "people"
    folder.mkdir()
    (folder / "notes.jpg").write_text("a letter")
    row = {"file_name": "notes.jpg", "caption": "a person", "person_id": 1, "split": "train"}
    (folder / "metadata.jsonl").write_text(json.dumps(row))
    assert main(["push-dataset", str(folder), "--repo-id", "me/people", "--dry-run", str(tmp_path / "out")]) == 2
    assert "notes.jpg" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def load_rows(folder, split):
    import pyarrow.parquet as pq

    return {
        person for file in folder.glob(f"{split}-*.parquet") for person in pq.read_table(file)["person_id"].to_pylist()
    }
