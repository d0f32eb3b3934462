"""`run_train.py` as a user starts it: a real process, from JSON to a folder that AutoModel loads."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForPreTraining, AutoProcessor, CLIPConfig, CLIPModel

from cffa_hf import CFFAModel
from cffa_hf.arguments.data import TrainingDataArguments
from cffa_hf.checkpoints.provenance import read_selection
from cffa_hf.data.seen import read_seen
from cffa_hf.demo import write_demo_dataset
from cffa_hf.evaluation.split import load_split
from cffa_hf.inputs.captions import clean_caption
from cffa_hf.inputs.processor import train_tokenizer
from cffa_hf.publishing.cards import model_card
from tests.processes import run_python

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "run_train.py"
FOLDERS = {
    "cuhk_pedes": ("CUHK-PEDES", "reid_raw.json"),
    "icfg_pedes": ("ICFG-PEDES", "ICFG-PEDES.json"),
    "rstpreid": ("RSTPReid", "data_captions.json"),
}
PATH_KEY = {"cuhk_pedes": "file_path", "icfg_pedes": "file_path", "rstpreid": "img_path"}

pytestmark = pytest.mark.slow


def run(*words, folder=REPOSITORY):
    """Start the script and wait; nothing may reach for the network."""
    return run_python(SCRIPT, *words, folder=folder)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """The three layouts, 40 train identities each: more than one batch of 64 pairs."""
    root = tmp_path_factory.mktemp("data")
    for layout in FOLDERS:
        write_demo_dataset(root, layout, identities=(40, 6, 6), images_per_identity=2, seed=3, workers=1)
    return root


@pytest.fixture(scope="module")
def small_roots(tmp_path_factory):
    """The three layouts with a dozen people."""
    root = tmp_path_factory.mktemp("small")
    for layout in FOLDERS:
        write_demo_dataset(root, layout, identities=(10, 4, 4), images_per_identity=2, seed=4, workers=1)
    return root


@pytest.fixture(scope="module")
def clip(roots, tmp_path_factory):
    """A CLIP checkpoint with its tokenizer, as from the Hub but tiny."""
    folder = tmp_path_factory.mktemp("clip")
    rows = json.loads((roots / "CUHK-PEDES" / "reid_raw.json").read_text())
    tokenizer = train_tokenizer([clean_caption(text) for row in rows for text in row["captions"]], 600)
    sizes = {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2, "intermediate_size": 128}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**sizes, "vocab_size": len(tokenizer), "eos_token_id": 2},
        vision_config={**sizes, "image_size": 64, "patch_size": 32},
        projection_dim=64,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


SMALL = [  # the demo's config has `init_from: null`
    *("--image_size", "48", "16", "--patch_size", "8", "--hidden_size", "64"),
    *("--num_layers", "2", "--projection_dim", "64", "--local_dim", "32", "--vocabulary_size", "600"),
    *("--per_device_train_batch_size", "16", "--num_train_epochs", "2", "--use_cpu", "true", "--disable_tqdm", "true"),
]


def small_words(output, **changes):
    """The command line for a tiny run from random weights, from the demo's config."""
    words = ["--config", REPOSITORY / "configs" / "demo.yaml", *SMALL, "--output_dir", output]
    return [*words, *(word for name, value in changes.items() for word in (f"--{name}", value))]


def check_published(folder, epochs=2, validation=True):
    """Look at what a finished run leaves: a model that embeds, its processor, its history."""
    state = json.loads((folder / "trainer_state.json").read_text())
    assert state["epoch"] == epochs
    evaluations = [entry for entry in state["log_history"] if "eval_rank1" in entry]
    assert len(evaluations) == (epochs if validation else 0)
    for entry in evaluations:
        assert 0 <= entry["eval_rank1"] <= entry["eval_rank5"] <= 100
    assert not any(name.startswith("test") for entry in state["log_history"] for name in entry)
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert type(model) is CFFAModel
    tokens = processor(text=["a man in a red coat"], return_tensors="pt")
    with torch.no_grad():
        embedding = model.get_text_features(**tokens)
    assert embedding.shape == (1, model.config.embedding_dim)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(1))
    checkpoints = sorted(folder.glob("checkpoint-*"))
    assert 1 <= len(checkpoints) <= 2
    AutoModelForPreTraining.from_pretrained(checkpoints[-1])
    if validation:  # what is published is the best checkpoint, bit for bit
        best = AutoModel.from_pretrained(state["best_model_checkpoint"])
        published = load_file(folder / "model.safetensors")
        for name, value in best.state_dict().items():
            assert torch.equal(value, published[name]), name
    return model, state


