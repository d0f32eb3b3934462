"""Follow docs/add-a-method.md in a copy of the package: the loss it adds is checked and trained with."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cffa_hf.demo import write_demo_dataset

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = (REPOSITORY / "docs" / "add-a-method.md").read_text(encoding="utf-8")
TABLE = "# By the name that training arguments use."
SMALL = "--hidden_size 64 --num_layers 1 --projection_dim 64 --local_dim 32 --max_steps 1 --use_cpu true --precision float32"
SMALL += " --per_device_train_batch_size 16 --eval_strategy no --save_strategy no --load_best_model_at_end false --report_to none"
SMALL += " --logging_steps 1"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A copy of the package, changed as the page says."""
    folder = tmp_path_factory.mktemp("copy")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("cffa_hf", "configs"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignore)
    for name in (
        "tests/__init__.py",
        "tests/test_losses.py",
        "tests/test_examples.py",
        "tests/tiny.py",
        "run_train.py",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / name)
    shutil.copytree(REPOSITORY / "tests" / "golden", folder / "tests" / "golden", dirs_exist_ok=True)
    shutil.copy(REPOSITORY / "tests" / "conftest.py", folder / "tests" / "conftest.py")
    shutil.copy(REPOSITORY / "tests" / "processes.py", folder / "tests" / "processes.py")
    function, line = blocks("python")
    losses = folder / "cffa_hf" / "losses.py"
    text = losses.read_text(encoding="utf-8")
    last = text.index("}\n", text.index("ALIGNMENT_LOSSES: dict"))
    text = text[:last] + line + text[last:]
    losses.write_text(text.replace(TABLE, f"{function}\n\n{TABLE}"), encoding="utf-8")
    (file,) = re.findall(r"`(configs/methods/\w+\.yaml)` says", PAGE)
    (folder / file).write_text(blocks("yaml")[0])
    return folder


def run(folder, *words):
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_added_loss_passes_the_tests_of_all_losses(repository):
    printed = run(repository, "-m", "pytest", "-v", "-p", "no:cacheprovider", "tests/test_losses.py", "-k", "sigmoid")
    assert re.search(r"[1-9]\d* passed", printed)
    printed = run(repository, "-m", "pytest", "-v", "-p", "no:cacheprovider", "tests/test_examples.py", "-k", "losses")
    assert "passed" in printed


@pytest.mark.slow
def test_the_added_method_trains(repository, tmp_path):
    write_demo_dataset(tmp_path / "data", "icfg_pedes", identities=(20, 4, 4), images_per_identity=2, workers=1)
    (command,) = blocks("bash")
    words = command.split()[command.split().index("run_train.py") :]
    words += ["configs/sizes/tiny.yaml", *SMALL.split(), "--dataset_root", tmp_path / "data"]
    run(repository, *words, "--output_dir", tmp_path / "run")
    (entry, *_) = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    assert entry["loss_alignment_global"] > 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    changed = {setting["name"]: setting["value"] for setting in record["settings"]}
    assert changed["alignment_loss"] == "sigmoid"
