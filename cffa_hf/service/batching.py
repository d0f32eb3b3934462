"""Queries of many users wait together for a moment and are answered in batches, by one thread."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from cffa_hf.service.measures import Measures
from cffa_hf.service.settings import ServiceSettings
from cffa_hf.service.work import Outcome, Query, size_of

LOGGER = logging.getLogger(__name__)


@dataclass(eq=False)
class Job:
    """A query that waits for its answer.

    Attributes:
        query: What is asked.
        arrived: When, on the clock of the event loop.
        deadline: When nobody waits any longer.
        answer: Is done once there is an answer or nobody waits.
    """

    query: Query
    arrived: float
    deadline: float
    answer: asyncio.Future[Outcome]


class Batcher:
    """A bounded queue before one thread; lives in one event loop.

    Args:
        answer: Turns queries into as many outcomes or errors; is called in the thread.
        settings: Of the service.
        measures: Count batches and those that were dropped.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Query]], Sequence[Outcome | Exception]],
        settings: ServiceSettings,
        measures: Measures,
    ):
        self.answer, self.settings, self.measures = answer, settings, measures
        self.jobs: deque[Job] = deque()
        self.changed = asyncio.Event()
        self.closing = False
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="answers")
        self.task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Return how many sentences and images somebody still waits for."""
        return sum(size_of(job.query) for job in self.jobs if not job.answer.done())

    def start(self) -> None:
        """Begin to answer, in the running event loop."""
        self.task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Take no more queries, answer those that wait, and end the thread."""
        self.closing = True
        self.changed.set()
        if self.task:
            await self.task
        await asyncio.to_thread(self.thread.shutdown)

    def submit(self, query: Query, deadline: float) -> asyncio.Future[Outcome] | None:
        """Put a query into the queue.

        Args:
            query: What is asked.
            deadline: On the clock of the event loop.

        Returns:
            Its answer to be, which whoever no longer wants it cancels; None if the queue is full or closed.
        """
        if self.closing or self.waiting + size_of(query) > self.settings.queue_size:
            return None
        loop = asyncio.get_running_loop()
        job = Job(query, loop.time(), deadline, loop.create_future())
        self.jobs.append(job)
        self.changed.set()
        return job.answer

    async def _run(self) -> None:
        while not (self.closing and not self.jobs):
            if self.jobs:
                await self._gather()
                if batch := self._next_batch():
                    await self._answer(batch)
            else:
                self.changed.clear()
                await self.changed.wait()

    async def _gather(self) -> None:
        """Wait until a batch is full, or its first query has waited for as long as it may."""
        loop = asyncio.get_running_loop()
        end = self.jobs[0].arrived + self.settings.gather_milliseconds / 1000
        while self.waiting < self.settings.batch_size and not self.closing and loop.time() < end:
            self.changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait(), end - loop.time())

    def _next_batch(self) -> list[Job]:
        now = asyncio.get_running_loop().time()
        batch: list[Job] = []
        size = 0
        while self.jobs:
            job = self.jobs[0]
            if job.answer.done() or job.deadline <= now:
                self.jobs.popleft()
                self.measures.dropped.inc()
                continue
            if batch and size + size_of(job.query) > self.settings.batch_size:
                break
            batch.append(self.jobs.popleft())
            size += size_of(job.query)
        return batch

    async def _answer(self, batch: list[Job]) -> None:
        loop = asyncio.get_running_loop()
        queries = [job.query for job in batch]
        self.measures.batch_size.observe(sum(map(size_of, queries)))
        start = loop.time()
        try:
            outcomes = await loop.run_in_executor(self.thread, self.answer, queries)
        except Exception as error:
            LOGGER.exception("a batch failed")
            outcomes = [error] * len(batch)
        self.measures.batch_seconds.observe(loop.time() - start)
        for job, outcome in zip(batch, outcomes, strict=True):
            if job.answer.done():
                continue
            if isinstance(outcome, Exception):
                job.answer.set_exception(outcome)
            else:
                job.answer.set_result(outcome)
