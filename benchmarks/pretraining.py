"""Pre-train on many rendered people of one image each, fine-tune on the demo's people, and compare with these alone.

Four models for each seed: the pre-trained one on people that it was not trained for, the fine-tuned one, one that saw the
demo's people alone for as many steps as the fine-tuning has, and one for as many as both trainings have together: batches
are of the same size, so that equal steps are equal time. Each training is a process of its own with one thread. A
finished one is a file in the output folder and is not run again; another call goes on where one was stopped.

    python benchmarks/pretraining.py --output outputs/pretraining
    python benchmarks/pretraining.py --quick --output outputs/pretraining-quick

All share configs/methods/best.yaml and benchmarks/ablation.yaml.
"""

import argparse
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml
from ablation import BASE, QUICK_PEOPLE, REPOSITORY, found_by_queries

METHOD = REPOSITORY / "configs/methods/best.yaml"
MANY, DEMO = (20_000, 0, 0), (1100, 50, 100)
QUICK_MANY = (32, 0, 0)
QUICK_SIZES = ["--hidden_size", "64", "--num_layers", "1"]
CAPTIONS, DEMO_IMAGES = 2, 4
BATCH, QUICK_BATCH = 64, 16
PRETRAINING_EPOCHS, EPOCHS = 1, 3
MANY_SEED = 7


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        name: In the table.
        key: Name of its files.
        data: "many" or "demo": the people that it sees.
        starts_from: Key of the training whose weights it starts from; None: random ones.
        noise: Share of shuffled captions, as the report has it: none.
    """

    name: str
    key: str
    data: str
    starts_from: str | None = None
    noise: float = 0.0


ALONE = Cell("demo alone", "alone", "demo")
LONGER = Cell("demo alone, as many steps as both", "longer", "demo")
PRETRAINED = Cell("pre-trained, direct transfer", "pretrained", "many")
FINE_TUNED = Cell("pre-trained, then demo", "fine-tuned", "demo", starts_from="pretrained")
CELLS = [LONGER, ALONE, PRETRAINED, FINE_TUNED]
"""The first one is what the others are compared with in the table."""


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/pretraining"), help="default: %(default)s")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="seeds at a time; default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="few people and a smaller model: tries the script")
    parser.add_argument("--cell", nargs=2, metavar=("KEY", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        cell = next(cell for cell in CELLS if cell.key == options.cell[0])
        train_and_evaluate(cell, int(options.cell[1]), options)
        return
    prepare_data(options)
    missing = sum(not finished(cell, seed, options) for seed in options.seeds for cell in CELLS)
    print(f"{len(CELLS) * len(options.seeds)} trainings, {missing} to run, {options.jobs} seeds at a time", flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        failed = [name for name in pool.map(lambda seed: run_seed(seed, options), options.seeds) if name]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; see the .log files in {options.output}")
    report(options)


def prepare_data(options: argparse.Namespace) -> None:
    """Render the people, unless they are there."""
    from cffa_hf.demo import write_demo_dataset

    many, demo = (QUICK_MANY, QUICK_PEOPLE) if options.quick else (MANY, DEMO)
    options.output.mkdir(parents=True, exist_ok=True)
    write_demo_dataset(options.output / "many", identities=many, images_per_identity=1, seed=MANY_SEED)
    write_demo_dataset(options.output / "demo", identities=demo, images_per_identity=DEMO_IMAGES, seed=0)


def epochs(cell: Cell, options: argparse.Namespace) -> float:
    """Return how many epochs a training has; `LONGER` has as many steps as pre-training and fine-tuning together."""
    pretraining, fine_tuning = (1, 1) if options.quick else (PRETRAINING_EPOCHS, EPOCHS)
    if cell is PRETRAINED:
        return pretraining
    if cell is not LONGER:
        return fine_tuning
    many, demo = (QUICK_MANY, QUICK_PEOPLE) if options.quick else (MANY, DEMO)
    batch = QUICK_BATCH if options.quick else BATCH
    steps_of_many, steps_of_demo = many[0] * CAPTIONS // batch, demo[0] * DEMO_IMAGES * CAPTIONS // batch
    return fine_tuning + math.ceil(pretraining * steps_of_many) / steps_of_demo


def command(cell: Cell, seed: int, options: argparse.Namespace) -> list[str]:
    """Return the words that the training is called with."""
    words = ["--config", str(METHOD), str(BASE), "--seed", str(seed), "--num_train_epochs", str(epochs(cell, options))]
    words += ["--per_device_train_batch_size", str(QUICK_BATCH if options.quick else BATCH)]
    words += [*(QUICK_SIZES if options.quick else []), "--dataset_root", str(options.output / cell.data)]
    if cell.starts_from:
        words += ["--init_from", str(options.output / f"{cell.starts_from}-seed{seed}")]
    return [*words, "--output_dir", str(result_file(cell, seed, options).with_suffix(""))]


def recipe(cell: Cell, seed: int, options: argparse.Namespace) -> str:
    """Return a digest of everything that the training is made of."""
    before = [recipe(PRETRAINED, seed, options)] if cell.starts_from else []
    settings = [*command(cell, seed, options)[4:-2], options.quick, MANY, DEMO, *before]
    files = [yaml.safe_load(path.read_text()) for path in (METHOD, BASE)]
    own = [word for word in settings if not str(word).startswith(str(options.output))]
    return hashlib.sha256(json.dumps([*own, *files], sort_keys=True).encode()).hexdigest()[:16]


def result_file(cell: Cell, seed: int, options: argparse.Namespace) -> Path:
    """Return where the result is written."""
    return options.output / f"{cell.key}-seed{seed}.json"


def finished(cell: Cell, seed: int, options: argparse.Namespace) -> bool:
    """Tell whether the training was run with these settings, and what goes on from it has its weights or is finished."""
    path = result_file(cell, seed, options)
    if not path.is_file() or json.loads(path.read_text())["recipe"] != recipe(cell, seed, options):
        return False
    return cell is not PRETRAINED or path.with_suffix("").is_dir() or finished(FINE_TUNED, seed, options)


def run_seed(seed: int, options: argparse.Namespace) -> str | None:
    """Run what is missing of one seed, one after the other; return the name of what failed."""
    for cell in (PRETRAINED, FINE_TUNED, ALONE, LONGER):
        if finished(cell, seed, options):
            continue
        words = [sys.executable, __file__, "--output", str(options.output), "--cell", cell.key, str(seed)]
        words += ["--quick"] * options.quick
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        begin = time.monotonic()
        with result_file(cell, seed, options).with_suffix(".log").open("w") as log:
            child = subprocess.run(words, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False)
        state = "failed" if child.returncode else "done"
        print(f"{cell.key} seed {seed}: {state} in {time.monotonic() - begin:.0f} s", flush=True)
        if child.returncode:
            return f"{cell.key} seed {seed}"
    shutil.rmtree(options.output / f"{PRETRAINED.key}-seed{seed}", ignore_errors=True)
    return None


def train_and_evaluate(cell: Cell, seed: int, options: argparse.Namespace) -> None:
    """Train, and write what each query of the demo's test people found; only pre-trained weights are kept."""
    from cffa_hf.cli.train import main as train
    from cffa_hf.files import write_text

    begin = time.monotonic()
    train(command(cell, seed, options))
    seconds = round(time.monotonic() - begin)
    folder = result_file(cell, seed, options).with_suffix("")
    steps = json.loads((folder / "trainer_state.json").read_text())["global_step"]
    result = {
        "name": cell.name,
        "seed": seed,
        "recipe": recipe(cell, seed, options),
        "seconds": seconds,
        "steps": steps,
    }
    result |= {**found_by_queries(folder, options.output / "demo"), "consensus": []}
    if cell is not PRETRAINED:
        shutil.rmtree(folder)
    write_text(result_file(cell, seed, options), json.dumps(result))


def report(options: argparse.Namespace) -> None:
    """Print the table, with intervals over seeds and identities."""
    from ablation_report import method_table, read_cell

    files = {cell.key: [result_file(cell, seed, options) for seed in options.seeds] for cell in CELLS}
    measured = [read_cell(cell, files[cell.key]) for cell in CELLS]
    steps = ", ".join(f"{cell.name} {json.loads(files[cell.key][0].read_text())['steps']:,}" for cell in CELLS)
    print(
        f"Seeds {', '.join(map(str, options.seeds))}; {len(measured[0].queries)} test identities, "
        f"{measured[0].queries.sum():,} captions as queries. Percent; seconds of one training on one thread. Steps: {steps}.\n"
    )
    print(method_table(measured, measured[0]))


if __name__ == "__main__":
    main()
