"""One request and its answer: bounded in bytes and time while it is read."""

import asyncio
from contextlib import suppress
from typing import Any

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
)
LINGER_SECONDS = 1.0


class Rejection(Exception):
    """A request that goes no further.

    Args:
        status: Of the answer.
        sentence: What the client is told.
        reason: What it is counted as.
        headers: More headers of the answer.
    """

    def __init__(self, status: int, sentence: str, reason: str, headers: dict[str, str] | None = None):
        super().__init__(sentence)
        self.status, self.reason, self.headers = status, reason, headers or {}


class Exchange:
    """What the application receives from the server and sends to it, for one request.

    Args:
        receive: Of the server.
        send: Of the server.
        most_bytes: Of the body.
        deadline: On the clock of the event loop; the body must have arrived by then.

    Attributes:
        status: Of the answer; 499 while there is none.
        rejection: Why the body was not read to its end.
    """

    def __init__(self, receive: Any, send: Any, most_bytes: int, deadline: float):
        self._receive, self._send, self.most_bytes, self.deadline = receive, send, most_bytes, deadline
        self.received, self.complete, self.status = 0, False, 499
        self.rejection: Rejection | None = None

    async def receive(self) -> dict[str, Any]:
        """Receive a part of the body; after the last one: wait until the client is gone.

        Raises:
            HTTPException: If the body is too large or too slow, the one error that FastAPI lets pass while it reads.
        """
        if self.complete:
            return await self._receive()
        try:
            left = self.deadline - asyncio.get_running_loop().time()
            message = await asyncio.wait_for(self._receive(), max(left, 0))
        except TimeoutError:
            raise self._http_error(Rejection(408, "The request did not arrive in time.", "slow")) from None
        self.received += len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        if self.received > self.most_bytes:
            raise self._http_error(self.too_large())
        return message

    async def send(self, message: dict[str, Any]) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = {name for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *(pair for pair in HEADERS if pair[0] not in given)]
        elif self.status == 413 and not self.complete and not message.get("more_body"):
            # Closed at once, the connection would be reset, and the client would never read why.
            await self._send(message | {"more_body": True})
            with suppress(TimeoutError):
                await asyncio.wait_for(self._discard(), LINGER_SECONDS)
            message = {"type": "http.response.body"}
        await self._send(message)

    def too_large(self) -> Rejection:
        """Return the rejection of a body that is too large."""
        return Rejection(413, f"The request has more than {self.most_bytes // 1024:,} KiB; send less.", "too_large")

    async def _discard(self) -> None:
        while not self.complete:
            self.complete = not (await self._receive()).get("more_body", False)

    def _http_error(self, rejection: Rejection) -> Exception:
        from starlette.exceptions import HTTPException

        self.rejection = rejection
        return HTTPException(rejection.status, str(rejection), {"Connection": "close"})
