import hashlib
import json
import shutil

import pytest
import torch
from datasets import Dataset

from cffa_hf.checkpoints.folders import find_folder
from cffa_hf.checkpoints.provenance import open_checkpoint, read_selection, weights_digest
from cffa_hf.data.fingerprints import dataset_fingerprint
from cffa_hf.data.rows import FEATURES
from cffa_hf.errors import InputError
from cffa_hf.records.environment import package_versions
from tests.tiny import person_rows, tiny_model, tiny_processor

ROWS = person_rows(identities=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with its published model and two training checkpoints; the first one was the best."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    best, last, processor = tiny_model(seed=0), tiny_model(seed=1), tiny_processor(ROWS)
    best.base_model.save_pretrained(folder)
    best.save_pretrained(folder / "checkpoint-2")
    last.save_pretrained(folder / "checkpoint-4")
    state = {"best_model_checkpoint": "elsewhere/run/checkpoint-2", "best_global_step": 2, "global_step": 4}
    for place in (folder, folder / "checkpoint-2", folder / "checkpoint-4"):
        processor.save_pretrained(place)
        (place / "trainer_state.json").write_text(json.dumps(state))
    return folder


@pytest.mark.parametrize("place", ["", "checkpoint-2"])
def test_published_and_training_checkpoints_embed_alike(run, place):
    checkpoint = open_checkpoint(run / place, device="cpu")
    pixels = checkpoint.processor(images=[torch.zeros(3, 64, 32)], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        expected = tiny_model(seed=0).get_image_features(pixels)
        assert torch.equal(checkpoint.model.get_image_features(pixels), expected)
    assert not checkpoint.model.training
    content = (run / place / "model.safetensors").read_bytes()
    assert checkpoint.weights_sha256 == hashlib.sha256(content).hexdigest()


def test_results_name_no_folder_of_the_machine(run):
    assert open_checkpoint(run, device="cpu").to_dict()["name"] == "run"


def test_what_chose_the_checkpoint(run, tmp_path):
    assert read_selection(run) == "validation"
    assert read_selection(run / "checkpoint-2") == "validation"
    assert read_selection(run / "checkpoint-4") == "last epoch"
    assert read_selection(tmp_path) == "unknown"
    # The best step is noted, but the last weights were published.
    shutil.copytree(run, tmp_path / "run")
    tiny_model(seed=1).base_model.save_pretrained(tmp_path / "run")
    assert read_selection(tmp_path / "run") == "last epoch"
    shutil.rmtree(tmp_path / "run" / "checkpoint-2")
    assert read_selection(tmp_path / "run") == "validation"


def test_what_was_published_says_it_with_its_results(run, tmp_path):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("trainer_state.json", "checkpoint-*"))
    assert open_checkpoint(tmp_path / "run", device="cpu").selected_on == "unknown"
    digest = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    for sha, told, expected in ((digest, "test", "test"), (digest, "x", "unknown"), ("0", "test", "unknown")):
        results = {"selected_on": told, "checkpoint": {"weights_sha256": sha}}
        (tmp_path / "run" / "results.json").write_text(json.dumps(results))
        assert open_checkpoint(tmp_path / "run", device="cpu").selected_on == expected


@pytest.mark.parametrize("metric", ["eval_rank1", "eval_test_rank1"])
def test_the_test_split_is_named_where_it_chose(run, tmp_path, metric):
    shutil.copytree(run, tmp_path / "run")
    log = [{"step": 2, metric: 80.0, "eval_mAP": 70.0}, {"step": 4, metric: 75.0}]
    state = {"best_model_checkpoint": "run/checkpoint-2", "best_global_step": 2, "best_metric": 80.0, "global_step": 4}
    for place in ("", "checkpoint-2", "checkpoint-4"):
        (tmp_path / "run" / place / "trainer_state.json").write_text(json.dumps({**state, "log_history": log}))
    chosen = "test" if "test" in metric else "validation"
    assert [read_selection(tmp_path / "run" / place) for place in ("", "checkpoint-2")] == [chosen, chosen]
    assert read_selection(tmp_path / "run" / "checkpoint-4") == "last epoch"
    (tmp_path / "run" / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": None}))
    assert read_selection(tmp_path / "run") == "last epoch"


def test_a_hub_that_does_not_answer_is_no_typo(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="not in the cache, and the Hub could not be reached; name a folder"):
        find_folder("nobody/such-model")


def test_what_is_no_checkpoint_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in (tmp_path, tmp_path / "missing", "nobody/such-model", "no such name!"):
        with pytest.raises(
            InputError, match=r"no config\.json|neither a folder|not in the cache, and HF_HUB_OFFLINE forbids"
        ):
            open_checkpoint(name)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="no CFFA model"):
        open_checkpoint(tmp_path)
    with pytest.raises(InputError, match="device"):
        open_checkpoint(run, device="abacus")


def test_records_of_another_shape_and_older_weight_files(tmp_path):
    (tmp_path / "trainer_state.json").write_text("[]")
    assert read_selection(tmp_path) == "unknown"
    (tmp_path / "pytorch_model.bin").write_bytes(b"weights")
    assert weights_digest(tmp_path) == hashlib.sha256(b"weights").hexdigest()


def test_the_fingerprint_sees_images_captions_and_identities(tmp_path):
    fingerprint = dataset_fingerprint(ROWS)
    assert len(fingerprint) == 16
    rows = ROWS.to_list()
    for row in rows:  # the same images as files
        path = tmp_path / row["file_path"]
        path.write_bytes(row["image"]["bytes"])
        row["image"] = {"path": str(path), "bytes": None}
    assert dataset_fingerprint(Dataset.from_list(rows, features=FEATURES)) == fingerprint
    changed = [dict(row) for row in rows]
    changed[0]["person_id"] += 1
    assert dataset_fingerprint(Dataset.from_list(changed, features=FEATURES)) != fingerprint
    (tmp_path / rows[0]["file_path"]).write_bytes(rows[1]["image"]["path"].encode())
    assert dataset_fingerprint(Dataset.from_list(rows, features=FEATURES)) != fingerprint


def test_versions():
    assert {"cffa_hf", "torch", "transformers"} <= package_versions().keys()
