"""A gallery, the real server of its page, and a real browser."""

import json
import os
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cffa_hf.checkpoints.provenance import open_checkpoint
from cffa_hf.demo.pictures import METADATA, write_demo_pictures
from cffa_hf.inference.embedder import Embedder
from cffa_hf.inputs.processor import build_processor, train_tokenizer
from cffa_hf.search.gallery import Gallery
from tests.processes import CONTEXT, run_script
from tests.tiny import IMAGE_SIZE, VOCABULARY, tiny_model

# Runs a command in this process and notes every host that is not this machine and that something tries to reach.
WATCHED = """
import sys
from pathlib import Path

def watch(event, arguments):
    if event in ("socket.getaddrinfo", "socket.connect"):
        host = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
        host = host[0] if isinstance(host, tuple) else host
        if str(host) not in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "None"):
            with open(foreign, "a") as file:
                file.write(f"{event} {host}\\n")

foreign, program, *words = sys.argv[1:]
sys.addaudithook(watch)
sys.argv = [program, *words]
from cffa_hf.cli import main
sys.exit(main())
"""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Site:
    """A running `cffa-hf app`.

    Args:
        folder: For its log and the list of hosts that it tried to reach.
        *words: Of the command.
    """

    def __init__(self, folder: Path, *words: object):
        folder.mkdir(parents=True, exist_ok=True)
        self.log, self.foreign = folder / "log.txt", folder / "foreign.txt"
        self.temporary = folder / "temporary"
        self.temporary.mkdir(exist_ok=True)
        script = folder / "watched.py"
        script.write_text(WATCHED)
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}/"
        CONTEXT.set_forkserver_preload(["tests.preload"])
        given = [str(self.foreign), "cffa-hf", "app", *map(str, words), "--port", str(self.port)]
        self.process = CONTEXT.Process(target=become, args=(str(script), given, str(self.log), str(self.temporary)))
        self.process.start()

    def wait(self) -> "Site":
        """Wait until the page answers."""
        end = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(self.address, timeout=5).close()
                if "shows the page" in self.log.read_text():
                    return self
            except OSError:
                assert self.process.is_alive(), self.log.read_text()
                assert time.monotonic() < end, self.log.read_text()
                time.sleep(0.05)

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and content of a path of the server, sent as it is written."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body

    def stop(self) -> None:
        """Interrupt the server, as Ctrl+C does."""
        if self.process.is_alive():
            os.kill(self.process.pid, 2)
            self.process.join(20)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def become(script: str, words: list[str], log: str, temporary: str) -> None:
    """Become the watched command, in the child process, with a temporary folder of its own."""
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TMPDIR=temporary)
    os.environ.pop("GRADIO_TEMP_DIR", None)
    run_script(script, words, log, False)


@contextmanager
def running(folder: Path, *words: object) -> Iterator[Site]:
    """Run `cffa-hf app`; it has asked no other host for anything."""
    site = Site(folder, *words)
    try:
        yield site.wait()
        assert "Traceback" not in site.log.read_text()
        assert not site.foreign.exists(), site.foreign.read_text()
    finally:
        site.stop()
    assert site.process.exitcode == 0
    assert not list(site.temporary.iterdir())  # uploads, and rendered pictures


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Path:
    """A folder with `model`, `pictures` and `sentences.json`."""
    home = tmp_path_factory.mktemp("page")
    sentences = write_demo_pictures(home / "pictures", people=10, images_each=2)
    (home / "sentences.json").write_text(json.dumps(sentences))
    tiny_model().base_model.save_pretrained(home / "model")
    build_processor(train_tokenizer(sentences, VOCABULARY), IMAGE_SIZE).save_pretrained(home / "model")
    return home


@pytest.fixture(scope="session")
def indexed(home) -> Gallery:
    """The gallery of `home`, written into `home/gallery`."""
    checkpoint = open_checkpoint(home / "model", device="cpu")
    embedder = Embedder.from_checkpoint(checkpoint, precision="float32")
    pictures = home / "pictures"
    return Gallery.from_folder(embedder, pictures, home / "gallery", metadata=pictures / METADATA, progress=False)
