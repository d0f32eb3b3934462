"""The configs of methods train on any data, and each computes the terms that its paper has."""

import json
from pathlib import Path

import pytest
import yaml

from cffa_hf.demo import write_demo_dataset
from tests.processes import run_python

REPOSITORY = Path(__file__).resolve().parents[2]
METHODS = REPOSITORY / "configs" / "methods"
TERMS = {
    "clip": {"alignment_global"},
    "cmpm": {"alignment_global", "identity"},
    "irra": {"alignment_global", "identity", "mlm"},
    "triplet": {"alignment_global", "alignment_local"},
    "rde": {"alignment_global", "alignment_local"},
    "best": {"alignment_global", "alignment_local", "identity"},
    "cffa": {"alignment_global", "alignment_local", "identity", "mlm"},
}
SMALL = [
    *("--hidden_size", "64", "--num_layers", "1", "--projection_dim", "64", "--local_dim", "32", "--max_steps", "1"),
    *("--per_device_train_batch_size", "16", "--use_cpu", "true", "--precision", "float32", "--logging_steps", "1"),
    *("--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false", "--report_to", "none"),
]


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Two dozen rendered people in two layouts."""
    root = tmp_path_factory.mktemp("people")
    for layout in ("cuhk_pedes", "icfg_pedes"):
        write_demo_dataset(root, layout, identities=(20, 4, 4), images_per_identity=2, workers=1)
    return root


def test_every_method_is_tried():
    assert {path.stem for path in METHODS.glob("*.yaml")} == TERMS.keys()


def test_a_method_says_nothing_of_the_data():
    data = set(yaml.safe_load((REPOSITORY / "configs" / "cuhk_pedes.yaml").read_text())) - {"num_train_epochs"}
    for path in METHODS.glob("*.yaml"):
        assert not data & set(yaml.safe_load(path.read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("method", TERMS)
def test_every_method_trains(method, people, tmp_path):
    layout = "icfg_pedes" if method == "rde" else "cuhk_pedes"
    configs = [f"configs/{layout}.yaml", "configs/sizes/tiny.yaml", f"configs/methods/{method}.yaml"]
    words = [*SMALL, "--dataset_root", people, "--output_dir", tmp_path / "run"]
    done = run_python(REPOSITORY / "run_train.py", "--config", *configs, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    history = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    entry = next(entry for entry in history if "loss" in entry)
    terms = {name.removeprefix("loss_") for name in entry if name.startswith("loss_")}
    assert terms == TERMS[method]
    assert all(entry[f"loss_{name}"] > 0 for name in terms)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["dataset"]["name"] == layout
