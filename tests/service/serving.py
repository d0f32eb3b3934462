"""A server of the service on a free port, in a thread of the test."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn

from cffa_hf.service import ServiceSettings, create_app, listening_socket

KEY = "0123456789abcdef0123456789abcdef"


@contextmanager
def serving(gallery, **settings) -> Iterator[httpx.Client]:
    """Serve a gallery; gives a client whose `app` is the application."""
    app = create_app(gallery, ServiceSettings(**{"requests_per_minute": 0, **settings}))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none", timeout_graceful_shutdown=30))
    with listening_socket("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        limits = httpx.Limits(max_connections=200)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, limits=limits) as client:
                client.app, client.port = app, port
                yield client
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


class HeldCaptions:
    """Makes the embedder of a gallery wait before it encodes sentences, until it is released."""

    def __init__(self, gallery):
        self.embedder, self.captions = gallery.embedder, gallery.embedder.captions
        self.started, self.released = threading.Event(), threading.Event()
        self.embedder.captions = self

    def __call__(self, texts):
        self.started.set()
        assert self.released.wait(60)
        return self.captions(texts)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.released.set()
        del self.embedder.captions


def raw_request(port: int, content: bytes) -> socket.socket:
    """Send bytes as they are."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(content)
    return connection


def wait_until(condition, seconds=60) -> None:
    """Poll until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)
