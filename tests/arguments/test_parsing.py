import copy
import dataclasses
import importlib.util
import pickle
from pathlib import Path

import pytest
import yaml
from transformers import TrainingArguments

from cffa_hf.arguments.config_files import config_path
from cffa_hf.arguments.data import DataArguments, TrainingDataArguments
from cffa_hf.arguments.model import ModelArguments
from cffa_hf.arguments.parsing import parse_arguments
from cffa_hf.arguments.training import CFFATrainingArguments
from cffa_hf.cli import main
from cffa_hf.errors import InputError
from cffa_hf.records.run import changed_settings

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TRAINING_CONFIGS = sorted(
    path for path in CONFIGS.rglob("*.yaml") if "dataset" in (yaml.safe_load(path.read_text()) or {})
)
CPU = ["--use_cpu", "true", "--precision", "float32"]
# Ranges are checked when the command line has been read too: their messages name the setting, not the file.
CHECKED_LATER = (
    "temperature:",
    "margin:",
    "probability:",
    "_strategy:",
    "crop_padding:",
    "caption_noise:",
    "scheduler_type:",
    "image_size: [384",
)


@pytest.fixture
def config(tmp_path):
    """Write a config and return its path; `output_dir` and `dataset` are there unless given."""

    def write(text="", **fields):
        path = tmp_path / "config.yaml"
        base = {"dataset": "cuhk_pedes", "output_dir": str(tmp_path / "run"), **fields}
        path.write_text(yaml.safe_dump(base) + text)
        return str(path)

    return write


def parse(path, *words):
    return parse_arguments(["--config", path, *CPU, *words])


def refuse(path, *words):
    """Parse what must be refused and return the one sentence."""
    with pytest.raises(InputError) as error:
        parse(path, *words)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


def test_published_defaults(tmp_path):
    model, data, training = parse_arguments(["--dataset", "rstpreid", "--output_dir", str(tmp_path), *CPU])
    assert model.init_from == "openai/clip-vit-base-patch16"
    assert (model.image_size, model.stride, model.context_length) == (None, None, 77)
    assert (model.select_ratio, model.local_dim, model.cross_modal_layers) == (0.3, 1024, 4)
    assert data.dataset == "rstpreid"
    assert training.share_masked_captions
    assert (training.caption_corruption, training.mlm_probability, training.erasing_probability) == (0.2, 0.15, 0.5)
    assert (training.learning_rate, training.refinement_learning_rate) == (1e-5, 1e-3)
    assert (training.bias_rate_factor, training.head_rate_factor) == (2, 5)
    assert (training.weight_decay, training.adam_epsilon) == (4e-5, 1e-3)
    assert (training.num_train_epochs, training.per_device_train_batch_size) == (60, 64)
    assert (training.warmup_epochs, training.warmup_start) == (5, 0.1)
    assert (training.alignment_loss, training.temperature, training.margin) == ("mal", 0.015, 0.1)
    assert (training.alignment_weight, training.identity_weight, training.mlm_weight) == (1.0, 1.0, 1.4)
    assert (training.mal_scale, training.alignment_reduction) == ("temperature", "sum")
    assert not training.remove_unused_columns
    assert training.metric_for_best_model == "eval_rank1"
    assert training.load_best_model_at_end
    assert not training.bf16


def test_the_docstring_lists_every_changed_default():
    stock = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
    own = {field.name: field.default for field in dataclasses.fields(CFFATrainingArguments)}
    changed = {name for name in stock if own[name] != stock[name]}
    assert {"learning_rate", "remove_unused_columns"} <= changed
    # The direction of metric_for_best_model and the default that it implies are one thing.
    unnamed = {name for name in changed - {"greater_is_better"} if name not in CFFATrainingArguments.__doc__}
    assert not unnamed


def test_yaml_gives_defaults_and_the_command_line_wins(config):
    path = config(learning_rate=3e-4, temperature=0.02, image_size=[96, 32], use_mlm=False, num_train_epochs=7)
    model, _, training = parse(path)
    assert (training.learning_rate, training.temperature, training.num_train_epochs) == (3e-4, 0.02, 7)
    assert model.image_size == [96, 32]
    assert model.use_mlm is False
    model, _, training = parse(path, "--learning_rate", "1e-2", "--use_mlm", "true", "--image_size", "64", "64")
    assert (training.learning_rate, training.temperature) == (1e-2, 0.02)
    assert model.image_size == [64, 64]
    assert model.use_mlm is True


@pytest.mark.parametrize("where", ["before", "after", "equals"])
def test_the_config_may_stand_anywhere(config, where):
    path = config(seed=9)
    words = ["--margin", "0.2", *CPU]
    given = [f"--config={path}"] if where == "equals" else ["--config", path]
    training = parse_arguments(words + given if where == "after" else given + words)[2]
    assert (training.seed, training.margin) == (9, 0.2)


