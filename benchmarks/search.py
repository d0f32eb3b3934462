"""Search galleries of many vectors: the default index beside exact search, in one run.

Vectors are made up as embeddings are: people near a plane of 128 dimensions, about five images each, 1536 wide; queries
lie off them as sentences do, at a cosine of about 0.5 to their person. Nothing of a model runs, but for `--text`, which times the
encoding of sentences apart (ViT-B/16's text tower with random weights).

For each size: how long the gallery and its index take to build; how long opening takes; bytes a vector in memory once
all of the index has been read (of the process, above what it had before; vectors that are ranked last stay on disk); one
query at a time, and in batches of 32, with the vectors in the page cache; recall@10 against exact search; a filter that
passes a tenth of the images.

    python benchmarks/search.py --sizes 100000 1000000
    python benchmarks/search.py --text
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from cffa_hf.search.filters import parse_filter
from cffa_hf.search.indexes.exact import ExactIndex
from cffa_hf.search.indexes.faiss_index import (
    FaissIndex,
    build_codes,
    choose_candidates,
    read_codes,
    recall_of,
    stand_in_queries,
)
from cffa_hf.search.items import Items

HEAD = ["images", "index built, s", "opened, ms", "bytes a vector", "one query, ms", "of 32, ms each", "recall@10"]
HEAD += ["filtered, ms", "recall@10"]
COLUMNS = {"open": ".0f", "bytes": ".0f", "one": ".1f", "batch": ".1f", "recall": ".3f"}
COLUMNS |= {"filtered": ".1f", "filtered_recall": ".3f"}
EXACT = ("exact_bytes", "exact_one", "exact_batch", "exact_filtered")
WIDTH, PLANE, IMAGES, BLOCK, CAMERAS = 1536, 128, 5, 20_000, 10


def main() -> None:
    """Print a table, one line a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[100_000], help="images; default: %(default)s")
    parser.add_argument("--width", type=int, default=WIDTH, help="of the vectors; default: %(default)s")
    parser.add_argument("--queries", type=int, default=64, help="that are timed and checked; default: %(default)s")
    parser.add_argument("--text", action="store_true", help="time the encoding of sentences instead")
    parser.add_argument("--measure", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options)))
        return
    if options.text:
        time_text()
        return
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    notes = []
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            built = build(Path(folder), size, options)
            # In a process of its own, whose memory is that of the search alone.
            words = [sys.executable, __file__, "--measure", folder, "--width", str(options.width)]
            done = subprocess.run(
                [*words, "--queries", str(options.queries)], capture_output=True, text=True, check=True, env=os.environ
            )
            found = json.loads(done.stdout.splitlines()[-1])
        ours = [f"{size:,}", f"{built['build']:.1f}", *(f"{found[name]:{form}}" for name, form in COLUMNS.items())]
        exact = [
            "the same, exact",
            "-",
            "-",
            *(f"{found[name]:.1f}" for name in EXACT[:3]),
            "1",
            f"{found[EXACT[3]]:.1f}",
            "1",
        ]
        print(f"| {' | '.join(ours)} |\n| {' | '.join(exact)} |", flush=True)
        notes.append(f"{size:,}: vectors written in {built['write']:.1f} s, {found['candidates']} candidates a query")
    print("\n" + "\n".join(notes))


def build(folder: Path, size: int, options: argparse.Namespace) -> dict[str, float]:
    """Write vectors, build the index and choose how many candidates it ranks."""
    import faiss

    items = Items(folder, options.width, create=True)
    start = time.perf_counter()
    for first in range(0, size, BLOCK):
        count = min(BLOCK, size - first)
        rows = [{"camera": f"cam_{number % CAMERAS}"} for number in range(first, first + count)]
        items.append(
            [f"{number}.jpg" for number in range(first, first + count)], people(count, first, options.width), rows
        )
    written = time.perf_counter() - start
    start = time.perf_counter()
    codes = build_codes(items)
    candidates, _ = choose_candidates(items, codes, stand_in_queries(items))
    faiss.write_index(codes, str(folder / "codes"))
    (folder / "candidates.json").write_text(json.dumps(candidates))
    seconds = time.perf_counter() - start
    items.close()
    return {"write": written, "build": seconds}


