"""Run everything that needs a GPU once, and write a report of one page that can be pasted into an issue.

Trainings of a small model on rendered people: each precision, several processes, sharding and compiling must give the
losses of the plain float32 run on one device, within the tolerance that the table shows. Then the training benchmark at
the batch sizes of the papers with its peak memory, and from its speed the hours that the published recipes would take on
this device. What the machine cannot run (no second GPU, no DeepSpeed, no bf16) is listed with its reason.

    python benchmarks/gpu_check.py                  # on a machine without a GPU it says so and ends with status 0
    python benchmarks/gpu_check.py --device cpu --quick
"""

import argparse
import importlib.util
import json
import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from cffa_hf.demo import write_demo_dataset
from cffa_hf.files import write_text
from cffa_hf.version import VERSION

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIGS = REPOSITORY / "configs" / "accelerate"
RECIPE_PAIRS = {"CUHK-PEDES": 68_126, "ICFG-PEDES": 34_674, "RSTPReid": 37_010}
EPOCHS, BATCH = 60, 8
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


@dataclass(frozen=True)
class Run:
    """A training that must find the losses of the first one.

    Attributes:
        name: For the report.
        settings: Words for run_train.py.
        tolerance: Largest relative difference of a logged loss; None: the losses need only be finite.
        processes: One a device; the batch is divided among them.
        config: File in configs/accelerate, if several processes are not started by torchrun.
        needs: Reasons not to run it, as names of `missing`.
    """

    name: str
    settings: tuple[str, ...]
    tolerance: float | None
    processes: int = 1
    config: str | None = None
    needs: tuple[str, ...] = ()


RUNS = [
    Run("float32", ("--precision", "float32"), 0.0),
    Run("bfloat16", ("--precision", "bfloat16"), 0.05, needs=("bf16",)),
    Run("fp16", ("--precision", "float32", "--fp16", "true"), 0.05, needs=("cuda",)),
    Run("published precision", ("--precision", "published", "--adam_epsilon", "1e-3"), None),
    Run("activation checkpointing", ("--precision", "float32", "--activation_checkpointing", "true"), 1e-3),
    Run("cached batches", ("--precision", "float32", "--cached_batch_size", "2"), 1e-3),
    Run("compiled", ("--precision", "float32", "--torch_compile", "true"), 1e-2, needs=("cuda",)),
    Run("two processes", ("--precision", "float32"), 1e-3, processes=2, needs=("two devices",)),
    Run("FSDP", ("--precision", "float32"), 1e-3, 2, "fsdp", needs=("cuda", "two devices")),
    Run(
        "DeepSpeed ZeRO 2", ("--precision", "float32"), 1e-2, 2, "deepspeed_zero2", ("cuda", "two devices", "deepspeed")
    ),
]


