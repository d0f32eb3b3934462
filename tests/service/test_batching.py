"""The queue: who waits together, who is dropped, and what a full one says."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from cffa_hf.service import ServiceSettings
from cffa_hf.service.batching import Batcher
from cffa_hf.service.measures import Measures
from cffa_hf.service.work import Outcome, TextQuery


def query(*texts):
    return TextQuery(texts, None)


def outcome_of(asked):
    return Outcome([[text.upper()] for text in asked.texts], None, [False] * len(asked.texts))


class Recorder:
    """Answers with the sentences themselves, when it may."""

    def __init__(self, ready=True):
        self.batches, self.may_answer = [], threading.Event()
        self.started = threading.Event()
        if ready:
            self.may_answer.set()

    def __call__(self, queries):
        self.batches.append([list(asked.texts) for asked in queries])
        self.started.set()
        assert self.may_answer.wait(30)
        return [ValueError("spoilt") if "bad" in asked.texts else outcome_of(asked) for asked in queries]


def run(scenario, recorder, **settings):
    """Run a scenario with a batcher, in an event loop of its own, in a thread of its own: a test of the page may have one."""

    async def whole():
        batcher = Batcher(recorder, ServiceSettings(**settings), Measures())
        batcher.start()
        try:
            return await scenario(batcher)
        finally:
            recorder.may_answer.set()
            await batcher.close()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, whole()).result()


def soon():
    return asyncio.get_running_loop().time() + 60


def test_queries_that_arrive_together_are_one_batch_and_each_caller_gets_its_own():
    recorder = Recorder()

    async def scenario(batcher):
        return await asyncio.gather(*(batcher.submit(query(f"a{number}", "b"), soon()) for number in range(5)))

    outcomes = run(scenario, recorder, gather_milliseconds=500, batch_size=10)
    assert [outcome.results for outcome in outcomes] == [[[f"A{number}"], ["B"]] for number in range(5)]
    assert recorder.batches == [[[f"a{number}", "b"] for number in range(5)]]


def test_a_batch_holds_no_more_than_it_may_but_one_large_query():
    recorder = Recorder()

    async def scenario(batcher):
        sizes = (2, 2, 1, 7, 1)
        await asyncio.gather(*(batcher.submit(query(*"x" * size), soon()) for size in sizes))

    run(scenario, recorder, gather_milliseconds=100, batch_size=4)
    assert [sum(map(len, batch)) for batch in recorder.batches] == [4, 1, 7, 1]


def test_one_error_is_one_callers():
    async def scenario(batcher):
        answers = (batcher.submit(query(text), soon()) for text in ("a", "bad", "c"))
        return await asyncio.gather(*answers, return_exceptions=True)

    first, second, third = run(scenario, Recorder(), gather_milliseconds=100)
    assert isinstance(second, ValueError)
    assert (first.results, third.results) == ([["A"]], [["C"]])


def test_a_batch_that_fails_as_a_whole_does_not_end_the_service():
    def answer(queries):
        if "fatal" in queries[0].texts:
            raise RuntimeError("out of memory")
        return [outcome_of(asked) for asked in queries]

    answer.may_answer = threading.Event()

    async def scenario(batcher):
        with pytest.raises(RuntimeError, match="memory"):
            await batcher.submit(query("fatal"), soon())
        return await batcher.submit(query("a"), soon())

    assert run(scenario, answer).results == [["A"]]


def test_who_is_gone_or_late_is_dropped_and_makes_room():
    recorder = Recorder(ready=False)

    async def scenario(batcher):
        busy = batcher.submit(query("busy"), soon())
        await asyncio.to_thread(recorder.started.wait, 30)
        waiting = [batcher.submit(query(*"x" * 16), soon()) for _ in range(2)]
        assert batcher.waiting == 32
        assert batcher.submit(query("y"), soon()) is None
        waiting[0].cancel()
        late = batcher.submit(query("late"), asyncio.get_running_loop().time())
        recorder.may_answer.set()
        await asyncio.gather(busy, waiting[1])
        assert not late.done()
        return batcher.measures.dropped._value.get()

    assert run(scenario, recorder, queue_size=32, gather_milliseconds=0) == 2
    assert recorder.batches == [[["busy"]], [["x"] * 16]]


def test_closing_answers_what_waits_and_takes_no_more():
    recorder = Recorder(ready=False)

    async def scenario(batcher):
        answers = [batcher.submit(query(str(number)), soon()) for number in range(9)]
        await asyncio.to_thread(recorder.started.wait, 30)
        closing = asyncio.ensure_future(batcher.close())
        await asyncio.sleep(0)
        assert batcher.submit(query("more"), soon()) is None
        recorder.may_answer.set()
        await closing
        return [answer.result().results for answer in answers]

    assert run(scenario, recorder, batch_size=2, gather_milliseconds=1) == [[[str(number)]] for number in range(9)]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("answers")]
