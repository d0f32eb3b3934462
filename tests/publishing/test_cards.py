"""Cards: valid metadata, the same numbers as the records, nothing lost that a person wrote."""

import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from cffa_hf.errors import InputError
from cffa_hf.publishing.cards import BEGIN_NOTES, END_NOTES, dataset_card, model_card, read_notes
from tests.tiny import tiny_config

METRICS = {"rank1": 75.4386, "rank5": 89.9, "rank10": 94.0, "mAP": 67.0, "mINP": 51.2}
CUHK_TEST = {"identities": 1000, "images": 3074, "captions": 6156}
DEMO_TEST = {"identities": 30, "images": 120, "captions": 240}


def results(counts: dict = CUHK_TEST, rendered: bool | None = None, **more) -> dict:
    entry = {"dataset": "cuhk_pedes", "counts": counts, "text_to_image": METRICS, "image_to_text": METRICS}
    entry |= {} if rendered is None else {"rendered": rendered}
    return {"format": 1, "selected_on": "validation", "splits": {"test": entry, "validation": entry}, **more}


def run_record(**changes) -> dict:
    record = {
        "format": 1,
        "package": {"version": "0.1.0", "commit": "0123456789abcdef", "uncommitted_changes": False},
        "init_from": "openai/clip-vit-base-patch16",
        "dataset": {"name": "cuhk_pedes", "rendered": False, "splits": {"train": CUHK_TEST, "test": CUHK_TEST}},
        "settings": [{"name": "temperature", "value": 0.02, "published": 0.015, "help": "Temperature | of MAL"}],
        "training": {
            "seed": 7,
            "epochs": 60.0,
            "steps": 63840,
            "pairs_per_step": 64,
            "seconds": 5400,
            "resumed": False,
        },
        "environment": {"device": "NVIDIA H100", "precision": "float32", "system": "Linux", "torch": "2.13.0"},
    }
    return record | changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_config().save_pretrained(tmp_path)
    return tmp_path


def write(folder: Path, run: dict | None = None, result: dict | None = None) -> None:
    for name, record in (("run.json", run), ("results.json", result)):
        if record is not None:
            (folder / name).write_text(json.dumps(record))


def check_valid(card: ModelCard) -> dict:
    """Read a card as the Hub does and return its metadata."""
    text = str(card)
    again = ModelCard(text)
    assert again.data.to_dict() == card.data.to_dict()
    data = yaml.safe_load(text.split("---")[1])
    if "model-index" in data:
        name, entries = model_index_to_eval_results(data["model-index"])
        assert eval_results_to_model_index(name, entries) == data["model-index"]
    assert "None" not in again.text
    assert "{{" not in text
    assert "{%" not in text
    return data


def test_metadata_and_tables_hold_the_numbers_of_the_results(folder):
    write(folder, run_record(), results())
    card = model_card(folder, "owner/model")
    data = check_valid(card)
    assert data["base_model"] == "openai/clip-vit-base-patch16"
    assert data["pipeline_tag"] == "image-feature-extraction"
    assert data["license"] == "other"
    entries = card.data.eval_results
    assert {(entry.task_type, entry.dataset_split) for entry in entries} == {
        (f"{direction}-retrieval", split)
        for direction in ("text-to-image", "image-to-text")
        for split in ("validation", "test")
    }
    assert {entry.metric_value for entry in entries if entry.metric_type == "rank1"} == {75.44}
    assert "| test | text to image | 75.44 | 89.90 | 94.00 | 67.00 | 51.20 | 6,156 | 3,074 |" in card.text
    assert "| test | image to text | 75.44 | 89.90 | 94.00 | 67.00 | 51.20 | 3,074 | 6,156 |" in card.text
    assert "75.44 / 89.88 / 94.01" in card.text  # what the authors report stands beside
    assert r"| `temperature` | 0.02 | 0.015 | Temperature \| of MAL |" in card.text
    for words in ("1 h 30 min", "NVIDIA H100", "0123456789ab", "surveillance", "another person in 25 of 100", "63,840"):
        assert words in card.text


@pytest.mark.parametrize(
    ("run", "result"),
    [
        (None, None),
        ({}, {}),
        ({"dataset": None, "settings": "?", "training": []}, {"splits": {"test": None}}),
        (run_record(settings=[], init_from=None), {"splits": {"test": {"text_to_image": {"rank1": None}}}}),
        (run_record(), {"splits": {"test": {"text_to_image": {"rank1": 50.0}}}}),
        ({"dataset": {"name": "my_people", "splits": {"train": {}}}}, results({})),
    ],
)
def test_card_says_less_where_records_are_missing(folder, run, result):
    write(folder, run, result)
    card = model_card(folder, "owner/model")
    check_valid(card)
    assert "## What it is for" in card.text


