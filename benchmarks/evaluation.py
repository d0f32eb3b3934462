"""Time the metric core against the textbook way, and measure the memory of both.

The textbook way ranks the whole gallery for every query (argsort) and takes cumulative sums over the ranking. Each
measurement runs in a process of its own; memory is its peak resident size above the inputs. Embeddings are random unit
vectors. `embeddings` includes the matrix product, which both ways share; `scores` is the ranking alone. The ratio is
that of the seconds; processor seconds tell more on a machine that does other work besides.

    python benchmarks/evaluation.py --sizes 6156x3074 19848x19848
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

SIZES = ["6156x3074", "19848x19848", "50000x100000"]
TEXTBOOK_BYTES = 28  # per score at its peak: scores, order, gathered identities, cumulative sums
SLICE_BYTES = 2 * 2**30  # of one slice of queries, where the textbook way does not fit into memory
TIMED_SLICES = 4  # the others are taken to last as long


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="QUERIESxGALLERY", help="default: %(default)s")
    parser.add_argument("--identities", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--width", type=int, default=1536, help="of the embeddings; default: %(default)s")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: %(default)s")
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "INPUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options)))
        return
    print(f"{options.threads} threads, width {options.width}, {options.identities} identities")
    titles = f"{'size':>13}  {'from':<10}  {'way':<8}  {'seconds':>8}  {'ratio':>5}  {'CPU s':>7}  {'peak MiB':>8}"
    print(f"{titles}  {'Rank-1':>7}  {'mAP':>7}")
    for size in options.sizes:
        for source in ("embeddings", "scores"):
            compare(size, source, options)


def compare(size: str, source: str, options: argparse.Namespace) -> None:
    queries, gallery = map(int, size.split("x"))
    memory = available_memory()
    if source == "scores" and 5 * queries * gallery > memory:
        print(f"{size:>13}  {source:<10}  skipped: the score matrix needs {4 * queries * gallery / 2**30:.1f} GiB")
        return
    results = {}
    for way in ("core", "textbook"):
        arguments = ["--sizes", size, "--measure", way, source]
        for name in ("identities", "width", "threads"):
            arguments += [f"--{name}", str(getattr(options, name))]
        child = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=False)
        if child.returncode:
            print(f"{size:>13}  {source:<10}  {way:<8}  failed with exit status {child.returncode}")
            return
        result = results[way] = json.loads(child.stdout)
        ratio = f"{result['seconds'] / results['core']['seconds']:.1f}x"
        cells = f"{size:>13}  {source:<10}  {way:<8}  {result['seconds']:8.2f}  {ratio:>5}  {result['cpu']:7.2f}"
        metrics = f"{result['rank1']:7.3f}  {result['mAP']:7.4f}"
        print(f"{cells}  {result['peak'] / 2**20:8.0f}  {metrics}{result['note']}", flush=True)
    if not result["note"] and abs(results["core"]["mAP"] - results["textbook"]["mAP"]) > 1e-3:
        sys.exit(f"The two ways disagree at {size}.")


def measure(options: argparse.Namespace) -> dict:
    """Run one way once; only this process loads torch."""
    import torch

    torch.set_num_threads(options.threads)
    way, source = options.measure
    queries, gallery = map(int, options.sizes[0].split("x"))
    generator = torch.Generator().manual_seed(0)

    def unit_vectors(count: int) -> torch.Tensor:
        vectors = torch.randn(count, options.width, generator=generator)
        return vectors.div_(vectors.norm(dim=1, keepdim=True))

    inputs = (
        [unit_vectors(queries), unit_vectors(gallery)]
        if source == "embeddings"
        else [torch.randn(queries, gallery, generator=generator)]
    )
    query_ids, gallery_ids = (torch.arange(count) % options.identities for count in (queries, gallery))
    run, rows, parts = core if way == "core" else textbook, queries, [slice(None)]
    note = ""
    if way == "textbook" and TEXTBOOK_BYTES * queries * gallery > available_memory():
        step = max(1, SLICE_BYTES // (TEXTBOOK_BYTES * gallery))
        rows = min(queries, TIMED_SLICES * step)
        parts = [slice(start, start + step) for start in range(0, rows, step)]
        need = TEXTBOOK_BYTES * queries * gallery / 2**30
        note = f"  (needs {need:.0f} GiB at once: seconds scaled up from slices of the first {rows} queries)"
    small = [part[:64] for part in inputs]  # imports and warms up
    small_gallery_ids = gallery_ids[:64] if source == "embeddings" else gallery_ids
    run(small, query_ids[:64], small_gallery_ids, [slice(None)])
    if rows < queries:
        inputs[0], query_ids = inputs[0][:rows], query_ids[:rows]
    before = peak_memory()
    start, cpu_start = time.perf_counter(), time.process_time()
    result = run(inputs, query_ids, gallery_ids, parts)
    seconds = (time.perf_counter() - start) * queries / rows
    cpu = (time.process_time() - cpu_start) * queries / rows
    peak = peak_memory() - before
    if note and abs(core(inputs, query_ids, gallery_ids, [])["mAP"] - result["mAP"]) > 1e-3:
        sys.exit("The two ways disagree.")
    return {"seconds": seconds, "cpu": cpu, "peak": peak, "note": note, **result}


def core(inputs, query_ids, gallery_ids, _) -> dict:
    from cffa_hf.metrics.averages import retrieval_metrics
    from cffa_hf.metrics.ranking import match_ranks, match_ranks_from_scores

    rank = match_ranks if len(inputs) == 2 else match_ranks_from_scores
    metrics = retrieval_metrics(rank(*inputs, query_ids, gallery_ids))
    return {"rank1": metrics["rank1"], "mAP": metrics["mAP"]}


def textbook(inputs, query_ids, gallery_ids, slices) -> dict:
    import torch

    sums = torch.zeros(5, dtype=torch.float64)
    for part in slices:
        scores = inputs[0][part] @ inputs[1].T if len(inputs) == 2 else inputs[0][part]
        order = scores.argsort(dim=1, descending=True)
        del scores
        matches = gallery_ids[order] == query_ids[part, None]
        del order
        found = matches.cumsum(dim=1)
        ranks = torch.arange(1, matches.shape[1] + 1)
        average_precision = (found / ranks * matches).sum(dim=1) / found[:, -1]
        last = (matches * ranks).amax(dim=1)
        hits = [(found[:, k - 1] > 0).sum() for k in (1, 5, 10)]
        sums += torch.stack([*hits, average_precision.sum(), (found[:, -1] / last).sum()]).double()
    means = sums / len(query_ids) * 100
    return {"rank1": float(means[0]), "mAP": float(means[3])}


def available_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def peak_memory() -> int:
    """Return the peak resident size of this process in bytes (macOS reports bytes, Linux KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
