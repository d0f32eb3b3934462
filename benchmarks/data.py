"""Measure how sets for pre-training are read, at several sizes: time, memory and disk, on the first start and on the next.

Annotations are generated in the layout of MALS (one caption an image) or of LUPerson-MLLM (four files with a caption each,
merged by file name); there are no image files, and none is looked for. Every start is a process of its own, which reads
the rows, tokenises the captions and makes the training pairs. `build` is the peak of memory of that process and of those
that help it, in proportional set sizes, so that what they share counts once. `held` is what the process of the next start
has afterwards above what it had before it read anything, resident; `own` is the part of that which is not mapped files.
Then indices are drawn as the trainer draws them, and captions read in that order; those rates and `CPU` are of processor
seconds, which tell more than the others on a machine that does other work besides.

    python benchmarks/data.py --images 10000 100000 --layouts mals luperson_mllm
"""

import argparse
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

WORDS = (
    "a the man woman person with wearing in black white red blue green grey shirt jacket coat trousers jeans shorts skirt "
    "shoes sneakers boots bag backpack hat glasses hair long short dark light walking standing holding phone and is of his "
    "her left right hand street background young tall slim striped floral sleeves logo white-soled denim leather"
)
LUPERSON_FILES = ("Td-qwen", "Td-shikra", "Ts-qwen", "Ts-shikra")
DRAWN = 200_000
RESOURCES = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="+", type=int, default=[10_000, 100_000], help="default: %(default)s")
    parser.add_argument("--layouts", nargs="+", default=["mals", "luperson_mllm"], choices=["mals", "luperson_mllm"])
    parser.add_argument("--tokenizer", help="CLIP's merges file; default: one trained on generated captions")
    parser.add_argument("--folder", help="where generated files and caches are kept; default: a temporary one")
    parser.add_argument("--measure", nargs=2, metavar=("LAYOUT", "ROOT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure, options.tokenizer)))
        return
    print(f"{len(os.sched_getaffinity(0))} processors")
    with tempfile.TemporaryDirectory() as temporary:
        for layout in options.layouts:
            compare(layout, options, Path(options.folder or temporary))


def compare(layout: str, options: argparse.Namespace, folder: Path) -> None:
    print(f"\n{layout}\n")
    titles = "images pairs JSON/pair cache/pair rows tokens CPU/pair next next-CPU build held own"
    titles += " identity/s shuffle/s captions/s"
    print("| " + " | ".join(titles.split()) + " |\n|" + " --- |" * len(titles.split()))
    found = []
    for images in options.images:
        root = folder / f"{layout}-{images}"
        size = write_annotations(layout, root, images)
        environment = {**os.environ, "HF_DATASETS_CACHE": str(root / "cache"), "PYTHONUNBUFFERED": "1"}
        words = [sys.executable, __file__, "--measure", layout, str(root)]
        words += ["--tokenizer", options.tokenizer] if options.tokenizer else []
        starts = []
        for _ in range(2):
            done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                print(f"{images:,} images: failed with exit status {done.returncode}")
                return
            starts.append(json.loads(done.stdout.splitlines()[-1]))
        first, second = starts
        disk = sum(file.stat().st_size for file in (root / "cache").rglob("*") if file.is_file())
        pairs = first["pairs"]
        found.append((pairs, first["cpu"], second["cpu"], second["memory"], second["own"]))
        cells = [f"{images:,}", f"{pairs:,}", f"{size / pairs:.0f} B", f"{disk / pairs:.0f} B"]
        cells += [
            f"{first['rows_seconds']:.1f} s",
            f"{first['tokens_seconds']:.1f} s",
            f"{1e6 * first['cpu'] / pairs:.0f} us",
        ]
        cells += [f"{second['rows_seconds'] + second['tokens_seconds']:.2f} s", f"{second['cpu']:.2f} s"]
        cells += [*(f"{value / 2**20:.0f} MiB" for value in (first["peak"], *found[-1][3:]))]
        cells += [f"{second[name]:,.0f}" for name in ("identity", "shuffle", "captions")]
        print("| " + " | ".join(cells) + " |", flush=True)
    if len(found) > 1:
        extrapolate(found, 10_000_000)


def extrapolate(found: list[tuple[float, ...]], pairs: int) -> None:
    """Draw a line through the two largest sizes; what it says of a larger one is arithmetic, not a measurement."""
    names = ("first start, CPU", "next start, CPU", "memory of the pairs", "of which own")
    (small, *before), (large, *after) = found[-2:]
    print(f"\nSlope between {small:,} and {large:,} pairs, and the line at {pairs:,} (not measured):")
    for name, one, other, unit in zip(names, before, after, ("s", "s", "MiB", "MiB"), strict=True):
        scale = 1 if unit == "s" else 2**20
        slope = (other - one) / (large - small) / scale
        value = other / scale + slope * (pairs - large)
        print(f"- {name}: {1e6 * slope:.1f} {unit} for each million pairs, {value:,.0f} {unit}")


def write_annotations(layout: str, root: Path, images: int) -> int:
    """Write the annotation files unless they are there; return their bytes."""
    if not root.is_dir():
        (root / "imgs").mkdir(parents=True)
        if layout == "mals":
            with (root / "g_0_attrs.json").open("w") as file:
                write_parts(file, "[]", mals_entries(images))
        else:
            for number, name in enumerate(LUPERSON_FILES):
                with (root / f"{name}.json").open("w") as file:
                    write_parts(file, "{}", luperson_entries(images, number))
    return sum(file.stat().st_size for file in root.glob("*.json"))


def write_parts(file, brackets: str, parts: Iterator[str]) -> None:
    file.write(brackets[0] + next(parts))
    for part in parts:
        file.write(",\n" + part)
    file.write(brackets[1])


def sentence(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS.split(), k=draw.randint(18, 40))).capitalize() + "."


def mals_entries(images: int) -> Iterator[str]:
    draw = random.Random(0)
    for number in range(images):
        group, place = divmod(number, 20_000)
        entry = {"image": f"gene_crop/c_g_a_{group}/{place}.jpg", "caption": sentence(draw)}
        entry |= {"image_id": f"c_g_a_{group}_{place}", "label": draw.choices([1, 0, -1], k=27)}
        yield json.dumps(entry)


def luperson_entries(images: int, seed: int) -> Iterator[str]:
    draw = random.Random(seed)
    shift = draw.randrange(images)
    for number in range(images):
        place = (number * 7919 + shift) % images if images % 7919 else number
        yield f"{json.dumps(f'part{place % 4}/{place:08d}.jpg')}: {json.dumps(sentence(draw))}"


def measure(layout: str, root: str, merges: str | None) -> dict[str, float]:
    """Start as a training does, in this process; return seconds, bytes and rates."""
    import itertools
    import threading

    import numpy as np

    from cffa_hf.data.loading import load_person_dataset
    from cffa_hf.data.pairs import PairDataset
    from cffa_hf.data.sampler import IdentitySampler, ShuffleSampler
    from cffa_hf.inputs.processor import clip_tokenizer, encode_captions, train_tokenizer

    draw = random.Random(1)
    tokenizer = clip_tokenizer(merges) if merges else train_tokenizer([sentence(draw) for _ in range(500)], 2_000)
    encode_captions(tokenizer, ["a man"])
    before, own_before = resident(os.getpid())
    proportional_before = proportional(os.getpid())
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            peak[0] = max(peak[0], sum(proportional(process) for process in family()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start, cpu = time.perf_counter(), processor_seconds()
    rows = load_person_dataset(layout, root, check_files=False)["train"]
    read = time.perf_counter()
    pairs = PairDataset(rows, tokenizer)
    tokenised = time.perf_counter()
    used = processor_seconds() - cpu
    done.set()
    watcher.join()
    result = {"pairs": len(pairs), "rows_seconds": read - start, "tokens_seconds": tokenised - read}
    result["cpu"] = used
    result["peak"] = max(peak[0], proportional(os.getpid())) - proportional_before
    order = ShuffleSampler(len(pairs))
    drawn = list(itertools.islice(order, DRAWN))
    start = time.process_time()
    for index in drawn[: DRAWN // 4]:
        pairs.captions[index]
    result["captions"] = len(drawn[: DRAWN // 4]) / (time.process_time() - start)
    result["shuffle"] = len(pairs) / (time_of(order) or 1e-9)
    images = min(len(pairs.images), 2_000)
    for index in np.random.default_rng(0).integers(len(pairs.images), size=images).tolist():
        pairs.images.source(index)  # as a sample reads it; there is no file to decode
    own, mapped = resident(os.getpid())[1] - own_before, resident(os.getpid())[0] - before
    result |= {"memory": mapped, "own": own}
    captions = max(1, round(len(pairs) / len(pairs.images)))
    identities = IdentitySampler(pairs.person_labels, 64 * captions, captions)
    result["identity"] = len(identities) / time_of(identities)
    return result


def time_of(sampler) -> float:
    start = time.process_time()
    for _ in sampler:
        pass
    return time.process_time() - start


def processor_seconds() -> float:
    """Return the processor seconds of this process and of its children that have ended."""
    return sum(part.ru_utime + part.ru_stime for part in map(resource.getrusage, RESOURCES))


def resident(process: int) -> tuple[int, int]:
    """Return the resident bytes of a process, all and those that are no mapped files; 0 if it has ended."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0, 0
    sizes = {name: 1024 * int(size) for name, size in re.findall(r"^(VmRSS|RssAnon):\s+(\d+) kB", text, re.M)}
    return sizes.get("VmRSS", 0), sizes.get("RssAnon", 0)


def proportional(process: int) -> int:
    """Return the proportional set size of a process in bytes; 0 if it has ended."""
    try:
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.M)
    except OSError:
        return 0
    return 1024 * int(found[1]) if found else 0


def family() -> list[int]:
    """Return this process and its children."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    return [os.getpid(), *(map(int, children.read_text().split()) if children.exists() else ())]


if __name__ == "__main__":
    main()