def test_of_several_configs_the_later_one_wins(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(f"dataset: rstpreid\noutput_dir: {tmp_path}\nmargin: 0.2\nseed: 3\nstride: 12\n")
    second.write_text("margin: 0.3\nseed: 4\nstride: null\n")
    for words in (["--config", str(first), str(second)], ["--config", str(first), "--config", str(second)]):
        model, data, training = parse_arguments([*words, *CPU, "--seed", "5"])
        assert (data.dataset, model.stride, training.margin, training.seed) == ("rstpreid", None, 0.3, 5)
    training = parse_arguments(["--config", str(second), str(first), *CPU])[2]
    assert (training.margin, training.seed) == (0.2, 3)


def test_the_file_with_the_mistake_is_named_among_several(config, tmp_path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("margin: wide\n")
    assert str(wrong) in refuse(config(), "--config", str(wrong))


def test_a_method_that_is_not_there(config, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    message = refuse(config(), "--config", "methods/foo")
    assert "configs/methods/foo.yaml does not exist; configs/methods has" in message
    assert "irra" in message


def test_a_config_with_another_suffix(config):
    mine = config()
    assert (
        refuse(mine, "--config", mine.replace(".yaml", ".yml"))
        .partition("exist; ")[2]
        .startswith(f"did you mean '{mine}'?")
    )


@pytest.mark.parametrize(
    ("wrong", "meant"), [("tiny", "sizes/tiny"), ("methods/clpi", "methods/clip"), ("own_dta", "own_data")]
)
def test_a_config_that_is_spelt_wrong(config, wrong, meant, capsys):
    assert f"does not exist; did you mean '{meant}'?" in refuse(config(), "--config", wrong)
    assert main(["config", wrong]) == 2
    assert f"did you mean '{meant}'?" in capsys.readouterr().err


@pytest.mark.parametrize("config", ["methods/rde", "configs/methods/rde.yaml"])
def test_a_config_that_is_not_here_is_that_of_the_package_and_this_is_said(config, monkeypatch, tmp_path, caplog):
    monkeypatch.chdir(tmp_path)
    assert config_path(config).read_text() == (CONFIGS / "methods" / "rde.yaml").read_text()
    assert "configs/methods/rde.yaml is not in this folder" in caplog.text
    (tmp_path / "configs" / "methods").mkdir(parents=True)
    (tmp_path / "configs" / "methods" / "rde.yaml").write_text("seed: 3\n")
    assert config_path(config).read_text() == "seed: 3\n"


def test_numbers_that_yaml_reads_as_text(config):
    training = parse(config("learning_rate: 1e-5\nadam_epsilon: 1e-8\n"))[2]
    assert (training.learning_rate, training.adam_epsilon) == (1e-5, 1e-8)
    assert isinstance(training.learning_rate, float)


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("false", False), ("yes", True), ("off", False), ("'no'", False), ("1", True)]
)
def test_truth_values(config, text, value):
    assert parse(config(f"use_flfr: {text}\n"))[0].use_flfr is value
    assert parse(config(f"share_masked_captions: {text}\n"))[2].share_masked_captions is value


def test_null(config):
    model, _, training = parse(config("init_from: null\nstride: null\nsave_total_limit: null\n"))
    assert model.init_from is None
    assert model.stride is None
    assert training.save_total_limit is None


def test_text_that_looks_like_something_else(config):
    assert parse(config("run_name: 12\n"))[2].run_name == "12"
    assert parse(config(output_dir="2026-01-31"))[2].output_dir == "2026-01-31"
    data = parse(config("dataset_root: 007\n"))[1]
    assert isinstance(data.dataset_root, str)


def test_dictionaries_where_they_are_wanted(config):
    training = parse(config("lr_scheduler_type: polynomial\nlr_scheduler_kwargs: {power: 2}\n"))[2]
    assert training.lr_scheduler_kwargs == {"power": 2}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rat: 1\n", ["learning_rat", "did you mean 'learning_rate'"]),
        ("image-size: [96, 32]\n", ["image-size", "did you mean 'image_size'"]),
        ("zzzz: 1\n", ["zzzz", "--help"]),
        ("config: other.yaml\n", ["config"]),
        ("help: true\n", ["help"]),
        ("3: 4\n", ["3"]),
        ("num_train_epochs: many\n", ["num_train_epochs", "many"]),
        ("per_device_train_batch_size: 6.5\n", ["per_device_train_batch_size", "6.5"]),
        ("per_device_train_batch_size: true\n", ["per_device_train_batch_size"]),
        ("use_flfr: perhaps\n", ["use_flfr", "perhaps"]),
        ("image_size: 384\n", ["image_size", "list"]),
        ("image_size: [384, wide]\n", ["image_size", "wide"]),
        ("image_size: [384]\n", ["image_size"]),
        ("image_size: [384, 128, 3]\n", ["image_size"]),
        ("learning_rate: [1, 2]\n", ["learning_rate", "one value"]),
        ("learning_rate: {a: 1}\n", ["learning_rate"]),
        ("learning_rate: null\n", ["learning_rate"]),
        ("learning_rate:\n", ["learning_rate"]),
        ("local_dim: null\n", ["local_dim"]),
        ("use_mlm: null\n", ["use_mlm"]),
        ("alignment_loss: contrastive\n", ["alignment_loss", "mal, triplet, info_nce, sdm, cmpm"]),
        ("mal_scale: size\n", ["mal_scale", "temperature"]),
        ("precision: float8\n", ["precision", "float32"]),
        ("lr_scheduler_type: zigzag\n", ["zigzag", "SchedulerType", "cosine"]),
        ("eval_strategy: sometimes\n", ["sometimes"]),
        ("temperature: 0\n", ["temperature", "above 0"]),
        ("margin: -1\n", ["margin"]),
        ("mlm_probability: 1.5\n", ["mlm_probability", "between 0 and 1"]),
        ("flip_probability: -0.1\n", ["flip_probability", "between 0 and 1"]),
        ("crop_padding: -3\n", ["crop_padding"]),
        ("caption_noise: 1\n", ["caption_noise is 1", "from 0 to below 1"]),
        ("caption_noise: -0.1\n", ["caption_noise is -0.1", "from 0 to below 1"]),
        ("caption_noise: .nan\n", ["caption_noise is nan", "from 0 to below 1"]),
        ("caption_noise: much\n", ["caption_noise is 'much'", "an .npy file"]),
        ("caption_noise: 0.2\ncaption_noise_seed: -1\n", ["caption_noise_seed"]),
        ("eval_strategy: steps\nsave_strategy: epoch\n", ["strateg"]),
        ("- a\n- b\n", ["YAML"]),
        ("a: b: c\n", ["YAML"]),
        ("\tlearning_rate: 1\n", ["YAML"]),
    ],
)
def test_mistakes_in_a_config_are_one_sentence(config, text, words):
    path = config(text)
    message = refuse(path)
    for word in words:
        assert word in message
    if not any(name in text for name in CHECKED_LATER):
        assert "config.yaml" in message


