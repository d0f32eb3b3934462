"""Measure the memory that a training process needs for its data, step by step, at the full size of a large set.

Rows and token ids with two captions an image are generated in the place where a first start leaves them; nothing is
validated or tokenised. A process of its own then does with them what a training does, one step after the other: rows are
opened and recorded, pairs made, an epoch's order drawn, pairs read at random places, and batches of identities drawn.
After each step stands what is resident above the libraries, MiB: `own`, and `total` with the pages of mapped files, and
the highest total until then. `--keep-pages` measures without giving these pages back.

    python benchmarks/data_memory.py --images 1000000 5000000
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from data import resident, sentence

ROWS_AT_ONCE = 1024
SENTENCES = 20_000
VOCABULARY = 2_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="+", type=int, default=[1_000_000], help="default: %(default)s")
    parser.add_argument("--reads", type=int, help="pairs read at random places; default: each once")
    parser.add_argument("--keep-pages", action="store_true", help="never give pages of mapped files back")
    parser.add_argument("--folder", help="where generated files are kept; default: a temporary one")
    parser.add_argument("--step", choices=["write", "measure"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        run_step(options)
        return
    with tempfile.TemporaryDirectory() as temporary:
        for images in options.images:
            folder = Path(options.folder or temporary) / f"rows-{images}"
            environment = {**os.environ, "HF_DATASETS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
            environment["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
            words = [sys.executable, __file__, "--images", str(images), "--folder", str(folder)]
            words += ["--reads", str(options.reads)] if options.reads else []
            words += ["--keep-pages"] if options.keep_pages else []
            if not (folder / "train.arrow").is_file():
                subprocess.run([*words, "--step", "write"], env=environment, check=True)
            done = subprocess.run(
                [*words, "--step", "measure"], env=environment, stdout=subprocess.PIPE, text=True, check=True
            )
            tell(images, json.loads(done.stdout.splitlines()[-1]))


def tell(images: int, steps: list[dict[str, Any]]) -> None:
    print(f"\n{images:,} images, {2 * images:,} captions\n")
    print("| step | CPU s | own | total | highest total |\n|" + " --- |" * 5)
    for step in steps:
        sizes = " | ".join(f"{step[name] / 2**20:.0f}" for name in ("own", "total", "highest"))
        print(f"| {step['name']} | {step['seconds']:.2f} | {sizes} |", flush=True)


def run_step(options: argparse.Namespace) -> None:
    folder, (images,) = Path(options.folder), options.images
    draw = random.Random(0)
    if options.step == "write":
        write_rows(folder, images, [sentence(draw) for _ in range(SENTENCES)])
        return
    print(json.dumps(measure(folder, options.reads or 2 * images, options.keep_pages)))


def small_tokenizer():
    from cffa_hf.inputs.processor import train_tokenizer

    draw = random.Random(1)
    return train_tokenizer([sentence(draw) for _ in range(500)], VOCABULARY)


def write_rows(folder: Path, images: int, sentences: list[str]) -> None:
    """Write rows as `cffa_hf.data.row_cache` does, and token ids of the usual lengths as `cffa_hf.data.token_ids` does."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from datasets import Dataset

    from cffa_hf.data import token_ids
    from cffa_hf.data.rows import FEATURES

    folder.mkdir(parents=True, exist_ok=True)
    generator, pool, schema = np.random.default_rng(0), pa.array(sentences), FEATURES.arrow_schema
    partial = folder / "unfinished.arrow"
    with partial.open("wb") as stream, pa.ipc.new_stream(stream, schema) as writer:
        for start in range(0, images, ROWS_AT_ONCE):
            numbers = pa.array(np.arange(start, min(images, start + ROWS_AT_ONCE)))
            texts = pool.take(pa.array(generator.integers(len(pool), size=2 * len(numbers))))
            # The number of the image makes every caption another one.
            texts = pc.binary_join_element_wise(texts, pc.cast(pa.array(np.repeat(numbers, 2)), pa.string()), " ")
            names = pc.binary_join_element_wise("images/part", pc.cast(numbers, pa.string()), ".jpg", "")
            image = pa.StructArray.from_arrays(
                [pa.nulls(len(numbers), pa.binary()), pc.binary_join_element_wise("/data/large-set/", names, "")],
                fields=list(schema.field("image").type),
            )
            columns = {
                "image": image,
                "captions": pa.ListArray.from_arrays(pa.array(np.arange(0, len(texts) + 1, 2, np.int32)), texts),
                "person_id": numbers,
                "image_id": numbers,
                "file_path": names,
                "camera": pa.nulls(len(numbers), pa.string()),
            }
            writer.write_batch(pa.RecordBatch.from_arrays([columns[field.name] for field in schema], schema=schema))

    def made_up(tokenizer: Any, texts: list[str], context_length: int) -> list[list[int]]:
        return [list(range(length)) for length in map(len, map(str.split, texts))]

    with mock.patch.object(token_ids, "encode_captions", made_up):
        token_ids.encode_rows(Dataset.from_file(str(partial)), small_tokenizer(), 77)
    (folder / "facts.json").write_text(json.dumps({"counts": {"train": [images, images, 2 * images]}, "remarks": []}))
    os.replace(partial, folder / "train.arrow")


def measure(folder: Path, reads: int, keep_pages: bool) -> list[dict[str, Any]]:
    """Do what a training does with its data before and between the steps; return what each part takes."""
    from datasets import Dataset

    from cffa_hf.data import mapped_pages
    from cffa_hf.data.large_sets import hold_out
    from cffa_hf.data.pairs import PairDataset
    from cffa_hf.data.row_cache import open_rows
    from cffa_hf.data.sampler import IdentitySampler, ShuffleSampler
    from cffa_hf.data.seen import seen_splits
    from cffa_hf.inputs.processor import encode_captions

    if keep_pages:
        mapped_pages.MappedPages.release = lambda self: None
    tokenizer = small_tokenizer()
    encode_captions(tokenizer, ["a man"])
    before, own_before = resident(os.getpid())
    Path("/proc/self/clear_refs").write_text("5")  # the highest resident set is counted from here
    found = []

    def step(name: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = work()
        seconds = time.process_time() - start
        total, own = resident(os.getpid())
        peak = 1024 * int(re.search(r"^VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(), re.M)[1])
        found.append({"name": name, "seconds": seconds, "own": own - own_before})
        found[-1] |= {"total": total - before, "highest": peak - before}
        return result

    def opened() -> Dataset:
        return hold_out(open_rows(folder)[0], str(folder), 0, 0)["train"]

    def read() -> None:
        for index in np.random.default_rng(0).integers(len(pairs), size=reads).tolist():
            pairs.images.source(pairs.captions.row(index))  # as a sample reads it; there is no file to decode
            pairs.captions[index]

    rows = step("rows opened", opened)
    step("recorded for seen.json", lambda: seen_splits(rows, None))
    pairs = step("pairs made", lambda: PairDataset(rows, tokenizer))
    order = ShuffleSampler(len(pairs))
    drawing = step("an epoch's order drawn", lambda: iter(order))
    next(drawing)
    step(f"{reads:,} pairs read", read)
    del drawing
    sampler = step("identity sampler made", lambda: IdentitySampler(pairs.person_labels, 128, 2))
    step("its first batch drawn", lambda: next(iter(sampler)))
    return found


if __name__ == "__main__":
    main()
