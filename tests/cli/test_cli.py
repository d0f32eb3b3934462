import os
import subprocess
import sys

import pytest
import yaml

from cffa_hf.cli import COMMANDS, main
from cffa_hf.inputs.images import read_image
from cffa_hf.version import VERSION
from tests.tiny import person_rows, tiny_model, tiny_processor


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A model and a folder of images."""
    folder, rows = tmp_path_factory.mktemp("people"), person_rows(identities=3)
    tiny_model().base_model.save_pretrained(folder / "model")
    tiny_processor(rows).save_pretrained(folder / "model")
    (folder / "images").mkdir()
    for row in rows:
        read_image(row["image"]).save(folder / "images" / row["file_path"])
    return folder


def test_help_names_all_commands(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: cffa-hf {command} ")


def test_version_and_unknown_commands(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert VERSION in capsys.readouterr().out
    for words in ([], ["serch"]):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 2


@pytest.mark.parametrize(
    ("model", "images", "sentence", "message"),
    [
        ("model", "missing", "red", "no such folder"),
        ("images", "images", "red", "no config.json"),
        ("model", "images", " ", "blank"),
    ],
)
def test_mistakes_end_in_one_sentence_and_status_2(people, capsys, model, images, sentence, message):
    assert main(["search", str(people / images), sentence, "--checkpoint", str(people / model)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert message in line


def test_configs_are_listed_and_printed(capsys):
    assert main(["config"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert {"own_data", "methods/cffa", "accelerate/ddp"} <= set(names)
    for name in ("own_data", "configs/own_data.yaml"):
        assert main(["config", name]) == 0
        assert yaml.safe_load(capsys.readouterr().out)["dataset"] == "my-data"
    assert main(["config", "own_dta"]) == 2
    assert "own_dta" in capsys.readouterr().err


def test_demo_data_are_rendered_and_the_upper_bound_told(capsys, tmp_path):
    words = ["demo-data", str(tmp_path), "--layout", "rstpreid", "--identities", "2", "1", "2", "--seed", "4"]
    assert main(words) == 0
    assert (tmp_path / "RSTPReid" / "data_captions.json").is_file()
    shown = capsys.readouterr().out
    assert "20 images" in shown
    assert "Rank-1" in shown


@pytest.mark.slow
def test_the_command_runs_as_a_process(people):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "cffa_hf.cli", "search", people / "images", "red shirt"]
    command += ["--checkpoint", people / "model"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5
    command[-1] = people / "nothing"
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
