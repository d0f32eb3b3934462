import json
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from cffa_hf.arguments.data import TrainingDataArguments
from cffa_hf.arguments.evaluation import parse_evaluation_arguments
from cffa_hf.arguments.listing import listing, names_of
from cffa_hf.arguments.model import ModelArguments
from cffa_hf.arguments.parsing import parse_arguments
from cffa_hf.arguments.training import CFFATrainingArguments
from cffa_hf.cli import COMMANDS, PROGRAMS, command_parser, main
from cffa_hf.demo.write import LAYOUTS
from cffa_hf.inputs.images import read_image
from cffa_hf.names import SETTINGS_FILE
from cffa_hf.publishing.space import SPACES
from cffa_hf.version import VERSION
from tests.tiny import person_rows, tiny_model, tiny_processor

REPOSITORY = Path(__file__).resolve().parents[2]


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


def shown_help(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def test_help_names_all_commands_in_groups_and_each_status(capsys):
    shown = shown_help(capsys)
    lines = shown.splitlines()
    for name, command in COMMANDS.items():
        (place,) = [number for number, line in enumerate(lines) if line.startswith(f"    {name} ")]
        assert f"  {command.group}" in lines[:place]
    for part in ("exit status:", "environment variables:", "HF_HOME", "130", "docs/", "cffa-hf search demo-gallery"):
        assert part in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_examples_that_it_understands(command, capsys):
    shown = shown_help(capsys, command)
    assert shown.startswith(f"usage: cffa-hf {command} ")
    examples = [line for line in shown.splitlines() if line.startswith("  cffa-hf ")]
    assert examples
    for line in examples:
        words = shlex.split(line.partition(" > ")[0])[1:]
        if command == "train":
            parse_arguments([*words[1:], "--use_cpu", "true"])
        elif command == "evaluate":
            parse_evaluation_arguments(words[1:])
        else:
            assert command_parser().parse_args(words).command == command


def test_what_the_parsers_offer_is_what_the_commands_take():
    commands = command_parser()._subparsers._group_actions[0].choices

    def choices(command, option):
        return set(commands[command]._option_string_actions[option].choices)

    assert choices("demo-data", "--layout") == set(LAYOUTS)
    assert choices("push", "--space") == set(SPACES)
    for command in COMMANDS.keys() - PROGRAMS.keys():
        assert callable(import_module(f"cffa_hf.cli.{command.replace('-', '_')}").run)
    for module in PROGRAMS.values():
        assert callable(import_module(module).main)


def test_the_list_of_settings_is_up_to_date():
    path = REPOSITORY / "cffa_hf" / "cli" / SETTINGS_FILE
    assert json.loads(path.read_text(encoding="utf-8")) == listing(), "run python -m cffa_hf.arguments.listing"


def test_the_help_of_training_lists_every_setting_in_its_group(capsys):
    shown = " ".join(shown_help(capsys, "train").split())
    for name in names_of(CFFATrainingArguments) + names_of(ModelArguments) + names_of(TrainingDataArguments):
        assert re.search(rf"[\s,-]{name}\b", shown), name
    assert shown.index("losses:") < shown.index("--mal_scale") < shown.index("learning rates and schedule:")
    assert "TrainingArguments that are not listed above" in shown


def run_without(*modules: str, words: list[str]) -> subprocess.CompletedProcess:
    """Run the command as a process in which some modules cannot be imported."""
    code = f"""
import sys
sys.modules.update(dict.fromkeys({modules!r}))
sys.argv = ["cffa-hf", *{words!r}]
from cffa_hf.cli import main
sys.exit(main())
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False)


@pytest.mark.parametrize(
    ("words", "status", "part"),
    [
        (["--version"], 0, VERSION),
        (["serch"], 2, "no command 'serch'; did you mean 'search'?"),
        (["check-data", "people", "--fxi", "out"], 2, "unrecognized arguments: --fxi; did you mean '--fix'?"),
        (["search"], 2, "SENTENCE"),
        (["train", "--help"], 0, "--learning_rate"),
        (["evaluate", "--help"], 0, "--stress"),
        (["push", "--help"], 0, "--with-pictures"),
    ],
)
def test_help_and_mistakes_import_no_library(words, status, part):
    done = run_without("torch", "transformers", "numpy", "datasets", "shtab", words=words)
    assert done.returncode == status, done.stderr
    assert part in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_command_is_told_in_one_line(capsys):
    for words in (["serch"], ["x\x1b[31m"]):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.isprintable()


# Completion


def completions(script: Path, *words: str) -> list[str]:
    """What bash offers for the last word of a command line."""
    code = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
function=$(complete -p cffa-hf | sed -E 's/.*-F ([^ ]+) .*/\\1/')
"$function" cffa-hf "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
    command = ["bash", "--norc", "-c", code, "bash", str(script), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=script.parent, check=True)
    assert not done.stderr
    return done.stdout.split()


def test_bash_completes_commands_options_choices_and_files(tmp_path, capsys):
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)
    assert completions(script, "cffa-hf", "ind") == ["index"]
    assert set(completions(script, "cffa-hf", "push")) == {"push", "push-dataset"}
    assert completions(script, "cffa-hf", "search", "--she") == ["--sheet"]
    assert completions(script, "cffa-hf", "train", "--mal_") == ["--mal_scale"]
    assert completions(script, "cffa-hf", "train", "--mal_scale", "t") == ["temperature"]
    assert completions(script, "cffa-hf", "demo-data", "--layout", "r") == ["rstpreid"]
    (tmp_path / "my-config.yaml").touch()
    assert completions(script, "cffa-hf", "evaluate", "--config", "my-") == ["my-config.yaml"]


@pytest.mark.parametrize("shell", ["fish", "tcsh", "zsh"])
def test_scripts_of_other_shells_know_the_commands(shell):
    script = pytest.importorskip("cffa_hf.cli.completion").script(shell)
    assert all(command in script for command in COMMANDS)


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


def test_a_gallery_that_is_not_there_is_no_folder_of_images(capsys, tmp_path):
    assert main(["search", str(tmp_path / "absent"), "red"]) == 2
    assert "absent: there is no such folder; name a folder" in capsys.readouterr().err


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