def test_a_list_or_nothing_instead_of_settings(tmp_path):
    for text in ("- dataset\n- output_dir\n", "", "just words\n"):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        assert "config.yaml" in refuse(str(path))


def test_files_that_are_none(tmp_path):
    assert "absent.yaml does not exist" in refuse(str(tmp_path / "absent.yaml"))
    assert str(tmp_path) in refuse(str(tmp_path))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    assert "binary.yaml" in refuse(str(tmp_path / "binary.yaml"))


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--learning_rat", "1"], ["learning_rat"]),
        (["--learning_rate", "fast"], ["learning_rate", "fast"]),
        (["--alignment_loss", "contrastive"], ["alignment_loss", "contrastive"]),
        (["--image_size", "64", "wide"], ["image_size", "wide"]),
        (["--learning_rate"], ["learning_rate"]),
        (["--margin", "-1"], ["margin"]),
        (["--learn", "1e-3"], ["--learn"]),
        (["stray"], ["stray"]),
        (["--enable_jit_checkpoint", "true"], ["enable_jit_checkpoint must be false", "SIGTERM"]),
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence(config, words, parts):
    message = refuse(config(), *words)
    for part in parts:
        assert part in message


def test_a_file_that_a_setting_names_must_be_there(config, tmp_path):
    for wrong in (tmp_path / "inf", tmp_path):
        with pytest.raises(InputError, match=rf"{wrong}: this file, which a setting names, cannot be read \(.*\)"):
            parse_arguments(["--config", str(config("")), "--accelerator_config", str(wrong)])


def test_config_without_a_file_name():
    with pytest.raises(InputError, match="--config"):
        parse_arguments(["--config"])


def test_no_dataset():
    with pytest.raises(InputError, match="dataset"):
        parse_arguments(CPU)


