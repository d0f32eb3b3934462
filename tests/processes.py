"""Real training processes for tests: `run_train.py` in a process of its own that can be killed.

A fork server imports the libraries once, so that each process starts in a fraction of a second.
"""

import contextlib
import json
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.tiny import person_rows

REPOSITORY = Path(__file__).resolve().parents[1]
CONTEXT = multiprocessing.get_context("forkserver")
SETTINGS = {
    "check_images": "false",
    "init_from": "null",
    "image_size": "[48, 24]",
    "patch_size": 12,
    "hidden_size": 64,
    "num_layers": 2,
    "projection_dim": 64,
    "local_dim": 32,
    "cross_modal_layers": 1,
    "context_length": 40,
    "vocabulary_size": 600,
    "text_attention_dropout": 0.2,
    "precision": "float32",
    "use_cpu": "true",
    "per_device_train_batch_size": 8,
    "num_train_epochs": 3,
    "warmup_epochs": 1,
    "learning_rate": "1e-3",
    "adam_epsilon": "1e-8",
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 2,
    "load_best_model_at_end": "false",
    "disable_tqdm": "true",
}


# An editable install serves the whole package to every interpreter, through a finder that `site` starts: without `site`
# (-S) and with the installed libraries put on the path by hand, an interpreter has everything but this package.
ISOLATED = """
import importlib.util, os, runpy, sys
libraries, kind, what, *words = sys.argv[1:]
sys.path.append(libraries)
assert importlib.util.find_spec("torch"), "the libraries are missing"
assert importlib.util.find_spec("cffa_hf") is None, "this interpreter sees the package"
sys.path.insert(0, os.getcwd())
sys.argv = [what, *words] if kind == "file" else ["-c", *words]
if kind == "file":
    runpy.run_path(what, run_name="__main__")
else:
    exec(compile(what, "<code>", "exec"), {"__name__": "__main__"})
"""


def without_package(*words: str | Path) -> list[str]:
    """The command of an interpreter that cannot see this package: `-c CODE ...` or `FILE ...`, in its working folder."""
    kind, (what, *rest) = ("code", words[1:]) if words[0] == "-c" else ("file", words)
    libraries = sysconfig.get_path("purelib")
    return [sys.executable, "-I", "-S", "-c", ISOLATED, libraries, kind, str(what), *map(str, rest)]


def write_people(folder: Path) -> Path:
    """Write a dataset of 48 train pairs and 16 validation pairs as a folder with metadata."""
    folder.mkdir(parents=True)
    lines = []
    for row in person_rows(16, 2, first_id=0):
        (folder / row["file_path"]).write_bytes(row["image"]["bytes"])
        split = "train" if row["person_id"] < 12 else "validation"
        entry = {"file_name": row["file_path"], "captions": row["captions"], "person_id": row["person_id"]}
        lines.append(json.dumps(entry | {"split": split}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def run_script(script: str, words: list[str], log: str, group: bool) -> None:
    """Become the script, in the child process."""
    if group:
        os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    multiprocessing.set_start_method("fork", force=True)  # as in a process that was started from a shell
    sys.argv = [script, *words]
    sys.path.insert(0, str(REPOSITORY))
    runpy.run_path(script, run_name="__main__")


class Python:
    """`python FILE ...` or `python -m MODULE ...` as a process of its own, with the libraries imported already.

    Args:
        *words: As of the command.
        folder: Its working folder.
        **environment: Variables that differ from those of this process.
    """

    def __init__(self, *words: object, folder: Path = REPOSITORY, **environment: str):
        os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
        CONTEXT.set_forkserver_preload(["tests.preload"])
        self.words, self.printed = list(map(str, words)), tempfile.TemporaryDirectory()
        variables = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
        self.process = CONTEXT.Process(target=_become, args=(self.words, folder, variables, Path(self.printed.name)))
        self.process.start()

    def wait(self, seconds: float = 900) -> subprocess.CompletedProcess[str]:
        """Wait for the end, and return what `subprocess.run` would; one that takes longer is killed."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        with self.printed as folder:
            out, errors = ((Path(folder) / name).read_text(errors="replace") for name in ("out", "errors"))
        return subprocess.CompletedProcess(self.words, self.process.exitcode or 0, out, errors)


def run_python(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `Python` to its end."""
    return Python(*words, **options).wait()


def run_ranks(processes: int, *words: object) -> list[subprocess.CompletedProcess[str]]:
    """Run a script in several processes of one group, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [Python(*words, **group, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(processes)]
    return [process.wait() for process in started]


def _become(words: list[str], folder: Path, variables: dict[str, str], printed: Path) -> None:
    """Become the program, in the child process."""
    for name, number in (("out", 1), ("errors", 2)):
        os.dup2(os.open(printed / name, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    multiprocessing.set_start_method("fork", force=True)  # as in a process that was started from a shell
    module = words[0] == "-m"
    sys.argv = words[1:] if module else words
    sys.path.insert(0, str(folder if module else Path(words[0]).resolve().parent))
    if module:
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[0], run_name="__main__")


class Run:
    """A running training process.

    Args:
        folder: its output_dir; the config and what it prints stand beside it.
        data: folder with the pictures of `write_people`.
        group: whether it leads a process group of its own.
        **settings: changes of `SETTINGS`.
    """

    def __init__(self, folder: Path, data: Path, *, group: bool = False, **settings: object):
        self.folder, self.log = folder, folder.with_suffix(f".{time.monotonic_ns()}.log")
        config = folder.with_suffix(".yaml")
        values = SETTINGS | {"dataset": data, "output_dir": folder} | settings
        config.write_text("".join(f"{name}: {value}\n" for name, value in values.items()))
        os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", PYTHONUNBUFFERED="1")
        CONTEXT.set_forkserver_preload(["tests.preload"])
        words = ["--config", str(config)]
        self.process = CONTEXT.Process(
            target=run_script, args=(str(REPOSITORY / "run_train.py"), words, str(self.log), group)
        )
        self.process.start()

    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text() if self.log.exists() else ""

    def wait_for(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Poll tightly until something holds or the process has ended."""
        end = time.monotonic() + seconds
        while not condition() and self.process.is_alive():
            assert time.monotonic() < end, self.output()
            time.sleep(0.001)

    def wait_for_step(self, step: int) -> None:
        """Wait until the log entry of a step has been printed."""
        self.wait_for(lambda: self.output().count(": loss ") >= step)

    def kill(self, number: int) -> None:
        """Send a signal to the process, if it has not ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid or 0, number)

    def end(self, seconds: float = 90) -> int:
        """Wait for the end; the exit code, negative after a signal."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, self.output()
        return self.process.exitcode

    def history(self) -> list[dict]:
        """The log of a finished run."""
        return json.loads((self.folder / "trainer_state.json").read_text())["log_history"]


def python_child(code: str, cache: Path, *words: object) -> subprocess.Popen:
    """Start Python with a program of its own, and with a cache of `datasets` of its own."""
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_when_it_waits(process: subprocess.Popen) -> None:
    """Wait for the line "waiting", kill the process, and see that its helpers end too: their end of the pipe closes."""
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    assert line == "waiting\n", process.stderr.read()
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
