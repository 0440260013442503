"""Micro-batching against an engine that tells what it was given and waits when asked to."""

import asyncio
import threading
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.batching import LONE_TURNS, BatchQueue, Compute, Scored
from service.errors import ClientGone, DeadlineExceeded, QueueFull
from slimctr.features import EncodedBatch

FAR_S = 60.0


def batch_of(*ids: int) -> EncodedBatch:
    return EncodedBatch.uncounted(np.array(ids, np.int32).reshape(-1, 1))


@dataclass
class Engine:
    """The logit of a row is its id; every execution is kept; `gate` holds executions in the thread."""

    executed: list[list[int]] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    failure: Exception | None = None

    def lookup(self, batch: EncodedBatch) -> np.ndarray:
        self.executed.append(batch.ids[:, 0].tolist())
        self.threads.add(threading.current_thread().name)
        self.entered.set()
        assert self.gate.wait(FAR_S)
        if self.failure is not None:
            raise self.failure
        return batch.ids.astype(np.float32)

    def run_network(self, stored: np.ndarray) -> np.ndarray:
        return stored[:, 0]


class Observer:
    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self.executions: list[tuple[str, int]] = []

    def waiting(self, requests: int, rows: int) -> None:
        self.seen.append((requests, rows))

    def executed(self, variant: str, rows: int, lookup_s: float, infer_s: float) -> None:
        assert lookup_s >= 0
        assert infer_s >= 0
        self.executions.append((variant, rows))


@pytest.fixture
def compute() -> Iterator[Compute]:
    made = Compute(1)
    yield made
    made.close()


def queue_of(compute: Compute, engine: Engine, **changes: Any) -> BatchQueue:
    limits: dict[str, Any] = {"max_batch_rows": 4, "max_queue_rows": 100, "observer": Observer(), **changes}
    return BatchQueue(engine, compute, **limits)


async def score(queue: BatchQueue, *ids: int, within_s: float = FAR_S) -> Scored:
    return await queue.score(batch_of(*ids), variant="v", deadline_s=queue.clock() + within_s)


async def held(queue: BatchQueue, engine: Engine) -> "asyncio.Task[Scored]":
    """Return a request that occupies the executor until the gate opens."""
    task = asyncio.create_task(score(queue, 1000))
    await asyncio.to_thread(engine.entered.wait, FAR_S)
    return task


def test_what_waits_goes_as_one_batch_and_every_request_gets_its_own_rows(compute: Compute) -> None:
    engine = Engine()

    async def run() -> list[Scored]:
        queue = queue_of(compute, engine)
        first = await held(queue, engine)
        others = [asyncio.create_task(score(queue, *ids)) for ids in [(1, 2), (3,), (4,), (5, 6)]]
        await asyncio.sleep(0)
        engine.gate.set()
        return [await first, *(await asyncio.gather(*others))]

    answers = asyncio.run(run())
    assert [answer.logits.tolist() for answer in answers] == [[1000], [1, 2], [3], [4], [5, 6]]
    assert engine.executed == [[1000], [1, 2, 3, 4], [5, 6]]
    assert answers[1].queue_s > 0


def test_a_request_larger_than_a_batch_is_split_and_its_chunks_alternate_with_others(
    compute: Compute,
) -> None:
    engine = Engine()

    async def run() -> list[Scored]:
        queue = queue_of(compute, engine)
        first = await held(queue, engine)
        large = asyncio.create_task(score(queue, *range(10)))
        small = asyncio.create_task(score(queue, 50, 51))
        await asyncio.sleep(0)
        engine.gate.set()
        await first
        return [await large, await small]

    large, small = asyncio.run(run())
    assert large.logits.tolist() == list(range(10))
    assert small.logits.tolist() == [50, 51]
    assert engine.executed == [[1000], [0, 1, 2, 3], [50, 51, 4, 5], [6, 7, 8, 9]]


def test_a_full_queue_refuses_at_once_and_takes_again_when_there_is_room(compute: Compute) -> None:
    engine = Engine()

    async def run() -> None:
        queue = queue_of(compute, engine, max_queue_rows=5)
        first = await held(queue, engine)
        waiting = asyncio.create_task(score(queue, 1, 2, 3))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull, match="3 rows are waiting and 3 more"):
            await score(queue, 4, 5, 6)
        with pytest.raises(QueueFull):
            queue.check_room(3)
        queue.check_room(2)
        engine.gate.set()
        await asyncio.gather(first, waiting)
        assert (await score(queue, 4, 5, 6)).logits.tolist() == [4, 5, 6]

    asyncio.run(run())


