import pytest

from cffa_hf.arguments.evaluation import parse_evaluation_arguments
from cffa_hf.errors import InputError


@pytest.fixture
def configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "one.yaml").write_text(
        "dataset: cuhk_pedes\ndataset_root: here\nlearning_rate: 1e-5\noutput_dir: outputs/one\ncheck_images: false\n"
    )
    (tmp_path / "configs" / "two.yaml").write_text("dataset: rstpreid\nsplit_seed: 3\nannotation_file: null\n")
    return tmp_path / "configs"


def test_a_training_config_says_where_the_data_are(configs):
    run = parse_evaluation_arguments(["ckpt", "--config", "configs/one.yaml"])
    assert run.checkpoint == "ckpt"
    (data,) = run.datasets
    assert (data.dataset, data.dataset_root, data.check_images) == ("cuhk_pedes", "here", False)
    assert run.options.output_dir is None
    assert (run.options.split, run.options.confidence, run.options.camera_aware) == ("test", False, False)


def test_several_configs_by_bare_name_and_the_command_line_wins(configs):
    words = ["ckpt", "--config", "one", "two", "--dataset_root", "there", "--stress", "--check-leaks"]
    run = parse_evaluation_arguments(words)
    assert [data.dataset for data in run.datasets] == ["cuhk_pedes", "rstpreid"]
    assert [data.dataset_root for data in run.datasets] == ["there", "there"]
    assert [data.split_seed for data in run.datasets] == [0, 3]
    assert run.options.stress
    assert run.options.check_leaks


def test_configs_that_name_no_dataset_add_to_the_one_before_as_in_training(configs):
    (configs / "method.yaml").write_text("temperature: 0.03\nsplit_seed: 7\n")
    run = parse_evaluation_arguments(["ckpt", "--config", "one", "method", "two"])
    assert [(data.dataset, data.split_seed) for data in run.datasets] == [("cuhk_pedes", 7), ("rstpreid", 3)]
    run = parse_evaluation_arguments(["ckpt", "--config", "method", "one"])
    assert [(data.dataset, data.split_seed) for data in run.datasets] == [("cuhk_pedes", 7)]
    run = parse_evaluation_arguments(["ckpt", "--config", "method", "--dataset", "mine"])
    assert [(data.dataset, data.split_seed) for data in run.datasets] == [("mine", 7)]


def test_data_without_a_config(configs):
    run = parse_evaluation_arguments(["ckpt", "--dataset", "icfg_pedes", "--batch_size", "8"])
    assert run.datasets[0].dataset == "icfg_pedes"
    assert run.options.batch_size == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "checkpoint"),
        (["ckpt"], "no data"),
        (["ckpt", "--config", "three"], r"configs/three\.yaml does not exist"),
        (["ckpt", "--config", "one", "--splitt", "test"], "--splitt"),
        (["ckpt", "--config", "one", "--split", "all"], "invalid choice"),
        (["ckpt", "--config", "one", "--batch_size", "0"], "batch_size"),
        (["ckpt", "--config", "typo"], "did you mean 'dataset_root'"),
        (["ckpt", "--config", "value"], r"value\.yaml.*split_seed"),
        (["ckpt", "--config", "list"], r"list\.yaml.*one value"),
    ],
)
def test_mistakes_are_one_sentence(configs, words, message):
    (configs / "typo.yaml").write_text("dataset_roott: here\n")
    (configs / "value.yaml").write_text("dataset: x\nsplit_seed: many\n")
    (configs / "list.yaml").write_text("dataset: [a, b]\n")
    with pytest.raises(InputError, match=message):
        parse_evaluation_arguments(words)
