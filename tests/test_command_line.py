"""What the guard of all commands prints, and the status it gives."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from cffa_hf.command_line import closest_option, guarded
from cffa_hf.errors import InputError, RunStopped

SECRET = "hf_abcdefghijklmnop"


def failing(error: BaseException):
    def main(words):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "part"),
    [
        (InputError("The file x is empty."), 2, "error: The file x is empty."),
        (RunStopped("The loss is nan."), 1, "error: The loss is nan."),
        (MemoryError(), 1, "The memory is full"),
        (OSError(errno.ENOSPC, "No space left on device", "out/a"), 1, "(out/a): No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_was_foreseen_is_one_sentence(capsys, error, status, part):
    assert guarded(failing(error), []) == status
    printed = capsys.readouterr().err
    assert part in printed
    assert "Traceback" not in printed
    assert printed.count("\n") == 1


def test_a_bug_is_one_sentence_with_a_file_to_send(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert guarded(failing(KeyError(f"surprise {SECRET} {'x' * 5000}")), []) == 1
    printed = capsys.readouterr().err
    (report,) = tmp_path.iterdir()
    assert str(report) in printed
    assert "bug of cffa_hf" in printed
    assert "--debug" in printed
    assert len(printed) < 500 + len(str(report))
    assert printed.count("\n") == 1
    text = report.read_text()
    assert "Traceback" in text
    assert "test_command_line.py" in text
    assert SECRET not in printed + text


@pytest.mark.parametrize(
    ("words", "passed_on"),
    [
        (["--debug"], []),
        (["--debug", "--seed", "1"], ["--seed", "1"]),
        (["a", "--debug"], ["a"]),
    ],
)
def test_debug_shows_the_traceback_and_is_not_passed_on(capsys, words, passed_on):
    given = []

    def main(words):
        given.append(list(words))
        raise InputError("No.") from KeyError(SECRET)

    assert guarded(main, words) == 2
    assert given == [passed_on]
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert printed.endswith("error: No.\n")
    assert SECRET not in printed


def test_the_debug_of_the_trainer_keeps_its_value():
    given = []
    assert guarded(given.append, ["--debug", "underflow_overflow"]) == 0
    assert given == [["--debug", "underflow_overflow"]]


def test_a_reader_that_has_seen_enough_ends_a_command_in_silence(tmp_path):
    script = tmp_path / "talk.py"
    script.write_text(
        "from cffa_hf.command_line import run_guarded\n"
        "def main(words):\n"
        "    for line in range(10**6):\n"
        "        print(line)\n"
        "run_guarded(main)\n"
    )
    talk = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[1],
    )
    talk.stdout.readline()
    talk.stdout.close()
    assert (talk.stderr.read(), talk.wait(60)) == (b"", 1)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--batch_size", "--per_device_train_batch_size"),
        ("--learning_rat", "--learning_rate"),
        ("--epochs", "--num_train_epochs"),
        ("--zzz", None),
    ],
)
def test_the_option_that_was_meant(given, meant):
    options = ["--patch_size", "--per_device_eval_batch_size", "--per_device_train_batch_size", "--learning_rate"]
    assert closest_option(given, [*options, "--num_train_epochs", "--warmup_epochs"]) == meant
