"""Train the parts of CFFA, its peers and noisy captions on rendered people, and write what came out.

Each cell is one training with one seed and its evaluation, in a process of its own with one thread, as many at a time as
there are processors. A finished cell is a file in the output folder and is not run again; another call goes on where one
was stopped. All cells of one seed come before those of the next.

    python benchmarks/ablation.py --output outputs/ablation --write docs/ablation.md
    python benchmarks/ablation.py --output outputs/ablation --set tried --seeds 1 --write docs/ablation.md
    python benchmarks/ablation.py --output outputs/ablation --set best --seeds 4 5 6 --people-seed 1 --write docs/ablation.md
    python benchmarks/ablation.py --quick --output outputs/ablation-quick

Methods are the files of configs/methods, followed by benchmarks/ablation.yaml, which every cell shares.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
BASE = Path(__file__).with_name("ablation.yaml")
PEOPLE = (600, 40, 200)
QUICK_PEOPLE = (12, 4, 8)
QUICK = ["--max_steps", "2", "--per_device_train_batch_size", "16", "--hidden_size", "64", "--num_layers", "1"]


@dataclass(frozen=True)
class Cell:
    """One method with one kind of captions.

    Attributes:
        name: In the tables.
        method: File of configs/methods.
        words: Settings that differ from that file, as on the command line.
        noise: Share of the train captions that are shuffled.
    """

    name: str
    method: str
    words: tuple[str, ...] = ()
    noise: float = 0.0

    @property
    def key(self) -> str:
        """Name of the cell's files."""
        return f"{self.name}-{self.noise:g}".replace(" ", "_").replace("+", "and").replace(",", "")


NO_CONSENSUS = ("--noisy_pairs", "none")
CONSENSUS = ("--noisy_pairs", "consensus")
PARTS = [
    Cell("clip", "clip"),
    Cell("clip + FLFR", "clip", ("--use_flfr", "true")),
    Cell("clip + relation reasoning", "clip", ("--use_mlm", "true")),
    Cell("clip + identity", "clip", ("--use_identity", "true")),
    Cell("clip + MAL", "clip", ("--alignment_loss", "mal", "--alignment_reduction", "sum")),
    Cell("cffa", "cffa"),
]
PEERS = [
    ("clip", "clip", ()),
    ("irra", "irra", ()),
    ("rde without consensus", "rde", NO_CONSENSUS),
    ("cffa", "cffa", ()),
]
PEERS += [("rde", "rde", CONSENSUS)]
NOISE = (0.0, 0.2, 0.5)
CELLS = list(dict.fromkeys([*PARTS, *(Cell(*peer, noise) for noise in NOISE for peer in PEERS)]))
MUCH_NOISE = ("--consensus_much_noise", "true")  # at 50%, as RDE does
CELLS = [
    replace(cell, words=cell.words + MUCH_NOISE) if cell.noise >= 0.5 and CONSENSUS[1] in cell.words else cell
    for cell in CELLS
]
# Looking for what helps and what does not, with one seed.
TRIED = [
    Cell("cffa", "cffa"),
    Cell("cffa, matching sees whole captions", "cffa", ("--share_masked_captions", "false")),
    Cell("cffa, MLM weight 0.2", "cffa", ("--mlm_weight", "0.2")),
    Cell("cffa without MLM", "cffa", ("--use_mlm", "false")),
    Cell("cffa without MLM and identity", "cffa", ("--use_mlm", "false", "--use_identity", "false")),
    Cell("cffa without MLM, identity sampler", "cffa", ("--use_mlm", "false", "--sampler", "identity")),
    Cell("cffa without MLM, batch 128", "cffa", ("--use_mlm", "false", "--per_device_train_batch_size", "128")),
    Cell("cffa without MLM, batch 32", "cffa", ("--use_mlm", "false", "--per_device_train_batch_size", "32")),
    Cell("cffa without MLM, temperature 0.03", "cffa", ("--use_mlm", "false", "--temperature", "0.03")),
    Cell("cffa without MLM, temperature 0.02", "cffa", ("--use_mlm", "false", "--temperature", "0.02")),
    Cell("cffa, temperature 0.03", "cffa", ("--temperature", "0.03")),
    Cell("cffa + consensus", "cffa", CONSENSUS),
    Cell("clip, logit scale 33", "clip", ("--logit_scale", "33")),
    Cell("irra, logit scale 50", "irra", ("--logit_scale", "50")),
]
# The shared file sets another temperature, so that it stands here once more.
BEST = [
    Cell("cffa", "cffa"),
    Cell("cffa without MLM", "cffa", ("--use_mlm", "false")),
    Cell("best", "best", ("--temperature", "0.03")),
]
SETS = {"methods": CELLS, "tried": TRIED, "best": BEST}


