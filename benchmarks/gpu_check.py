"""Run everything that needs a GPU once, and write a report of one page that can be pasted into an issue.

Trainings of a small model on rendered people: each precision, several processes, sharding and compiling must give the
losses and gradients of the plain float32 run on one device, within the tolerance that the table shows. Then the training
benchmark at the batch sizes of the papers with its peak memory, embedding and search against the CPU, and from the
measured speed the hours that the shipped recipes would take on this device. What the machine cannot run (no second GPU, no
DeepSpeed, no bf16) is listed with its reason. Every part is a process of its own with a time limit; one that fails is one
line, and the others go on. What is not begun after ten minutes is left out; `--full` takes more steps and an hour.

    python benchmarks/gpu_check.py                  # on a machine without a GPU it says so and ends with status 0
    python benchmarks/gpu_check.py --device cpu --quick
"""

import argparse
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from cffa_hf.demo import write_demo_dataset
from cffa_hf.files import write_text
from cffa_hf.version import VERSION

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIGS = REPOSITORY / "configs"
TRAIN_PAIRS = {"cuhk_pedes": 68_126, "icfg_pedes": 34_674, "rstpreid": 37_010}
BATCH = 8
MINUTES, FULL_MINUTES = 10, 60
WEEK = 7 * 24
# What is drawn for each process is switched off, so that every run must find the same losses.
PLAIN = {
    "config": "configs/demo.yaml",
    "text_attention_dropout": "0",
    "caption_corruption": "0",
    "flip_probability": "0",
    "crop_padding": "0",
    "erasing_probability": "0",
    "use_mlm": "false",
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": "false",
    "report_to": "none",
    "logging_steps": "1",
    "vocabulary_size": "600",
    "disable_tqdm": "true",
}
TINY = {"hidden_size": "64", "num_layers": "1", "local_dim": "32", "projection_dim": "64"}
# How the published results were optimised; data and model stay those of the other trainings.
PUBLISHED = ("precision", "adam_beta2", "adam_epsilon", "weight_decay", "coupled_weight_decay", "max_grad_norm")
PUBLISHED += ("learning_rate", "bias_rate_factor", "head_rate_factor", "refinement_learning_rate")


@dataclass(frozen=True)
class Run:
    """A training that must find the losses and gradients of the first one.

    Attributes:
        name: For the report.
        settings: Words for run_train.py.
        tolerance: Largest relative difference of a logged loss; None: the losses need only be finite.
        gradients: The same of a logged gradient norm; None: is not compared.
        processes: One a device; the batch is divided among them.
        config: File in configs/accelerate, if several processes are not started by torchrun.
        needs: Reasons not to run it, as names of `missing`.
        seconds: Time limit.
    """

    name: str
    settings: tuple[str, ...]
    tolerance: float | None
    gradients: float | None = None
    processes: int = 1
    config: str | None = None
    needs: tuple[str, ...] = ()
    seconds: int = 120


def published_settings() -> tuple[str, ...]:
    """Return the optimisation of configs/published as words."""
    settings = yaml.safe_load((CONFIGS / "published" / "cuhk_pedes.yaml").read_text(encoding="utf-8"))
    return tuple(word for name in PUBLISHED for word in (f"--{name}", str(settings[name])))


FLOAT32 = ("--precision", "float32")
PAIR = ("cuda", "two devices")
# In this order, for the time may end: first what differs most between devices.
RUNS = [
    Run("float32", FLOAT32, 0.0, 0.0),
    Run("bfloat16", ("--precision", "bfloat16"), 0.05, needs=("bf16",)),
    Run("fp16", (*FLOAT32, "--fp16", "true"), 0.05, needs=("cuda",)),
    Run("published precision", published_settings(), None),
    Run("two processes", FLOAT32, 1e-3, 1e-2, processes=2, needs=("two devices",)),
    Run("FSDP", FLOAT32, 1e-3, 1e-2, 2, "fsdp", PAIR),
    Run("DeepSpeed ZeRO 2", FLOAT32, 1e-2, None, 2, "deepspeed_zero2", (*PAIR, "deepspeed")),
    Run("compiled", (*FLOAT32, "--torch_compile", "true"), 1e-2, 5e-2, needs=("compiler",), seconds=240),
    Run("activation checkpointing", (*FLOAT32, "--activation_checkpointing", "true"), 1e-3, 1e-2),
    Run("cached batches", (*FLOAT32, "--cached_batch_size", "2"), 1e-3, 1e-2),
]