@pytest.mark.parametrize("layout", FOLDERS)
def test_two_epochs_of_a_tiny_model(small_roots, tmp_path, layout):
    changes = {"dataset": layout, "dataset_root": small_roots}
    if layout == "icfg_pedes":
        changes["validation_identities"] = 3
    done = run(*small_words(tmp_path / "run", **changes))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Rank-1" in done.stdout + done.stderr
    model, _ = check_published(tmp_path / "run")
    assert model.config.image_size == (48, 16)


@pytest.mark.parametrize("layout", FOLDERS)
def test_shipped_config_with_only_paths_overridden(roots, clip, tmp_path, layout):
    done = run(
        *("--config", f"configs/{layout}.yaml", "--init_from", clip, "--dataset_root", roots),
        *("--output_dir", tmp_path / "run", "--num_train_epochs", "2"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    model, state = check_published(tmp_path / "run")
    assert model.config.image_size == (384, 128)
    assert model.config.grid_size == (12, 4)
    assert state["train_batch_size"] == 64
    settings = yaml.safe_load((REPOSITORY / "configs" / f"{layout}.yaml").read_text())
    assert settings["dataset"] == layout


@pytest.mark.parametrize("layout", FOLDERS)
def test_a_directory_smaller_than_one_batch_trains_too(small_roots, clip, tmp_path, layout):
    done = run(
        *("--config", f"configs/{layout}.yaml", "--init_from", clip, "--dataset_root", small_roots),
        *("--output_dir", tmp_path / "run", "--num_train_epochs", "2"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    _, state = check_published(tmp_path / "run")
    assert state["global_step"] == 2


@pytest.mark.parametrize("layout", FOLDERS)
def test_published_config_with_only_paths_overridden(small_roots, clip, tmp_path, layout):
    done = run(
        *("--config", f"configs/published/{layout}.yaml", "--init_from", clip, "--dataset_root", small_roots),
        *("--output_dir", tmp_path / "run", "--num_train_epochs", "1", "--use_cpu", "true"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    check_published(tmp_path / "run", epochs=1, validation=layout != "icfg_pedes")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["environment"]["precision"] == "float16 weights, updated in place"
    assert not {"precision", "mal_scale", "dataloader_drop_last"} & {entry["name"] for entry in record["settings"]}


def test_a_run_that_is_chosen_on_the_test_split_says_so_everywhere(small_roots, tmp_path):
    words = small_words(tmp_path / "run", dataset_root=small_roots, select_on="test", cache_images="true")
    done = run(*words)
    assert done.returncode == 0, done.stderr[-3000:]
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert len([entry for entry in state["log_history"] if "eval_test_rank1" in entry]) == 2
    assert not any("eval_rank1" in entry for entry in state["log_history"])
    assert read_selection(tmp_path / "run") == "test"
    assert read_selection(tmp_path / "run" / Path(state["best_model_checkpoint"]).name) == "test"
    training = json.loads((tmp_path / "run" / "run.json").read_text())["training"]
    assert (training["selected_by"], training["selected_on"]) == ("eval_test_rank1", "test")
    data_args = TrainingDataArguments(dataset="cuhk_pedes", dataset_root=str(small_roots))
    seen = {"run": read_seen(tmp_path / "run")}
    shared = load_split(data_args, "test", seen).shared
    assert shared is not None
    assert [part["role"] for part in shared] == ["chosen"]
    assert load_split(data_args, "validation", seen).shared == []
    assert "the test split, so results on it are too good" in model_card(tmp_path / "run", "owner/model").text


def test_icfg_without_a_validation_split_keeps_the_last_epoch(small_roots, tmp_path):
    words = small_words(tmp_path / "run", dataset="icfg_pedes", dataset_root=small_roots, validation_identities=0)
    done = run(*words)
    assert done.returncode == 0, done.stderr[-3000:]
    check_published(tmp_path / "run", validation=False)


def test_two_equal_runs_are_equal(small_roots, tmp_path):
    weights = []
    for name in ("first", "second"):
        words = small_words(tmp_path / name, dataset_root=small_roots, num_train_epochs=1, precision="float32")
        done = run(*words)
        assert done.returncode == 0, done.stderr[-3000:]
        weights.append(load_file(tmp_path / name / "model.safetensors"))
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


# Mistakes


@pytest.fixture
def fails(tmp_path):
    """Run what must fail with one sentence that holds the parts, and without a traceback."""

    def check(words, *parts):
        done = run(*words)
        text = done.stdout + done.stderr
        assert done.returncode > 0, text[-3000:]
        assert "Traceback" not in text, text[-3000:]
        sentences = [line for line in text.splitlines() if line.startswith("error: ")]
        assert len(sentences) == 1, text[-3000:]
        assert text.strip().splitlines()[-1] == sentences[0]
        for part in parts:
            assert str(part) in sentences[0]

    return check


def changed(small_roots, tmp_path, layout, change):
    """Copy a layout and let `change` edit the rows of its JSON; returns the root and the JSON's path."""
    folder, name = FOLDERS[layout]
    shutil.copytree(small_roots / folder, tmp_path / "data" / folder)
    path = tmp_path / "data" / folder / name
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))
    return tmp_path / "data", path


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("learning_rat: 1\n", ["learning_rat", "did you mean"]),
        ("per_device_train_batch_size: many\n", ["per_device_train_batch_size", "many"]),
        ("stride: 0\n", ["stride"]),
        ("select_ratio: 1.5\n", ["select_ratio"]),
        ("patch_size: 64\n", ["patch"]),
        ("vocabulary_size: 100\n", ["vocabulary_size"]),
        ("dataset: somewhere_else\n", ["somewhere_else"]),
        ("init_from: no/such-model\n", ["no/such-model"]),
        ("output_dir: /proc/run\n", ["/proc/run", "choose another output_dir"]),
    ],
)
def test_wrong_settings(fails, small_roots, tmp_path, text, parts):
    name = text.split(":")[0]
    settings = yaml.safe_load((REPOSITORY / "configs" / "demo.yaml").read_text())
    settings |= {"dataset_root": str(small_roots), "output_dir": str(tmp_path / "run"), "use_cpu": True}
    settings.pop(name, None)
    config = tmp_path / "my.yaml"
    config.write_text(yaml.safe_dump(settings) + text)
    fails(["--config", config], *parts)


def test_missing_config():
    done = run("--config", "configs/absent.yaml")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: the config configs/absent.yaml does not exist; configs has cuhk_pedes, demo,")


@pytest.mark.parametrize("layout", FOLDERS)
def test_missing_json(fails, tmp_path, layout):
    folder, name = FOLDERS[layout]
    (tmp_path / folder / "imgs").mkdir(parents=True)
    fails(small_words(tmp_path / "run", dataset=layout, dataset_root=tmp_path), name)


def edit(number, **changes):
    """A change of one row; None removes a key."""

    def change(rows):
        for key, value in changes.items():
            rows[number].pop(key, None)
            if value is not None:
                rows[number][key] = value

    return change


@pytest.mark.parametrize("layout", FOLDERS)
@pytest.mark.parametrize(
    ("key", "value", "parts"),
    [
        ("captions", None, ["captions"]),
        ("id", None, ["id"]),
        ("split", None, ["split"]),
        ("path", None, []),
        ("captions", [], ["captions"]),
        ("captions", ["  "], ["blank caption"]),
        ("path", "../outside.jpg", ["outside.jpg", "image folder"]),
        ("path", "absent.jpg", ["absent.jpg"]),
    ],
)
def test_mistakes_in_the_annotations(fails, small_roots, tmp_path, layout, key, value, parts):
    key = PATH_KEY[layout] if key == "path" else key
    root, path = changed(small_roots, tmp_path, layout, edit(3, **{key: value}))
    words = small_words(tmp_path / "run", dataset=layout, dataset_root=root)
    fails(words, path.name if value != "absent.jpg" else "absent.jpg", *parts)


def test_an_image_that_is_none(fails, small_roots, tmp_path):
    rows = []
    root, path = changed(small_roots, tmp_path, "cuhk_pedes", rows.extend)
    image = path.parent / "imgs" / rows[0]["file_path"]
    image.write_bytes(image.read_bytes()[:300])
    fails(small_words(tmp_path / "run", dataset_root=root), Path(rows[0]["file_path"]).name)
