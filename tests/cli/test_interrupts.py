"""Ctrl-C in the middle of a command: one sentence and status 130."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.processes import CONTEXT, write_people
from tests.tiny import person_rows, tiny_model, tiny_processor


def become_interrupted(words: list[str], function: str, log: str) -> None:
    """Run the command in the child process, which gets a SIGINT as soon as its main thread is within a function."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def watch() -> None:
        while True:
            frame = sys._current_frames()[threading.main_thread().ident or 0]
            while frame is not None and frame.f_code.co_name != function:
                frame = frame.f_back
            if frame is not None:
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(1e-4)

    from cffa_hf.cli import main

    threading.Thread(target=watch, daemon=True).start()
    sys.exit(main(words))


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    write_people(folder / "images")
    tiny_model().base_model.save_pretrained(folder / "model")
    tiny_processor(person_rows()).save_pretrained(folder / "model")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "function"),
    [
        ("check-data images", "check_images_of"),
        ("index images gallery --checkpoint model", "from_folder"),
        ("search images red --checkpoint model", "from_folder"),
        ("evaluate model --dataset images --split validation", "check_images"),
        ("evaluate model --dataset images --split validation --check_images false", "embed"),
        ("train --dataset images --output_dir run --init_from null --use_cpu true", "check_images"),
    ],
)
def test_ctrl_c_ends_a_command_in_one_sentence(people, tmp_path, command, function):
    names = {"images", "model"}
    words = [str(people / word) if word in names else word for word in command.split()]
    words = [str(tmp_path / word) if word in {"gallery", "run"} else word for word in words]
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", HF_DATASETS_CACHE=str(tmp_path / "cache"))
    CONTEXT.set_forkserver_preload(["tests.preload"])
    log = tmp_path / "log.txt"
    process = CONTEXT.Process(target=become_interrupted, args=(words, function, str(log)))
    process.start()
    process.join(120)
    printed = log.read_text()
    assert process.exitcode == 130, printed
    assert "Traceback" not in printed
    assert printed.splitlines()[-1].startswith("interrupted: what was saved before is whole")
