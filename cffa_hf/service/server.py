"""The process of the service: it listens, and ends cleanly."""

import math
import signal
import socket
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from cffa_hf.errors import InputError, one_line
from cffa_hf.search import Gallery
from cffa_hf.service.keys import KEY_VARIABLE
from cffa_hf.service.settings import ServiceSettings, is_loopback
from cffa_hf.service.start import create_app

SENDING_SECONDS = 5


def listening_socket(host: str, port: int) -> socket.socket:
    """Reserve an address before the model is loaded; who connects meanwhile waits.

    Args:
        host: Name or address of one interface.
        port: 0: a free one.

    Raises:
        InputError: If it is taken or none of this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        reason = (getattr(error, "strerror", None) or one_line(error)).lower()
        raise InputError(f"{host}:{port} cannot be listened on ({reason}); choose another --host or --port.") from error


def check_exposure(host: str, keys: Sequence[str], *, behind_proxy: bool, without_key: bool) -> bool:
    """Refuse to be open to other machines without a key, unless that is wanted.

    Args:
        host: To be listened on.
        keys: That open the service.
        behind_proxy: A proxy hands on what others send it.
        without_key: It is wanted.

    Returns:
        Whether others can search without a key.

    Raises:
        InputError: If they could and it is not wanted.
    """
    is_open = not keys and (behind_proxy or not is_loopback(host))
    if is_open and not without_key:
        raise InputError(
            f"Other machines could search this gallery without a key; give --key-file or {KEY_VARIABLE}, or say "
            "--without-key."
        )
    return is_open


def serve(
    gallery: Gallery,
    settings: ServiceSettings,
    listening: socket.socket,
    *,
    behind_proxy: bool = False,
    access_log: bool = False,
) -> None:
    """Serve a gallery until SIGTERM or SIGINT; requests that were taken are answered before it returns.

    That lasts at most the deadline of a request and five seconds more. The gallery is closed.

    Args:
        gallery: Used by no other thread meanwhile.
        settings: Of the service.
        listening: Of `listening_socket`; is closed.
        behind_proxy: Take the client's address from the header X-Forwarded-For of a proxy on this machine.
        access_log: Print a line for each request; no line says what was searched for.

    Raises:
        InputError: If FastAPI or another package of the service is not installed.
    """
    app = create_app(gallery, settings)
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            app.state.service.drain()
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        app,
        log_level="info" if access_log else "warning",
        access_log=access_log,
        proxy_headers=behind_proxy,
        forwarded_allow_ips="127.0.0.1,::1",
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=math.ceil(settings.deadline_seconds) + SENDING_SECONDS,
    )
    server = Server(config)
    # uvicorn raises a signal again once it has ended, for handlers that were there before: these end nothing.
    before = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with closing(gallery), listening:
            server.run([listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