def test_a_deadline_holds_while_queued_and_the_request_is_never_computed(compute: Compute) -> None:
    engine = Engine()

    async def run() -> None:
        queue = queue_of(compute, engine)
        first = await held(queue, engine)
        with pytest.raises(DeadlineExceeded, match="queued"):
            await score(queue, 7, within_s=0.02)
        assert queue.waiting_rows == 0
        engine.gate.set()
        await first

    asyncio.run(run())
    assert engine.executed == [[1000]]


def test_a_deadline_holds_while_computing(compute: Compute) -> None:
    engine = Engine()

    async def run() -> None:
        queue = queue_of(compute, engine)
        with pytest.raises(DeadlineExceeded, match="computed"):
            await score(queue, 7, within_s=0.05)
        engine.gate.set()

    asyncio.run(run())


def test_a_deadline_in_the_past_is_refused_before_queueing(compute: Compute) -> None:
    async def run() -> None:
        queue = queue_of(compute, Engine())
        with pytest.raises(DeadlineExceeded):
            await score(queue, 7, within_s=0.0)
        assert queue.waiting_rows == 0

    asyncio.run(run())


def test_a_canceled_request_frees_its_rows_and_is_never_computed(compute: Compute) -> None:
    engine = Engine()

    async def run() -> None:
        queue = queue_of(compute, engine)
        first = await held(queue, engine)
        doomed = asyncio.create_task(score(queue, 7, 8))
        await asyncio.sleep(0)
        assert queue.waiting_rows == 2
        doomed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await doomed
        assert queue.waiting_rows == 0
        engine.gate.set()
        await first

    asyncio.run(run())
    assert engine.executed == [[1000]]


def test_a_failing_engine_fails_the_batch_and_the_next_one_is_fine(compute: Compute) -> None:
    engine = Engine(failure=ValueError("broken"))

    async def run() -> None:
        queue = queue_of(compute, engine)
        engine.gate.set()
        with pytest.raises(ValueError, match="broken"):
            await score(queue, 1)
        engine.failure = None
        assert (await score(queue, 2)).logits.tolist() == [2]

    asyncio.run(run())


def test_an_empty_batch_is_answered_without_the_engine(compute: Compute) -> None:
    engine = Engine()

    async def run() -> Scored:
        return await score(queue_of(compute, engine))

    assert asyncio.run(run()).logits.shape == (0,)
    assert engine.executed == []


def test_a_small_batch_runs_on_the_loop_and_a_larger_one_in_a_thread(compute: Compute) -> None:
    engine = Engine()
    engine.gate.set()

    async def run() -> None:
        queue = queue_of(compute, engine, inline_rows=2)
        await score(queue, 1, 2)
        assert engine.threads == {threading.current_thread().name}
        await score(queue, 1, 2, 3)
        assert any(name.startswith("slimctr-compute") for name in engine.threads)

    asyncio.run(run())


@pytest.mark.parametrize("sizes", [[6], [3, 3]])
def test_what_runs_on_the_loop_is_one_batch_and_the_queue_goes_on(compute: Compute, sizes: list[int]) -> None:
    engine = Engine()
    engine.gate.set()

    async def run() -> list[Scored]:
        queue = queue_of(compute, engine, max_batch_rows=4, inline_rows=8)
        first = await asyncio.gather(*(score(queue, *range(size), within_s=5) for size in sizes))
        return [*first, await score(queue, 7, 8, within_s=5)]

    answers = asyncio.run(run())
    assert [len(answer.logits) for answer in answers] == [*sizes, 2]


def test_requests_share_batches_again_soon_after_many_came_alone(compute: Compute) -> None:
    engine = Engine()

    async def run() -> None:
        engine.gate.set()
        queue = queue_of(compute, engine, inline_rows=8, max_batch_rows=8)
        for row in range(2 * LONE_TURNS):
            await score(queue, row)
        assert engine.executed == [[row] for row in range(2 * LONE_TURNS)]
        for company in (2, 3, 8):
            for _ in range(10):
                await asyncio.gather(*(score(queue, row) for row in range(company)))
            assert list(range(company)) in engine.executed
            queue._lone_turns = 2 * LONE_TURNS

    asyncio.run(run())