def test_rendered_data_are_called_so_and_not_compared(folder):
    dataset = {"name": "cuhk_pedes", "rendered": True, "splits": {"train": DEMO_TEST}}
    write(folder, run_record(dataset=dataset, init_from=None), results(DEMO_TEST))
    card = model_card(folder, "owner/model")
    data = check_valid(card)
    assert "do not exist" in card.text
    assert "authors of CFFA report" not in card.text
    assert data["license"] == "apache-2.0"
    assert data["model-index"][0]["results"][0]["dataset"]["type"] == "rendered-demo"
    assert "base_model" not in data


ABOUT_OTHERS = ("China", "strangers", "campuses", "English only", "list of English", "filmed without being asked")


@pytest.mark.parametrize("known", [True, False])
def test_only_what_is_known_is_said_of_where_images_and_captions_come_from(folder, known):
    name = "cuhk_pedes" if known else "my_people"
    write(folder, run_record(dataset={"name": name, "rendered": False, "splits": {"train": CUHK_TEST}}), None)
    card = model_card(folder, "owner/model")
    data = dataset_card({"train": CUHK_TEST}, name, "owner/data", rendered=False)
    assert (check_valid(card).get("language") == "en") == known
    assert (data.data.to_dict().get("language") == "en") == known
    text = " ".join(f"{card.text} {data.text}".split())
    assert [words for words in ABOUT_OTHERS if words in text] == (list(ABOUT_OTHERS) if known else [])
    assert ("is not recorded" in text) == (not known)


def test_selection_on_test_is_confessed(folder):
    write(folder, None, results(selected_on="test"))
    assert "too good" in model_card(folder, "owner/model").text


def test_notes_and_metadata_of_a_person_survive(folder):
    write(folder, run_record(dataset={"name": "mine"}), results())
    notes = "# Seen in use\n\n{{ not a template }} {% raw %} | ünï\n\n---\n"
    first = model_card(folder, "owner/model", notes=notes)
    first.data["license"], first.data["thumbnail"] = "mit", "https://example.org/x.png"
    first.data["tags"].append("campus")
    text = str(first)
    kept = ModelCard(text).data.to_dict()
    again = model_card(folder, "owner/model", notes=read_notes(text, "card"), kept=kept)
    assert read_notes(str(again), "card") == notes.strip()
    assert again.data.license == "mit"
    assert again.data.thumbnail == "https://example.org/x.png"
    assert "campus" in again.data.tags
    assert str(model_card(folder, "owner/model", notes=notes.strip(), kept=kept)) == str(again)


def test_results_that_are_gone_do_not_live_on_in_the_metadata(folder):
    write(folder, run_record(), results())
    kept = model_card(folder, "owner/model").data.to_dict()
    (folder / "results.json").unlink()
    assert "model-index" not in check_valid(model_card(folder, "owner/model", kept=kept))


@pytest.mark.parametrize(
    "text", [BEGIN_NOTES, END_NOTES, f"{END_NOTES} {BEGIN_NOTES}", f"{BEGIN_NOTES}{END_NOTES}" * 2]
)
def test_broken_marks_are_refused(text):
    with pytest.raises(InputError, match="once each"):
        read_notes(text, "the README.md")


def test_card_without_marks_has_no_notes():
    assert read_notes("# A card", "the README.md") is None
    assert read_notes(f"{BEGIN_NOTES}\n\n{END_NOTES}", "the README.md") == ""


def test_damaged_record_is_named(folder):
    (folder / "results.json").write_text("{")
    with pytest.raises(InputError, match=r"results\.json"):
        model_card(folder, "owner/model")


@pytest.mark.parametrize(("name", "rendered"), [("cuhk_pedes", False), ("cuhk_pedes", True), ("my_people", False)])
def test_dataset_card(name, rendered):
    card = dataset_card({"train": CUHK_TEST, "test": DEMO_TEST}, name, "owner/data", rendered=rendered, notes="Mine.")
    again = DatasetCard(str(card))
    assert again.data.to_dict() == card.data.to_dict()
    assert [part["split"] for part in again.data.configs[0]["data_files"]] == ["train", "test"]
    assert again.data.size_categories == "1K<n<10K"
    assert ("may not be passed on" in again.text) == (name == "cuhk_pedes" and not rendered)
    assert "| train | 1,000 | 3,074 | 6,156 |" in again.text
    assert read_notes(str(card), "card") == "Mine."


def test_intervals_are_on_the_card_with_what_they_are(folder):
    result = results()
    result["splits"]["test"]["confidence"] = {"level": 95, "text_to_image": {"rank1": [73.1, 77.5]}}
    write(folder, run_record(), result)
    text = " ".join(model_card(folder, "owner/model").text.split())
    assert "| test | text to image | 75.44 [73.10, 77.50] | 89.90 |" in text
    assert "In brackets: 95% bootstrap intervals over identities." in text
    write(folder, run_record(), results())
    assert "In brackets" not in model_card(folder, "owner/model").text
