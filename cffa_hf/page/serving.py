"""The page as a server that serves nothing but itself, and asks no other host for anything."""

import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from tempfile import TemporaryDirectory
from typing import Any

from cffa_hf.errors import InputError, RunStopped, one_line
from cffa_hf.page.page import SearchPage
from cffa_hf.page.pictures import MAX_UPLOAD
from cffa_hf.page.style import CSS

# What the page itself asks for. Gradio offers more: files below its folders, its configuration, a description of an API.
OPEN = ("/assets/", "/static/", "/gradio_api/queue/", "/gradio_api/heartbeat/")
OPEN_EXACTLY = ("/", "/theme.css", "/favicon.ico", "/gradio_api/upload", "/gradio_api/startup-events")
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; object-src 'none'; base-uri 'self'; form-action 'self'"
)
FONTS = ["system-ui", "sans-serif"]  # of the machine that shows the page
# What Gradio offers beside the page, all off.
CLOSED: dict[str, Any] = {
    "share": False,
    "inbrowser": False,
    "footer_links": [],
    "run_history": False,
    "enable_monitoring": False,
    "ssr_mode": False,
    "pwa": False,
    "mcp_server": False,
    "quiet": True,
    "prevent_thread_lock": True,
    "max_file_size": MAX_UPLOAD,
    "state_session_capacity": 1000,
}
Scope = MutableMapping[str, Any]
Send = Callable[[Scope], Awaitable[None]]


class OwnPagesOnly:
    """ASGI middleware: 404 for what the page does not need, and a policy that keeps browsers from other hosts.

    Args:
        app: The application behind it.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]):
        self.app = app

    async def __call__(self, scope: Scope, receive: Callable[[], Awaitable[Scope]], send: Send) -> None:
        """Answer or pass on one request."""

        async def guarded(message: Scope) -> None:
            if message["type"] == "http.response.start":
                headers = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message["headers"] = [*message.get("headers", []), *headers, (b"x-content-type-options", b"nosniff")]
            await send(message)

        path = scope.get("path", "")
        if scope["type"] != "http" or path in OPEN_EXACTLY or (path.startswith(OPEN) and ".." not in path):
            await self.app(scope, receive, guarded)
            return
        await guarded({"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"not served\n"})


@contextmanager
def own_folder() -> Iterator[None]:
    """Give Gradio, before it is imported, a temporary folder of its own for uploads, which is gone afterwards."""
    with TemporaryDirectory(prefix="cffa-page-") as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_SHARE": "False"}
        yield


def serve(page: SearchPage, *, model: str = "", host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve the page until the process is interrupted or told to end.

    Args:
        page: What is served.
        model: What to call the model.
        host: Address to listen on; the default is reached from this machine only.
        port: Port to listen on.

    Raises:
        InputError: If Gradio is not installed.
        RunStopped: If it cannot listen there.
    """
    with own_folder():
        try:
            import gradio
            from starlette.middleware import Middleware

            from cffa_hf.page.layout import build
        except ImportError as error:
            raise InputError("The page needs Gradio; install it with pip install 'cffa_hf[app]'.") from error
        blocks = build(page, model=model)
        theme = gradio.themes.Default(primary_hue="blue", font=FONTS, font_mono=FONTS)
        where: dict[str, Any] = {"server_name": host, "server_port": port}
        own_pages = {"middleware": [Middleware(OwnPagesOnly)]}
        former = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that what is temporary is removed
        try:
            _, address, _ = blocks.launch(**where, **CLOSED, theme=theme, css=CSS, app_kwargs=own_pages)
            print(f"{address} shows the page; Ctrl+C ends it.", flush=True)
            with suppress(KeyboardInterrupt):
                threading.Event().wait()
        except OSError as error:
            raise RunStopped(
                f"The page cannot listen on {host}:{port} ({one_line(error)}); choose another --port."
            ) from error
        finally:
            blocks.close(verbose=False)
            signal.signal(signal.SIGTERM, former)