def test_queues_of_different_versions_never_share_a_batch_and_take_turns(compute: Compute) -> None:
    one, two = Engine(), Engine()
    two.gate.set()

    async def run() -> None:
        first, second = queue_of(compute, one), queue_of(compute, two)
        running = await held(first, one)
        tasks = [asyncio.create_task(score(first, 1, 2, 3, 4)) for _ in range(3)]
        tasks.append(asyncio.create_task(score(second, 9)))
        await asyncio.sleep(0)
        one.gate.set()
        await asyncio.gather(running, *tasks)

    asyncio.run(run())
    assert two.executed == [[9]]
    assert one.executed == [[1000]] + [[1, 2, 3, 4]] * 3


def test_the_observer_sees_the_queue_grow_and_empty(compute: Compute) -> None:
    engine, observer = Engine(), Observer()

    async def run() -> None:
        queue = queue_of(compute, engine, observer=observer)
        first = await held(queue, engine)
        other = asyncio.create_task(score(queue, 1, 2))
        await asyncio.sleep(0)
        engine.gate.set()
        await asyncio.gather(first, other)

    asyncio.run(run())
    assert observer.seen == [(0, 0), (1, 2), (0, 0)]
    assert observer.executions == [("v", 1), ("v", 2)]


@pytest.mark.promise(9)
@hypothesis_settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    max_batch_rows=st.integers(1, 6),
    inline_rows=st.integers(0, 6),
)
def test_no_batch_exceeds_the_limit_and_no_row_is_lost(
    sizes: list[int], max_batch_rows: int, inline_rows: int
) -> None:
    engine = Engine()
    engine.gate.set()
    wanted = [list(range(100 * n, 100 * n + size)) for n, size in enumerate(sizes)]

    async def run(compute: Compute) -> list[Scored]:
        queue = queue_of(
            compute, engine, max_batch_rows=max_batch_rows, max_queue_rows=1000, inline_rows=inline_rows
        )
        requests: list[Awaitable[Scored]] = [score(queue, *ids) for ids in wanted]
        answers = await asyncio.gather(*requests)
        assert queue.waiting_rows == 0
        return answers

    compute = Compute(2)
    try:
        answers = asyncio.run(run(compute))
    finally:
        compute.close()
    assert [answer.logits.tolist() for answer in answers] == wanted
    assert max(len(rows) for rows in engine.executed) <= max_batch_rows
    assert sorted(row for rows in engine.executed for row in rows) == sorted(
        row for rows in wanted for row in rows
    )


@dataclass
class Someone:
    """A client that leaves when the test says so; counts how often it was asked."""

    is_gone: bool = False
    asked: int = 0

    @property
    def gone(self) -> bool:
        self.asked += 1
        return self.is_gone


@pytest.mark.parametrize("taken", [0, 4], ids=["before its first batch", "between its batches"])
def test_rows_of_a_client_that_left_are_not_computed(compute: Compute, taken: int) -> None:
    async def work() -> None:
        engine = Engine()
        now = [100.0]
        queue = queue_of(compute, engine, clock=lambda: now[0])
        leaving, staying = Someone(), Someone()
        blocking = await held(queue, engine) if taken == 0 else None
        rows = (
            asyncio.create_task(
                queue.score(batch_of(*ids), variant="v", deadline_s=now[0] + FAR_S, client=client)
            )
            for ids, client in (((1, 2, 3, 4, 5, 6), leaving), ((7, 8), staying))
        )
        first, second = rows
        await asyncio.sleep(0)
        if taken:
            assert await asyncio.to_thread(engine.entered.wait, FAR_S)
        now[0] += 1.0
        leaving.is_gone = True
        engine.gate.set()
        with pytest.raises(ClientGone, match="6 rows"):
            await first
        assert (await second).logits.tolist() == [7, 8]
        if blocking is not None:
            await blocking
        executed = [row for rows in engine.executed for row in rows]
        assert 5 not in executed
        assert (1 in executed) == (taken > 0)
        assert queue.waiting_rows == 0

    asyncio.run(work())


def test_a_client_is_asked_only_after_a_wait_that_costs_more_than_asking(compute: Compute) -> None:
    async def work() -> None:
        engine, client, now = Engine(), Someone(is_gone=True), 100.0
        engine.gate.set()
        queue = queue_of(compute, engine, clock=lambda: now)
        scored = await queue.score(batch_of(1), variant="v", deadline_s=now + FAR_S, client=client)
        assert scored.logits.tolist() == [1]
        assert client.asked == 0

    asyncio.run(work())