class Clock:
    """Gives each part its time.

    Args:
        minutes: Of all parts together.
        full: Three times the limit of each part.
    """

    def __init__(self, minutes: float, full: bool):
        self.minutes, self.factor, self.end = minutes, 3 if full else 1, time.monotonic() + 60 * minutes

    def limit(self, seconds: int) -> float:
        """Return how long a part may take; 0: it is not begun, for too little is left."""
        left = self.end - time.monotonic()
        return min(seconds * self.factor, left) if left > 10 else 0

    def over(self) -> str:
        """Say why a part is not begun."""
        return f"not run: the {self.minutes:g} minutes are over, --full takes {FULL_MINUTES}"


def main() -> None:
    """Run the checks and write the report."""
    options = parse_options()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("There is no GPU here that PyTorch can use: nothing was checked. --device cpu --quick tries the script.")
        return
    if options.quick:
        options.steps = 2
    clock = Clock(options.minutes or (FULL_MINUTES if options.full else MINUTES), options.full)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        write_demo_dataset(f"{folder}/data", identities=(40 if options.quick else 200, 4, 6), workers=0)
        lines = [*environment(options), "", *check_trainings(options, Path(folder), clock), ""]
        speed, told = check_speed(options, clock)
        lines += [*told, "", *check_search(options, Path(folder), clock), "", *recipes(speed, options)]
    lines += ["", f"{(time.monotonic() - begin) / 60:.1f} minutes."]
    write_text(options.output, "\n".join(lines) + "\n")
    print("\n".join(lines))
    print(f"written to {options.output}: please paste it into an issue")
    if any("FAILED" in line for line in lines):
        sys.exit(1)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu tries the script itself")
    parser.add_argument("--output", type=Path, default=Path("gpu-check.md"), help="the report; default: %(default)s")
    parser.add_argument("--steps", type=int, default=20, help="steps of each training; default: %(default)s")
    parser.add_argument("--full", action="store_true", help=f"{FULL_MINUTES} minutes, and longer limits of the parts")
    parser.add_argument("--minutes", type=float, help=f"of all parts; default: {MINUTES}")
    parser.add_argument(
        "--quick", action="store_true", help="two steps of a tiny model: tries the script, not the device"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="the float32 training and these; default: all")
    return parser.parse_args()


def environment(options: argparse.Namespace) -> list[str]:
    """Say what was checked on what."""
    cuda = options.device == "cuda"
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if cuda else ["CPU"]
    memory = f", {torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB" if cuda else ""
    return [
        f"# cffa_hf {VERSION} on {len(devices)} x {devices[0]}{memory}",
        "",
        f"Python {platform.python_version()}, torch {torch.__version__}, CUDA {torch.version.cuda}, {platform.machine()}",
    ]


def missing(options: argparse.Namespace) -> dict[str, str]:
    """Return what this machine lacks: its name in `Run.needs` -> why."""
    cuda = options.device == "cuda"
    reasons = {}
    if not cuda:
        reasons["cuda"] = "needs a GPU"
    elif not torch.cuda.is_bf16_supported():
        reasons["bf16"] = "this GPU does not compute in bfloat16"
    if cuda and torch.cuda.device_count() < 2:
        reasons["two devices"] = "needs two GPUs"
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        reasons["compiler"] = "there is no C++ compiler"
    if importlib.util.find_spec("deepspeed") is None:
        reasons["deepspeed"] = "the package deepspeed is not installed"
    return reasons


# Processes