def measure(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Open what was built and search it."""
    import faiss  # noqa: F401  # its libraries count before, not as memory of the index

    items = Items(folder, options.width)
    queries = sentences(items, options)
    items.close()
    before = anonymous_and_codes(folder)
    start = time.perf_counter()
    items = Items(folder, options.width)
    index = FaissIndex(items, read_codes(folder / "codes", items), json.loads((folder / "candidates.json").read_text()))
    opened = time.perf_counter() - start
    exact = ExactIndex(items)
    conditions = parse_filter({"camera": "cam_3"}, items.kinds)
    index.search(queries, 10)
    result: dict[str, float] = {"open": 1000 * opened, "bytes": (anonymous_and_codes(folder) - before) / len(items)}
    result["one"] = milliseconds(lambda: [index.search(query[None], 10) for query in queries], len(queries))
    result["batch"] = milliseconds(lambda: index.search(queries[:32], 10), len(queries[:32]))
    result["exact_one"] = milliseconds(
        lambda: [exact.search(query[None], 10) for query in queries[:4]], len(queries[:4])
    )
    result["exact_batch"] = milliseconds(lambda: exact.search(queries[:32], 10), len(queries[:32]))
    result["exact_bytes"] = 2.0 * options.width
    result["recall"] = recall_of(index.search(queries, 10)[1], exact.search(queries, 10)[1])
    for name, each in (("filtered", index), ("exact_filtered", exact)):
        search_all = partial(search_one_by_one, each, queries, conditions)
        result[name] = milliseconds(search_all, len(queries))
    best = exact.search(queries, 10, conditions)[1]
    result["filtered_recall"] = recall_of(index.search(queries, 10, conditions)[1], best)
    return {**result, "candidates": index.candidates}


def search_one_by_one(index, queries: np.ndarray, conditions) -> None:
    """Search for each query alone."""
    for query in queries:
        index.search(query[None], 10, conditions)


def people(count: int, seed: int, width: int) -> np.ndarray:
    """Make unit rows `(count, width)`: people near a plane, five images each."""
    plane = np.random.default_rng(0).standard_normal((min(PLANE, width), width), dtype=np.float32)
    rng = np.random.default_rng(seed + 1)
    persons = rng.standard_normal((-(-count // IMAGES), len(plane)), dtype=np.float32).repeat(IMAGES, axis=0)[:count]
    persons += 0.3 * rng.standard_normal(persons.shape, dtype=np.float32)
    vectors = persons @ plane / np.sqrt(len(plane)) + 0.15 * rng.standard_normal((count, width), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def sentences(items: Items, options: argparse.Namespace) -> np.ndarray:
    """Make queries off the vectors; other ones than those that the candidates were chosen with."""
    return stand_in_queries(items, options.queries, seed=12345)


def milliseconds(work, count: int) -> float:
    """Return the time of one query: the fastest of three rounds."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1000 * min(times) / count


def anonymous_and_codes(folder: Path) -> int:
    """Return the bytes in memory of this process that are its own or the file of codes; vectors on disk do not count."""
    total, counts = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()
        if "-" in head[0] and not head[0].endswith(":"):
            name = head[5] if len(head) > 5 else ""
            counts = not name.startswith("/") or name == str((folder / "codes").resolve())
        elif counts and head[0] == "Rss:":
            total += 1024 * int(head[1])
    return total


def time_text() -> None:
    """Print how long sentences take to encode."""
    import torch

    from cffa_hf.configuration_cffa import CFFAConfig
    from cffa_hf.inference import Embedder
    from cffa_hf.inputs.processor import build_processor, train_tokenizer
    from cffa_hf.modeling_cffa import CFFAModel

    texts = [
        f"a woman in a pink shirt number {number}, loose black trousers and a white hat, with a bag"
        for number in range(32)
    ]
    processor = build_processor(train_tokenizer(texts, 800))
    torch.manual_seed(0)
    model = CFFAModel(CFFAConfig(text_config={"vocab_size": len(processor.tokenizer)})).eval()
    print("| precision | one sentence, ms | of 8, ms each | of 32, ms each |\n| --- | --- | --- | --- |")
    for precision in ("float32", "bfloat16"):
        embedder = Embedder(model, processor, precision=precision)
        cells = [f"{milliseconds(partial(embedder.captions, texts[:count]), count):.1f}" for count in (1, 8, 32)]
        print(f"| {precision} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