def main() -> None:
    """Run the checks and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu tries the script itself")
    parser.add_argument("--output", type=Path, default=Path("gpu-check.md"), help="the report; default: %(default)s")
    parser.add_argument("--steps", type=int, default=20, help="steps of each training; default: %(default)s")
    parser.add_argument(
        "--quick", action="store_true", help="two steps of a tiny model: tries the script, not the device"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="the float32 training and these; default: all")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("There is no GPU here that PyTorch can use: nothing was checked. --device cpu --quick tries the script.")
        return
    if options.quick:
        options.steps = 2
    lines = [*environment(options), "", *check_trainings(options), "", *check_speed(options)]
    write_text(options.output, "\n".join(lines) + "\n")
    print("\n".join(lines))
    print(f"written to {options.output}: please paste it into an issue")
    if any("FAILED" in line for line in lines):
        sys.exit(1)


def environment(options: argparse.Namespace) -> list[str]:
    """Say what was checked on what."""
    cuda = options.device == "cuda"
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if cuda else ["CPU"]
    return [
        f"# cffa_hf {VERSION} on {len(devices)} x {devices[0]}",
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
    if importlib.util.find_spec("deepspeed") is None:
        reasons["deepspeed"] = "the package deepspeed is not installed"
    return reasons


def check_trainings(options: argparse.Namespace) -> list[str]:
    """Run the trainings and compare their losses with those of the first."""
    lacks, reference = missing(options), None
    table = ["| training | losses differ by | allowed | s | |", "| --- | --- | --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as folder:
        write_demo_dataset(f"{folder}/data", identities=(40 if options.quick else 200, 4, 6), workers=0)
        for run in RUNS:
            if options.only and run is not RUNS[0] and run.name not in options.only:
                continue
            reason = next((lacks[name] for name in run.needs if name in lacks), None)
            if reason:
                table.append(f"| {run.name} | | | | not run: {reason} |")
                continue
            begin = time.perf_counter()
            losses, problem = train(run, Path(folder), options)
            seconds = f"{time.perf_counter() - begin:.0f}"
            if reference is None:
                reference = losses
            table.append(verdict(run, losses, reference, problem, seconds))
            print(table[-1], flush=True)
    return table


def verdict(run: Run, losses: list[float], reference: list[float], problem: str, seconds: str) -> str:
    """Return the row of a training."""
    if problem or not losses or len(losses) != len(reference):
        return f"| {run.name} | | | {seconds} | FAILED: {problem or 'other steps were logged'} |"
    difference = max(abs(one - other) / abs(other) for one, other in zip(losses, reference, strict=True))
    allowed = "finite" if run.tolerance is None else f"{run.tolerance:.1%}"
    bound = float("inf") if run.tolerance is None else run.tolerance
    return f"| {run.name} | {difference:.2%} | {allowed} | {seconds} | {'ok' if difference <= bound else 'FAILED'} |"


def train(run: Run, folder: Path, options: argparse.Namespace) -> tuple[list[float], str]:
    """Train, and return the loss of each step, or the last line of what went wrong."""
    out = folder / run.name.replace(" ", "-")
    settings = {
        **PLAIN,
        **(TINY if options.quick else {}),
        "output_dir": str(out),
        "dataset_root": str(folder / "data"),
    }
    settings |= {"max_steps": str(options.steps), "per_device_train_batch_size": str(BATCH // run.processes)}
    settings |= {"use_cpu": "true"} if options.device == "cpu" else {}
    words = [
        "run_train.py",
        *(word for name, value in settings.items() for word in (f"--{name}", value)),
        *run.settings,
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if options.device == "cuda":
        environment.setdefault("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(run.processes))))
    done = subprocess.run(
        [*launcher(run), *words], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        log = options.output.with_suffix(f".{out.name}.log")
        write_text(log, done.stdout + done.stderr)
        last = next((line for line in reversed((done.stdout + done.stderr).splitlines()) if "rror" in line), "no word")
        return [], f"{last.strip()[:200]}; all of it in {log.name}"
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry], ""


def launcher(run: Run) -> list[str]:
    """Return the words that start the processes of a training."""
    if run.processes == 1:
        return [sys.executable]
    if run.config is None:
        return [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(run.processes), "--standalone"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    words = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / f"{run.config}.yaml")]
    return [*words, "--num_processes", str(run.processes), "--main_process_port", port]


def check_speed(options: argparse.Namespace) -> list[str]:
    """Run the training benchmark, and estimate the published recipes from its fastest row."""
    sizes = ["4"] if options.quick else ["64", "256"] if options.device == "cuda" else ["8"]
    words = [sys.executable, str(REPOSITORY / "benchmarks" / "training.py"), "--device", options.device]
    words += ["--batch-sizes", *sizes, *(["--tiny", "--steps", "1"] if options.quick else [])]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        return [f"FAILED: the training benchmark ended with {(done.stderr.splitlines() or ['no word'])[-1][:200]}"]
    lines = [line for line in done.stdout.splitlines() if line.startswith(("|", "losses")) or "batch" in line]
    speed = images_per_second(lines)
    hours = ", ".join(f"{name} {pairs * EPOCHS / speed / 3600:.1f} h" for name, pairs in RECIPE_PAIRS.items())
    what = "of a toy model" if options.quick else "of ViT-B/16 at 384 x 128"
    return [*lines, "", f"{EPOCHS} epochs at {speed:.0f} pairs/s ({what}), without evaluation and decoding: {hours}."]


def images_per_second(lines: list[str]) -> float:
    """Return the largest speed of our rows in the tables of the training benchmark.

    Raises:
        SystemExit: If there is none.
    """
    speeds: list[float] = []
    column = None
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if "images/s" in cells:
            column = cells.index("images/s")
        elif column is not None and "ours" in cells and re.fullmatch(r"[\d.,]+", cells[column]):
            speeds.append(float(cells[column].replace(",", "")))
    if not speeds:
        sys.exit("FAILED: the training benchmark printed no images/s")
    return max(speeds)


if __name__ == "__main__":
    main()
