"""Zero-delay micro-batching: when an executor is free, everything that waits for one version goes as one batch.

All state lives on the event loop; `lookup` and `run_network` run in the executor's threads, of small batches on the
loop. A batch never mixes versions and never exceeds `max_batch_rows`. A request larger than a batch is split into
chunks, and chunks of different requests alternate.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from service.errors import ClientGone, DeadlineExceeded, QueueFull
from slimctr.features import EncodedBatch

# A turn of the event loop costs a lone request as much as its look-up. Every 8th and 9th request asks, so that of a
# steady group it is not always the last one, which nobody follows.
LONE_TURNS = 64
ASKED_TURNS = 8, 9

# Every client waits this long; asking whether it is still there costs a microsecond.
PATIENCE_S = 0.002

FloatRow = npt.NDArray[np.float32]


class Engine(Protocol):
    """What a batch needs of `slimctr.scoring.Scorer`; calls may run at the same time."""

    def lookup(self, batch: EncodedBatch) -> FloatRow:
        """Return the stored matrix (B, W)."""

    def run_network(self, stored: FloatRow) -> FloatRow:
        """Return the logits (B,)."""


class Client(Protocol):
    """Who waits for the scores; asked on the event loop."""

    @property
    def gone(self) -> bool:
        """Whether nobody would receive them."""


class QueueObserver(Protocol):
    """Hears what a queue does; called on the event loop."""

    def waiting(self, requests: int, rows: int) -> None:
        """The queue now holds so many requests and rows."""

    def executed(self, variant: str, rows: int, lookup_s: float, infer_s: float) -> None:
        """A batch was scored; `variant` is that of its first request."""


class Scored(NamedTuple):
    """Logits (B,) of one request and where its time went, in seconds."""

    logits: FloatRow
    queue_s: float
    lookup_s: float
    infer_s: float


@dataclass(eq=False)
class _Waiting:
    """A request inside the queue; `taken` rows were dispatched, `done` rows came back."""

    batch: EncodedBatch
    rows: int
    variant: str
    enqueued_s: float
    deadline_s: float
    logits: FloatRow
    client: Client | None = None
    outcome: Scored | BaseException | None = None
    answer: asyncio.Future[None] | None = None
    taken: int = 0
    done: int = 0
    started_s: float = 0.0
    lookup_s: float = 0.0
    infer_s: float = 0.0

    def settle(self, outcome: Scored | BaseException) -> None:
        """Keep what became of the request and wake whoever waits."""
        self.outcome = outcome
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(None)


class _Part(NamedTuple):
    """Rows `start .. start + rows` of a request inside one execution."""

    request: _Waiting
    start: int
    rows: int


@dataclass
class _Execution:
    """One batch on its way through the executor; the thread fills in the results."""

    queue: "BatchQueue"
    parts: list[_Part]
    batch: EncodedBatch
    logits: FloatRow | None = None
    error: BaseException | None = None
    lookup_s: float = 0.0
    infer_s: float = 0.0

    def run(self) -> None:
        """Score the batch; keep what went wrong for those who wait."""
        try:
            self.logits, self.lookup_s, self.infer_s = _run(self.queue.engine, self.batch)
        except BaseException as error:  # the waiting requests must hear of it, whatever it is
            self.error = error


class Compute:
    """The executor that all queues share: `threads` batches at a time, queues served in turn.

    Requests that the event loop reads in one turn are queued before the first of them runs, so they share a batch.
    A batch that finds the executor idle and is no larger than the queue's `inline_rows` runs on the loop itself:
    it is over sooner than a thread could take it.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._running = 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="slimctr-compute")
        self._turns: deque[BatchQueue] = deque()
        self._scheduled = False

    @property
    def idle(self) -> bool:
        """Whether nothing runs and no queue waits for its turn."""
        return self._running == 0 and not self._turns

    @property
    def busy(self) -> bool:
        """Whether every thread has a batch."""
        return self._running >= self._threads

    def offer(self, queue: "BatchQueue") -> None:
        """Let `queue` run as soon as a thread is free; it must not be offered twice."""
        self._turns.append(queue)
        if not self._scheduled and not self.busy:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def close(self) -> None:
        """Wait for the running batches and end the threads."""
        self._pool.shutdown(wait=True)

    def _dispatch(self) -> None:
        self._scheduled = False
        while self._turns and not self.busy:
            queue = self._turns.popleft()
            execution = queue.take()
            if queue.offered:
                self._turns.append(queue)
            if execution is None:
                continue
            if self._running == 0 and not self._turns and len(execution.batch) <= queue.inline_rows:
                execution.run()
                queue.finish(execution)
                continue
            self._running += 1
            self._pool.submit(self._run, execution, asyncio.get_running_loop())

    def _run(self, execution: _Execution, loop: asyncio.AbstractEventLoop) -> None:
        execution.run()
        loop.call_soon_threadsafe(self._finished, execution)

    def _finished(self, execution: _Execution) -> None:
        self._running -= 1
        self._dispatch()
        execution.queue.finish(execution)