def run_limited(words: Sequence[str], seconds: float, log: Path, **variables: str) -> tuple[str, str]:
    """Run a part in a process of its own; what it started ends with it.

    Args:
        words: The command.
        seconds: After which it is killed.
        log: Is written with all that it printed, if it fails.
        **variables: Of its environment, where they are not set.

    Returns:
        What it printed, and in one line what went wrong, or nothing.
    """
    settings = {**variables, **os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(words, cwd=REPOSITORY, env=settings, start_new_session=True, **pipes)
    try:
        printed, _ = process.communicate(timeout=seconds)
        problem = last_error(printed) if process.returncode else ""
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()
        problem = f"took longer than {seconds:.0f} s"
    if problem:
        write_text(log, printed)
        problem = f"{problem}; all of it in {log.name}"
    return printed, problem


def last_error(printed: str) -> str:
    """Return the last line that names an error, in at most 200 characters."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()] or ["it printed nothing"]
    return next((line for line in reversed(lines) if "rror" in line), lines[-1])[:200].replace("|", "/")


def failed(problem: str) -> str:
    """Return the verdict on a part with a problem; too little memory is none of this package."""
    return f"does not fit: {problem}" if "out of memory" in problem.lower() else f"FAILED: {problem}"


# Trainings


def check_trainings(options: argparse.Namespace, folder: Path, clock: Clock) -> list[str]:
    """Run the trainings and compare losses and gradients with those of the first."""
    lacks, reference = missing(options), None
    table = ["| training | losses differ by | allowed | gradients differ by | allowed | s | |", "| --- " * 7 + "|"]
    for run in RUNS:
        if options.only and run is not RUNS[0] and run.name not in options.only:
            continue
        reason = next((f"not run: {lacks[name]}" for name in run.needs if name in lacks), None)
        if not reason and not (seconds := clock.limit(run.seconds)):
            reason = clock.over()
        if reason:
            table.append(f"| {run.name} | | | | | | {reason} |")
            continue
        begin = time.perf_counter()
        history, problem = train(run, folder, options, seconds)
        reference = history if reference is None else reference
        table.append(verdict(run, history, reference, problem, f"{time.perf_counter() - begin:.0f}"))
        print(table[-1], flush=True)
    return table


def verdict(run: Run, history: list[dict], reference: list[dict], problem: str, seconds: str) -> str:
    """Return the row of a training."""
    if problem or not history or len(history) != len(reference):
        return f"| {run.name} | | | | | {seconds} | {failed(problem or 'other steps were logged')} |"
    losses, gradients = (difference(history, reference, name) for name in ("loss", "grad_norm"))
    finite = all(abs(entry["loss"]) < float("inf") for entry in history)
    right = finite and all(
        bound is None or found <= bound for found, bound in ((losses, run.tolerance), (gradients, run.gradients))
    )
    allowed = "finite" if run.tolerance is None else f"{run.tolerance:.1%}"
    cells = f"{losses:.2%} | {allowed} | {gradients:.2%} | {'' if run.gradients is None else f'{run.gradients:.1%}'}"
    return f"| {run.name} | {cells} | {seconds} | {'ok' if right else 'FAILED'} |"


def difference(history: list[dict], reference: list[dict], name: str) -> float:
    """Return the largest relative difference of what two trainings logged, infinite if only one of them logged it."""
    found, wanted = ([entry[name] for entry in entries if name in entry] for entries in (history, reference))
    if len(found) != len(wanted):
        return float("inf")
    pairs = zip(found, wanted, strict=True)
    return max((abs(one - other) / max(abs(other), 1e-12) for one, other in pairs), default=0.0)


def train(run: Run, folder: Path, options: argparse.Namespace, seconds: float) -> tuple[list[dict], str]:
    """Train, and return the log entry of each step, or in one line what went wrong."""
    out = folder / run.name.replace(" ", "-")
    settings = {**PLAIN, **(TINY if options.quick else {}), "output_dir": str(out), "dataset_root": f"{folder}/data"}
    settings |= {"max_steps": str(options.steps), "per_device_train_batch_size": str(BATCH // run.processes)}
    settings |= {"use_cpu": "true"} if options.device == "cpu" else {}
    words = [*launcher(run), "run_train.py"]
    words += [word for name, value in settings.items() for word in (f"--{name}", value)] + list(run.settings)
    visible = ",".join(map(str, range(run.processes))) if options.device == "cuda" else ""
    log = options.output.with_suffix(f".{out.name}.log")
    _, problem = run_limited(words, seconds, log, **({"CUDA_VISIBLE_DEVICES": visible} if visible else {}))
    if problem:
        return [], problem
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "loss" in entry], ""


def launcher(run: Run) -> list[str]:
    """Return the words that start the processes of a training."""
    if run.processes == 1:
        return [sys.executable]
    if run.config is None:
        return [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(run.processes), "--standalone"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    config = str(CONFIGS / "accelerate" / f"{run.config}.yaml")
    words = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]
    return [*words, "--num_processes", str(run.processes), "--main_process_port", port]


# Speed


def check_speed(options: argparse.Namespace, clock: Clock) -> tuple[float, list[str]]:
    """Run the training benchmark at each batch size; returns the most pairs a second, and what to report."""
    sizes = ["4"] if options.quick else ["64", "256"] if options.device == "cuda" else ["8"]
    speed, lines = 0.0, []
    for size in sizes:
        name = f"training benchmark, batch {size}"
        if not (seconds := clock.limit(200)):
            lines.append(f"{name}: {clock.over()}")
            continue
        words = [sys.executable, str(REPOSITORY / "benchmarks" / "training.py"), "--device", options.device]
        words += ["--batch-sizes", size, *(["--tiny", "--steps", "1"] if options.quick else [])]
        log = options.output.with_suffix(f".batch-{size}.log")
        printed, problem = run_limited(words, seconds, log)
        if problem:
            lines.append(f"{name}: {failed(problem)}")
            continue
        told = [line for line in printed.splitlines() if line.startswith(("|", "losses", "batch"))]
        speed = max(speed, images_per_second(told))
        lines += [*told[:1], "", *told[1:2], "", *told[2:], ""]
    return speed, lines


def images_per_second(lines: list[str]) -> float:
    """Return the largest speed of our rows in the tables of the training benchmark; 0 if there is none."""
    speeds = [0.0]
    column = None
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if "images/s" in cells:
            column = cells.index("images/s")
        elif column is not None and "ours" in cells and re.fullmatch(r"[\d.,]+", cells[column]):
            speeds.append(float(cells[column].replace(",", "")))
    return max(speeds)


def check_search(options: argparse.Namespace, folder: Path, clock: Clock) -> list[str]:
    """Embed and search on the device and on the CPU."""
    if not (seconds := clock.limit(120)):
        return [f"embedding and search: {clock.over()}"]
    words = [sys.executable, str(REPOSITORY / "benchmarks" / "gpu_search.py"), f"{folder}/data"]
    words += ["--device", options.device, *(["--quick"] if options.quick else [])]
    printed, problem = run_limited(words, seconds, options.output.with_suffix(".search.log"))
    if problem:
        return [f"embedding and search: {failed(problem)}"]
    return [line for line in printed.splitlines() if line.startswith("|")]


def recipes(speed: float, options: argparse.Namespace) -> list[str]:
    """Estimate the hours of each shipped recipe of a benchmark from the measured speed."""
    if not speed:
        return ["No speed was measured, so that the hours of the recipes are not known."]
    table, total = ["| recipe | epochs | hours |", "| --- | --- | --- |"], 0.0
    for path in (folder / f"{name}.yaml" for folder in (CONFIGS, CONFIGS / "published") for name in TRAIN_PAIRS):
        epochs = yaml.safe_load(path.read_text(encoding="utf-8"))["num_train_epochs"]
        hours = TRAIN_PAIRS[path.stem] * epochs / speed / 3600
        total += hours
        table.append(f"| {path.relative_to(REPOSITORY)} | {epochs} | {hours:.1f} |")
    what = "a toy model" if options.quick else "ViT-B/16 at 384 x 128"
    told = f"At {speed:.0f} pairs/s of {what} in the fastest row above, without evaluation and decoding"
    return [*table, "", f"{told}: {total:.1f} h for all of them once, {WEEK / total:.1f} times in a week."]


if __name__ == "__main__":
    main()
