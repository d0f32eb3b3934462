"""The gate of the service: host name, rate, key and size of a request are checked before its body is read."""

import asyncio
import json
from typing import Any

from cffa_hf.service.exchange import Exchange, Rejection
from cffa_hf.service.keys import matching_key
from cffa_hf.service.limits import RateLimiter
from cffa_hf.service.measures import Measures
from cffa_hf.service.settings import ServiceSettings, is_loopback

UPLOAD_PATH, UPLOAD_BYTES, BODY_BYTES = "/search/image", 10 * 2**20, 256 * 2**10
MOST_OPEN_REQUESTS = 512
OPEN_PATHS = frozenset({"/health"})


class Gate:
    """An ASGI application around another one.

    Args:
        app: The application; finds in the state of each request its `deadline`, on the clock of the event loop, and
            whether it is `admitted` by a key or without need of one.
        settings: Of the service.
        measures: Count requests by endpoint and status.
        limiter: Admits the requests of each client.
    """

    def __init__(self, app: Any, settings: ServiceSettings, measures: Measures, limiter: RateLimiter):
        self.app, self.settings, self.measures, self.limiter = app, settings, measures, limiter
        self.open_requests = 0

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = asyncio.get_running_loop().time()
        state = scope.setdefault("state", {})
        state["deadline"], state["admitted"] = start + self.settings.deadline_seconds, False
        most_bytes = UPLOAD_BYTES if scope["path"] == UPLOAD_PATH else BODY_BYTES
        exchange = Exchange(receive, send, most_bytes, state["deadline"])
        self.open_requests += 1
        try:
            self._check(scope, exchange)
            await self.app(scope, exchange.receive, exchange.send)
            if exchange.rejection:
                self.measures.refused.labels(exchange.rejection.reason).inc()
        except Rejection as rejection:
            self.measures.refused.labels(rejection.reason).inc()
            await send_rejection(rejection, exchange)
        except Exception:
            exchange.status = 500  # is answered further out
            raise
        finally:
            self.open_requests -= 1
            endpoint = getattr(scope.get("route"), "path", "none")
            self.measures.requests.labels(endpoint, str(exchange.status)).inc()
            self.measures.seconds.labels(endpoint).observe(asyncio.get_running_loop().time() - start)

    def _check(self, scope: dict[str, Any], exchange: Exchange) -> None:
        headers, settings, state = dict(scope["headers"]), self.settings, scope["state"]
        if settings.local_names_only and not is_loopback(_host_name(headers.get(b"host", b""))):
            raise Rejection(421, "Ask this service by the name localhost or its address.", "host")
        key = matching_key(headers.get(b"authorization", b""), settings.keys)
        state["admitted"] = key is not None or not settings.keys
        if scope["path"] in OPEN_PATHS:
            return
        client = f"key {key}" if key is not None else (scope.get("client") or ("unknown",))[0]
        if wait := self.limiter.seconds_to_wait(client):
            sentence = f"More than {settings.requests_per_minute} requests in a minute; wait {wait} seconds."
            raise Rejection(429, sentence, "rate", {"Retry-After": str(wait)})
        if not state["admitted"]:
            sentence = "A key is needed in the header Authorization: Bearer KEY."
            raise Rejection(401, sentence, "key", {"WWW-Authenticate": "Bearer"})
        if self.open_requests > MOST_OPEN_REQUESTS:
            raise Rejection(503, "Too many requests are open; try again in a second.", "open", {"Retry-After": "1"})
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > exchange.most_bytes:
            raise exchange.too_large()


async def send_rejection(rejection: Rejection, exchange: Exchange) -> None:
    """Send the answer of a rejection; the connection ends, for the rest of the request is not read."""
    body = json.dumps({"error": str(rejection)}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    encoded = [(name.lower().encode(), value.encode()) for name, value in (headers | rejection.headers).items()]
    await exchange.send({"type": "http.response.start", "status": rejection.status, "headers": encoded})
    await exchange.send({"type": "http.response.body", "body": body})


def _host_name(host: bytes) -> str:
    name = host.decode("latin-1").strip()
    return name[1 : name.find("]")] if name.startswith("[") else name.partition(":")[0]
