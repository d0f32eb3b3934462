"""The service under load, on the loopback interface: batches against one query at a time, and more users than it admits.

A gallery of rendered people is embedded by a model with random weights and served by `cffa-hf serve` in a process of its
own. Every user sends one sentence, waits for the answer, checks it against `Gallery.search`, and sends the next. At last
many more users than the queue admits send theirs: what is refused is counted, and what is answered must be right.

    python benchmarks/service.py [--text-tower base] [--seconds 10] [--threads 2]
"""

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import numpy as np
import psutil
import torch

from cffa_hf.configuration_cffa import CFFAConfig
from cffa_hf.data.loading import load_person_dataset
from cffa_hf.demo import write_demo_dataset
from cffa_hf.inference.embedder import Embedder
from cffa_hf.inputs.processor import build_processor, train_tokenizer
from cffa_hf.modeling_cffa import CFFAModel
from cffa_hf.search import Gallery

IMAGE_SIZE, CONTEXT, IMAGES_FOUND = (96, 32), 77, 10
TOWERS = {
    "small": {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 4, "intermediate_size": 512},
    "base": {"hidden_size": 512, "num_attention_heads": 8, "num_hidden_layers": 12, "intermediate_size": 2048},
}
WAYS = {"batches of 32": ("--batch-size", "32"), "one by one": ("--batch-size", "1", "--gather", "0")}
OVERLOAD_QUEUE, OVERLOAD_EACH, ADMITTED_EACH = 32, 5, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text-tower", choices=TOWERS, default="small", help="base: that of CLIP ViT-B/16")
    parser.add_argument("--people", type=int, default=20, help="people in the gallery, of four images each")
    parser.add_argument("--users", type=int, nargs="+", default=[1, 8, 32], help="users at once")
    parser.add_argument("--overload-users", type=int, default=200, help="users at once, of five queries each, at last")
    parser.add_argument("--threads", type=int, default=1, help="of the service's model")
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        expected = prepare(Path(folder), arguments.people, TOWERS[arguments.text_tower])
        cores = f"{arguments.threads} of {os.cpu_count()} cores"
        print(f"{len(expected)} sentences, text tower {arguments.text_tower}, float32, {cores}\n")
        print("| users | way | queries a second | p50 ms | p95 ms | p99 ms | processor ms a query |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for way, options in WAYS.items():
            with served(folder, "--requests-per-minute", "0", *options) as (port, process):
                asyncio.run(closed_loop(port, expected, users=4, seconds=min(1, arguments.seconds)))
                for users in arguments.users:
                    before = sum(process.cpu_times()[:2])
                    times, taken = asyncio.run(closed_loop(port, expected, users, arguments.seconds))
                    p50, p95, p99 = np.percentile(times, [50, 95, 99]) * 1000
                    work = (sum(process.cpu_times()[:2]) - before) / len(times) * 1000
                    row = f"{users} | {way} | {len(times) / taken:.1f} | {p50:.0f} | {p95:.0f} | {p99:.0f} | {work:.0f}"
                    print(f"| {row} |", flush=True)
        overload(folder, expected, arguments.overload_users)


def prepare(folder: Path, people: int, tower: dict[str, int]) -> dict[str, list[tuple[int, float]]]:
    """Write a model and a gallery; returns for each sentence what the gallery itself finds."""
    write_demo_dataset(folder / "data", identities=(1, 1, people))
    rows = load_person_dataset("cuhk_pedes", folder / "data")["test"]
    sentences = list(dict.fromkeys(chain(*rows["captions"])))
    processor = build_processor(train_tokenizer(sentences, 800), IMAGE_SIZE, CONTEXT)
    torch.manual_seed(0)
    vision = {**TOWERS["small"], "patch_size": 16, "image_size": list(IMAGE_SIZE)}
    text = {**tower, "vocab_size": len(processor.tokenizer), "max_position_embeddings": CONTEXT}
    model = CFFAModel(CFFAConfig(text_config=text, vision_config=vision, projection_dim=512, local_dim=1024)).eval()
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    embedder = Embedder(model, processor, precision="float32")
    gallery = Gallery.from_folder(embedder, folder / "data", folder / "gallery", progress=False)
    found = gallery.search(sentences, IMAGES_FOUND)
    gallery.close()
    return {
        sentence: [(one.id, one.score) for one in results] for sentence, results in zip(sentences, found, strict=True)
    }


@contextmanager
def served(folder: str, *options: str) -> Iterator[tuple[int, psutil.Process]]:
    """Start the service; gives its port and its process, and ends it as an operator would."""
    command = [sys.executable, "-m", "cffa_hf.cli", "serve", f"{folder}/gallery", "--checkpoint", f"{folder}/model"]
    command += ["--port", "0", "--precision", "float32", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not (address := re.search(r"http://127\.0\.0\.1:(\d+)", line)):
            raise SystemExit("The service did not start.")
        yield int(address[1]), psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        if status := process.wait(60):
            raise SystemExit(f"The service ended with status {status}.")


async def closed_loop(port: int, expected: dict, users: int, seconds: float) -> tuple[list[float], float]:
    """Let users search one after another for a while; returns the seconds of each search, and of all."""
    numbers, times = count(), []
    sentences = list(expected)

    async def user() -> None:
        client = Client(port)
        while time.perf_counter() < start + seconds:
            sentence = sentences[next(numbers) % len(sentences)]
            sent = time.perf_counter()
            answer = await client.search(sentence)
            times.append(time.perf_counter() - sent)
            if not is_right(answer, expected[sentence]):
                raise SystemExit(f"A wrong answer, with status {answer.status}.")
        client.close()

    start = time.perf_counter()
    await asyncio.gather(*(user() for _ in range(users)))
    return times, time.perf_counter() - start


def overload(folder: str, expected: dict, users: int) -> None:
    """Send more than the service admits, and count its answers by status."""
    sentences, rate = list(expected), users * ADMITTED_EACH

    async def user(port: int, number: int) -> list[tuple[str, Answer]]:
        client = Client(port)
        asked = [sentences[(number * OVERLOAD_EACH + turn) % len(sentences)] for turn in range(OVERLOAD_EACH)]
        answers = [(text, await client.search(text)) for text in asked]
        client.close()
        return answers

    async def flood(port: int) -> list[tuple[str, Answer]]:
        return list(chain(*await asyncio.gather(*(user(port, number) for number in range(users)))))

    with served(folder, "--queue-size", str(OVERLOAD_QUEUE), "--requests-per-minute", str(rate)) as (port, _):
        answers = asyncio.run(flood(port))
    right = sum(is_right(answer, expected[text]) for text, answer in answers)
    statuses = Counter(answer.status for _, answer in answers)
    said_when = all(answer.retry_after for _, answer in answers if answer.status in (429, 503))
    counts = ", ".join(f"{status}: {statuses[status]}" for status in sorted(statuses))
    print(f"\n{users} users, {len(answers)} queries at once, a queue of {OVERLOAD_QUEUE}, {rate} a minute")
    print(
        f"answers by status: {counts}; right among those of status 200: {right}; Retry-After with all others: {said_when}"
    )
    if right != statuses[200] or set(statuses) - {200, 429, 503}:
        raise SystemExit("The service gave a wrong answer or another status.")


@dataclass(frozen=True)
class Answer:
    """An answer: its status, whether it says when to try again, and the images that were found."""

    status: int
    retry_after: bool
    results: list[dict]


class Client:
    """One user's connection; so small that it takes little time from the service on the same machine."""

    def __init__(self, port: int):
        self.port = port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def search(self, sentence: str) -> Answer:
        """Send one sentence and wait for its answer."""
        self.streams = self.streams or await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        body = json.dumps({"query": sentence, "k": IMAGES_FOUND}).encode()
        head = (
            f"POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        writer.write(head.encode() + b"\r\n\r\n" + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        content = json.loads(await reader.readexactly(int(re.search(r"content-length: (\d+)", answer)[1])))
        if "connection: close" in answer:
            self.close()
        results = content["answers"][0]["results"] if "answers" in content else []
        return Answer(int(answer.split()[1]), "retry-after:" in answer, results)

    def close(self) -> None:
        """Hang up."""
        if self.streams:
            self.streams[1].close()
        self.streams = None


def is_right(answer: Answer, expected: list[tuple[int, float]]) -> bool:
    """Compare an answer with what the gallery found; equally good images may change places."""
    scores = [row["score"] for row in answer.results]
    if answer.status != 200 or not np.allclose(scores, [score for _, score in expected], atol=1e-5):
        return False
    known, lowest = dict(expected), expected[-1][1]
    return all(abs(known.get(row["id"], lowest) - row["score"]) < 2e-5 for row in answer.results)


if __name__ == "__main__":
    main()