@dataclass
class BatchQueue:
    """The requests that wait for one version, bounded in rows."""

    engine: Engine
    compute: Compute
    max_batch_rows: int
    max_queue_rows: int
    observer: QueueObserver
    inline_rows: int = 0
    clock: Callable[[], float] = time.monotonic
    offered: bool = False
    waiting_rows: int = 0
    _waiting: deque[_Waiting] = field(default_factory=deque)
    _lone_turns: int = 0

    def check_room(self, rows: int) -> None:
        """Raise QueueFull when `rows` more would pass the bound; callers ask before they encode."""
        if self.waiting_rows + rows > self.max_queue_rows:
            raise QueueFull(
                f"{self.waiting_rows} rows are waiting and {rows} more would pass max_queue_rows ({self.max_queue_rows})"
            )

    async def score(
        self, batch: EncodedBatch, *, variant: str, deadline_s: float, client: Client | None = None
    ) -> Scored:
        """Return the logits of `batch` in its own order; `deadline_s` is a time of the queue's clock.

        Raises QueueFull, DeadlineExceeded, ClientGone when it waited until `client` had gone, or what the engine raised.
        """
        rows = len(batch)
        now = self.clock()
        if rows == 0:
            return Scored(np.empty(0, np.float32), 0.0, 0.0, 0.0)
        self.check_room(rows)
        if now >= deadline_s:
            raise DeadlineExceeded("the deadline passed before the request was queued")
        if rows <= self.max_batch_rows and self._fits_here(rows) and self._alone():
            logits, lookup_s, infer_s = _run(self.engine, batch)
            self.observer.executed(variant, rows, lookup_s, infer_s)
            return Scored(logits, 0.0, lookup_s, infer_s)
        request = _Waiting(batch, rows, variant, now, deadline_s, np.empty(rows, np.float32), client)
        self._waiting.append(request)
        self.waiting_rows += rows
        try:
            if self._fits_here():
                await asyncio.sleep(0)  # requests that the loop reads in this turn join the batch
                if request.outcome is not None or len(self._waiting) > 1:
                    self._lone_turns = 0
                if request.outcome is None and self._fits_here() and (execution := self.take()):
                    if self.offered:  # a batch holds fewer rows than fit here: a thread takes the rest
                        self.compute.offer(self)
                    execution.run()
                    self.finish(execution)
            if request.outcome is None:
                await self._executed(request)
        finally:
            self._withdraw(request)
        if isinstance(request.outcome, Scored):
            return request.outcome
        raise request.outcome or RuntimeError("the batch gave no scores")

    def _alone(self) -> bool:
        """Whether to expect that no request joins: none waits, and none came for long. Then only some ask again."""
        self._lone_turns += 1
        turns = self._lone_turns
        return (
            turns > LONE_TURNS
            and turns % ASKED_TURNS[0] > 0
            and turns % ASKED_TURNS[1] > 0
            and not self._waiting
        )

    def _fits_here(self, more_rows: int = 0) -> bool:
        """Whether all that waits is scored on the loop sooner than a thread could take it, `more_rows` with it."""
        rows = self.waiting_rows + more_rows
        return rows <= self.inline_rows and not self.offered and self.compute.idle

    async def _executed(self, request: _Waiting) -> None:
        """Wait until the executor has scored the request or its deadline has passed."""
        loop = asyncio.get_running_loop()
        request.answer = loop.create_future()
        timer = loop.call_later(request.deadline_s - self.clock(), self._expire, request)
        if self.offered or self.compute.busy:  # else it runs in this very turn of the loop
            self._announce()
        if not self.offered:
            self.offered = True
            self.compute.offer(self)
        try:
            await request.answer
        finally:
            timer.cancel()

    def take(self) -> _Execution | None:
        """Remove the next batch from the queue; None when only requests waited that nobody waits for any more."""
        parts: list[_Part] = []
        room = self.max_batch_rows
        split: list[_Waiting] = []
        while self._waiting and room:
            request = self._waiting[0]
            now = self.clock()
            if now >= request.deadline_s:
                self._expire(request)  # the timer is late; an expired request is never computed
                continue
            if request.client is not None and now - request.enqueued_s >= PATIENCE_S and request.client.gone:
                self._withdraw(request)
                request.settle(ClientGone(f"the client left while its {request.rows} rows were queued"))
                continue
            left = request.rows - request.taken
            if left > room and request.rows <= self.max_batch_rows:
                break  # it fits whole into the next batch
            self._waiting.popleft()
            rows = min(left, room)
            parts.append(_Part(request, request.taken, rows))
            request.taken += rows
            if request.started_s == 0.0:
                request.started_s = now
            room -= rows
            self.waiting_rows -= rows
            if request.taken < request.rows:
                split.append(request)
        self._waiting.extend(split)
        self.offered = bool(self._waiting)
        self._announce()
        if not parts:
            return None
        return _Execution(self, parts, _join(parts))

    def finish(self, execution: _Execution) -> None:
        """Hand the scores of an executed batch to its requests."""
        if execution.logits is not None:
            self.observer.executed(
                execution.parts[0].request.variant,
                len(execution.batch),
                execution.lookup_s,
                execution.infer_s,
            )
        at = 0
        for part in execution.parts:
            request = part.request
            if request.outcome is None:
                if execution.logits is None:
                    request.settle(execution.error or RuntimeError("the batch gave no scores"))
                else:
                    request.logits[part.start : part.start + part.rows] = execution.logits[
                        at : at + part.rows
                    ]
                    request.lookup_s += execution.lookup_s
                    request.infer_s += execution.infer_s
                    request.done += part.rows
                    if request.done == request.rows:
                        queue_s = request.started_s - request.enqueued_s
                        request.settle(Scored(request.logits, queue_s, request.lookup_s, request.infer_s))
            at += part.rows

    def _expire(self, request: _Waiting) -> None:
        self._withdraw(request)
        if request.outcome is None:
            state = "computed" if request.taken else "queued"
            request.settle(DeadlineExceeded(f"the deadline passed while {request.rows} rows were {state}"))

    def _withdraw(self, request: _Waiting) -> None:
        if request.taken < request.rows and request in self._waiting:
            self._waiting.remove(request)
            self.waiting_rows -= request.rows - request.taken
            self._announce()

    def _announce(self) -> None:
        self.observer.waiting(len(self._waiting), self.waiting_rows)


def _run(engine: Engine, batch: EncodedBatch) -> tuple[FloatRow, float, float]:
    """Return the logits and the seconds of lookup and network."""
    begin = time.perf_counter()
    stored = engine.lookup(batch)
    middle = time.perf_counter()
    logits = engine.run_network(stored)
    return logits, middle - begin, time.perf_counter() - middle


def _join(parts: list[_Part]) -> EncodedBatch:
    pieces = [
        part.request.batch
        if part.rows == part.request.rows
        else part.request.batch.slice(part.start, part.start + part.rows)
        for part in parts
    ]
    return pieces[0] if len(pieces) == 1 else EncodedBatch.concatenate(pieces)
