"""A gallery behind a queue: what the endpoints ask."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.requests import Request

from cffa_hf.errors import InputError
from cffa_hf.inputs.images import IMAGE_FORMATS, read_image
from cffa_hf.search import Gallery
from cffa_hf.search.filters import parse_filter
from cffa_hf.service.batching import Batcher
from cffa_hf.service.exchange import Rejection
from cffa_hf.service.measures import Measures
from cffa_hf.service.settings import ServiceSettings
from cffa_hf.service.work import LikeQuery, Outcome, Query, answer_batch

MOST_PIXELS = 25_000_000
DECODED_TOGETHER = 2


class Service:
    """A gallery, and the queue before it.

    Args:
        gallery: Used by no other thread meanwhile.
        settings: Of the service.
        measures: Of the service.
    """

    def __init__(self, gallery: Gallery, settings: ServiceSettings, measures: Measures):
        self.gallery, self.settings, self.measures = gallery, settings, measures
        self.batcher = Batcher(partial(answer_batch, gallery), settings, measures)
        self.decoding = asyncio.Semaphore(DECODED_TOGETHER)
        self.draining = False
        self.columns = {name: summary.kind for name, summary in gallery.columns.items()}
        measures.watch_queue(lambda: self.batcher.waiting)

    def drain(self) -> None:
        """Take no more queries; those that wait are answered."""
        self.draining = True

    async def close(self) -> None:
        """Answer what waits, and end the thread; the gallery stays open."""
        self.drain()
        await self.batcher.close()

    async def ask(self, query: Query, request: Request) -> Outcome:
        """Put a query into the queue and wait for its answer, as long as the client waits and its time is not up.

        Raises:
            InputError: If its conditions name a column that is not there, or it asks for the like of an unknown image.
            Rejection: If the queue is full, the time is up, or the client is gone.
        """
        if self.draining:
            raise unavailable("The service is being shut down; ask another one.", "draining", 5)
        self._check(query)
        loop = asyncio.get_running_loop()
        deadline = request.state.deadline
        answer = self.batcher.submit(query, deadline)
        if answer is None:
            raise unavailable("Too many queries are waiting; try again in a second.", "queue_full", 1)
        gone: asyncio.Future[Any] = asyncio.ensure_future(_gone(request))
        either: set[asyncio.Future[Any]] = {answer, gone}
        try:
            left = max(deadline - loop.time(), 0)
            await asyncio.wait(either, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if answer.done() and not answer.cancelled():
                return _result(answer)
            if gone.done():
                raise Rejection(499, "The client is gone.", "gone")
            raise unavailable("The answer took too long; try again in a few seconds.", "deadline", 5)
        finally:
            answer.cancel()
            gone.cancel()

    def _check(self, query: Query) -> None:
        if query.wanted is not None:
            parse_filter(query.wanted.where, self.columns)
        if isinstance(query, LikeQuery):
            self.gallery.item(query.item)

    def image_file(self, item: int) -> tuple[Path, str]:
        """Find the file of an image of the gallery.

        Returns:
            Its path and its kind, such as "image/png".

        Raises:
            InputError: If there is no such image, or its file is gone or is no image: a gallery that somebody else made
                could name any file.
        """
        try:
            path = self.gallery.image_path(item)
            with Image.open(path, formats=IMAGE_FORMATS) as image:
                return path, Image.MIME[image.format or ""]
        except (InputError, OSError, ValueError, SyntaxError, KeyError, Image.DecompressionBombError) as error:
            raise InputError(f"The gallery has no file of an image {item}.") from error

    async def read_upload(self, content: bytes) -> Image.Image:
        """Read an image, and scale it as the model sees it, so that little of it waits in the queue.

        Raises:
            InputError: If it is none of the formats that are read, is broken, or has too many pixels.
        """
        size = self.gallery.embedder.processor.image_processor.size
        async with self.decoding:
            return await asyncio.to_thread(_read, content, (size["width"], size["height"]))


def unavailable(sentence: str, reason: str, retry_after: int) -> Rejection:
    """Return the rejection of a request that may succeed later."""
    return Rejection(503, sentence, reason, {"Retry-After": str(retry_after)})


def _result(answer: asyncio.Future[Outcome]) -> Outcome:
    try:
        return answer.result()
    except InputError as error:
        # What the client can do wrong was checked: this is the gallery's own trouble, whose files are not the client's.
        raise RuntimeError("the gallery failed at a query that had been checked") from error


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _read(content: bytes, size: tuple[int, int]) -> Image.Image:
    try:
        image = read_image(content, most_pixels=MOST_PIXELS)
    except InputError as error:
        raise InputError(
            f"The upload cannot be read as an image; send one of {', '.join(IMAGE_FORMATS)} with at most "
            f"{MOST_PIXELS:,} pixels."
        ) from error
    return image.resize(size, Image.Resampling.BILINEAR)