def main() -> None:
    """Run what is missing, and write the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/ablation"), help="default: %(default)s")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="default: %(default)s")
    parser.add_argument("--set", choices=list(SETS), default="methods", help="which cells; default: %(default)s")
    parser.add_argument("--people-seed", type=int, default=0, help="other rendered people; default: %(default)s")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names of cells; default: all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="cells at a time; default: %(default)s")
    parser.add_argument(
        "--quick", action="store_true", help="two steps of a smaller model: tries the script, not the methods"
    )
    parser.add_argument("--write", type=Path, metavar="PAGE", help="Markdown page whose tables and figure are replaced")
    parser.add_argument("--cell", nargs=2, metavar=("KEY", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        cell = next(cell for cell in SETS[options.set] if cell.key == options.cell[0])
        train_and_evaluate(cell, int(options.cell[1]), options)
        return
    cells = [cell for cell in SETS[options.set] if not options.only or cell.name in options.only]
    prepare_data(options)
    missing = [(cell, seed) for seed in options.seeds for cell in cells if not finished(cell, seed, options)]
    print(f"{len(cells) * len(options.seeds)} cells, {len(missing)} to run, {options.jobs} at a time", flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        failed = [name for name in pool.map(lambda pair: start(*pair, options), missing) if name]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; see the .log files in {options.output}")
    from ablation_report import write_report

    files = {(cell.key, seed): result_file(cell, seed, options) for cell in cells for seed in options.seeds}
    write_report(options.set, cells, files, options.output, options.write)


def data_root(options: argparse.Namespace) -> Path:
    """Return the folder of the rendered people."""
    return options.output / f"data{options.people_seed or ''}"


def prepare_data(options: argparse.Namespace) -> None:
    """Render the people, unless they are there."""
    from cffa_hf.demo import write_demo_dataset

    options.output.mkdir(parents=True, exist_ok=True)
    write_demo_dataset(
        data_root(options), identities=QUICK_PEOPLE if options.quick else PEOPLE, seed=options.people_seed
    )


def command(cell: Cell, seed: int, options: argparse.Namespace) -> list[str]:
    """Return the words that the training is called with."""
    words = ["--config", str(REPOSITORY / f"configs/methods/{cell.method}.yaml"), str(BASE), *cell.words]
    if cell.noise:
        words += ["--caption_noise", str(cell.noise), "--caption_noise_seed", str(seed)]
    words += ["--dataset_root", str(data_root(options)), "--seed", str(seed), *(QUICK if options.quick else [])]
    return [*words, "--output_dir", str(result_file(cell, seed, options).with_suffix(""))]


def recipe(cell: Cell, seed: int, options: argparse.Namespace) -> str:
    """Return a digest of everything that the cell's settings are made of."""
    settings = [
        *cell.words,
        cell.noise,
        seed,
        options.quick,
        PEOPLE,
        *([options.people_seed] if options.people_seed else []),
    ]
    files = [yaml.safe_load(path.read_text()) for path in (REPOSITORY / f"configs/methods/{cell.method}.yaml", BASE)]
    return hashlib.sha256(json.dumps([*settings, *files], sort_keys=True).encode()).hexdigest()[:16]


def result_file(cell: Cell, seed: int, options: argparse.Namespace) -> Path:
    """Return where the cell's result is written."""
    people = f"-people{options.people_seed}" if options.people_seed else ""
    return options.output / f"{cell.key}{people}-seed{seed}.json"


def finished(cell: Cell, seed: int, options: argparse.Namespace) -> bool:
    """Tell whether the cell was run with these settings."""
    path = result_file(cell, seed, options)
    return path.is_file() and json.loads(path.read_text())["recipe"] == recipe(cell, seed, options)


def start(cell: Cell, seed: int, options: argparse.Namespace) -> str | None:
    """Run a cell in a process of its own; return its name if it failed."""
    words = [sys.executable, __file__, "--output", str(options.output), "--cell", cell.key, str(seed)]
    words += ["--set", options.set, "--people-seed", str(options.people_seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    begin = time.monotonic()
    with result_file(cell, seed, options).with_suffix(".log").open("w") as log:
        quick = ["--quick"] if options.quick else []
        child = subprocess.run([*words, *quick], stdout=log, stderr=subprocess.STDOUT, env=environment, check=False)
    state = "failed" if child.returncode else "done"
    print(f"{cell.key} seed {seed}: {state} in {time.monotonic() - begin:.0f} s", flush=True)
    return f"{cell.key} seed {seed}" if child.returncode else None


def train_and_evaluate(cell: Cell, seed: int, options: argparse.Namespace) -> None:
    """Train, embed the test split, and write what each query found; the weights are not kept."""
    from cffa_hf.cli.train import main as train
    from cffa_hf.files import write_text

    begin = time.monotonic()
    train(command(cell, seed, options))
    seconds = time.monotonic() - begin
    folder = result_file(cell, seed, options).with_suffix("")
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    consensus = [entry for entry in history if "pairs_kept" in entry]
    result = {"name": cell.name, "noise": cell.noise, "seed": seed, "recipe": recipe(cell, seed, options)}
    result |= {"seconds": round(seconds), **found_by_queries(folder, data_root(options)), "consensus": consensus[-1:]}
    shutil.rmtree(folder)
    write_text(result_file(cell, seed, options), json.dumps(result))


def found_by_queries(folder: Path, root: Path) -> dict[str, list]:
    """Evaluate a run on the test split of the rendered people: the identity and the metrics of each query."""
    from cffa_hf.checkpoints import open_checkpoint
    from cffa_hf.data import load_person_dataset
    from cffa_hf.evaluation import RetrievalEvaluator
    from cffa_hf.metrics.averages import per_query

    checkpoint = open_checkpoint(str(folder), device="cpu")
    rows = load_person_dataset("cuhk_pedes", root=root)["test"]
    ranks = RetrievalEvaluator(rows, checkpoint.processor, progress=False).embed(checkpoint.model).text_to_image()
    values = {
        name: [round(value, 4) for value in column.tolist()] for name, column in per_query(ranks, (1, 5, 10)).items()
    }
    return {"identities": ranks.query_ids[ranks.evaluated].tolist(), "values": values}


if __name__ == "__main__":
    main()