@pytest.mark.parametrize("path", TRAINING_CONFIGS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_shipped_configs(path, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    model, data, training = parse(str(path))
    assert isinstance(model, ModelArguments)
    assert isinstance(data, DataArguments)
    assert isinstance(training, CFFATrainingArguments)
    settings = yaml.safe_load(path.read_text())
    for text in (settings.get("dataset_root"), settings.get("output_dir"), settings.get("init_from")):
        assert text is None or not Path(text).is_absolute()
    # Model selection never sees the test split: what selects is named after the validation split.
    assert "test" not in training.metric_for_best_model


@pytest.mark.parametrize("name", ["cuhk_pedes", "icfg_pedes", "rstpreid"])
def test_published_configs_differ_from_the_published_recipe_in_nothing(name):
    model, data, training = parse_arguments(
        ["--config", str(CONFIGS / "published" / f"{name}.yaml"), "--use_cpu", "true"]
    )
    assert (data.dataset, data.select_on, training.precision) == (name, "validation", "published")
    held_out = [setting["name"] for setting in changed_settings(model, data, training)]
    assert held_out == (["validation_identities"] if name == "icfg_pedes" else [])
    assert data.validation_identities == (0 if name == "icfg_pedes" else None)


def test_the_split_that_chooses_is_validation_or_test(config):
    assert "select_on to 'train', which is not one of validation, test" in refuse(config("select_on: train\n"))
    with pytest.raises(ValueError, match="select_on must be validation or test, got 'train'"):
        TrainingDataArguments(dataset="cuhk_pedes", select_on="train")


def test_there_is_a_config_for_every_benchmark():
    assert {"cuhk_pedes.yaml", "icfg_pedes.yaml", "rstpreid.yaml", "demo.yaml"} <= {
        path.name for path in TRAINING_CONFIGS
    }
    for name in ("cuhk_pedes", "icfg_pedes", "rstpreid"):
        assert parse(str(CONFIGS / f"{name}.yaml"))[1].dataset == name


SECRET = "hf_" + "S3cretS3cretS3cret"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["--hub_tokne", SECRET]),
        ("", [f"--hub_tokne={SECRET}"]),
        ("", ["--hub_tokne", "a secret of another shape"]),
        ("", ["--hub_token", SECRET, SECRET]),
        (f"hub_token: [{SECRET}]\n", []),
        ("hub_token: [a secret of another shape]\n", []),
        ("hub_token: {a: a secret of another shape}\n", []),
        (f"dataset: [{SECRET}]\n", []),
        (f"hub_tokne: {SECRET}\n", []),
        (f"{SECRET}: true\n", []),
        ("hub_token: a secret of: another shape\n", []),
    ],
)
def test_a_token_is_never_printed(config, text, words):
    message = refuse(config(text), *words)
    assert SECRET not in message
    assert "another shape" not in message


def test_a_misspelt_option_gets_a_hint_on_the_command_line(config):
    assert "did you mean '--learning_rate'" in refuse(config(""), "--learning_rat", "3")


def test_a_token_of_the_environment_is_masked_whatever_its_shape(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "a-token-of-our-own-hub")
    assert "own-hub" not in str(InputError("the server said a-token-of-our-own-hub is wrong"))


def test_arguments_are_pickled_without_their_token(tmp_path):
    args = CFFATrainingArguments(output_dir=str(tmp_path), use_cpu=True, hub_token=SECRET, report_to="none")
    again = pickle.loads(pickle.dumps(args))
    assert (args.hub_token, again.hub_token) == (SECRET, None)
    assert copy.deepcopy(args).hub_token == SECRET  # nothing is written
    assert again.learning_rate == args.learning_rate
    assert SECRET not in f"{args} {args.to_json_string()} {args.to_sanitized_dict()}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "line 2, column 1: 'seed' is set twice"),
        ("seed: &a 1\nnum_train_epochs: *a\n", "aliases are not read"),
        ("warmup_start: 2024-13-45\n", "cannot be read as YAML"),
        ("seed: " + "[" * 20_000 + "\n", "cannot be read as YAML"),
        ("#" * 2**21, "no file of at most 1 MiB"),
    ],
)
def test_yaml_that_is_no_list_of_settings(tmp_path, text, message):
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        parse_arguments(["--config", str(tmp_path / "odd.yaml")])


def test_a_device_is_no_config(tmp_path):
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="no file"):
        parse_arguments(["--config", str(tmp_path / "zero.yaml")])


def test_null_on_the_command_line_is_that_of_a_config():
    words = ["--dataset", "x", "--output_dir", "y", "--use_cpu", "true", "--init_from", "null", "--stride", "null"]
    model, _, args = parse_arguments(words)
    assert model.init_from is None
    assert model.stride is None
    assert not args.dataloader_pin_memory  # which would only warn without a GPU
    with pytest.raises(InputError, match="hidden_size"):
        parse_arguments([*words, "--hidden_size", "null"])


@pytest.mark.parametrize("tracker", ["trackio", "wandb"])
def test_a_tracker_that_is_not_installed_is_told_with_its_package(tracker):
    if importlib.util.find_spec(tracker) is not None:
        pytest.skip(f"{tracker} is installed here")
    words = ["--dataset", "x", "--output_dir", "y", "--use_cpu", "true", "--report_to", tracker]
    with pytest.raises(InputError, match=f"report_to {tracker} needs the package {tracker}: pip install {tracker}"):
        parse_arguments(words)
