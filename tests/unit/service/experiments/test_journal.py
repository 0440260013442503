"""A state that lets one caller wait in vain is left alone: the others are refused at once, until one may try again."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from service.experiments import journal as module
from service.experiments.breaker import Breaker
from service.experiments.errors import StateTimeout, StateUnavailable
from service.experiments.exposures import ExposureQueue
from service.experiments.journal import Journal
from service.experiments.outcomes import Ledger
from service.experiments.record import Exposure, Kind, Outcome
from service.telemetry.metrics import Metrics

EXPOSURE = Exposure(Kind.LIVE, "e1", "r1", "a", 1.0, 10, 20, np.zeros(2, np.float32))


class FakeState:
    """Counts what it is asked, and does what `behave` says with it."""

    def __init__(self) -> None:
        self.asked = 0
        self.behave: Callable[[], None] = lambda: None

    def transact(self, request_ids: Any, outcome_ids: Any, step: Callable[[Ledger], Any], now: float) -> Any:
        self.asked += 1
        self.behave()
        return step(Ledger({}, {}))

    def close(self) -> None:
        pass


def time_out() -> None:
    raise StateTimeout("no answer")


class Bench:
    def __init__(self) -> None:
        self.state, self.now = FakeState(), 0.0
        self.queue = ExposureQueue(Metrics())
        self.journal = Journal(self.state, self.queue, lambda: 1.0)  # type: ignore[arg-type]
        self.journal._breaker = Breaker(5.0, lambda: self.now)

    async def report(self) -> str:
        try:
            await self.journal.report([Outcome("o", "r", 0, True, 1.0)])
        except StateTimeout:
            return "timeout"
        except StateUnavailable:
            return "refused"
        return "answered"


def run(work: Callable[[Bench], Any]) -> None:
    async def main() -> None:
        bench = Bench()
        try:
            await work(bench)
        finally:
            bench.state.behave = lambda: None
            await bench.journal.close()

    asyncio.run(main())


def test_after_a_timeout_nobody_asks_for_a_while_and_then_one_does() -> None:
    async def work(bench: Bench) -> None:
        assert await bench.report() == "answered"
        bench.state.behave = time_out
        assert await bench.report() == "timeout"
        assert [await bench.report() for _ in range(5)] == 5 * ["refused"]
        assert bench.state.asked == 2
        bench.now = 5.0
        assert [await bench.report() for _ in range(3)] == ["timeout", "refused", "refused"]
        bench.now = 10.0
        bench.state.behave = lambda: None
        assert [await bench.report() for _ in range(3)] == 3 * ["answered"]

    run(work)


def test_those_who_wait_for_their_turn_are_refused_when_the_one_before_timed_out() -> None:
    async def work(bench: Bench) -> None:
        gate = threading.Event()

        def hang() -> None:
            gate.wait(20)
            raise StateTimeout("no answer")

        bench.state.behave = hang
        posts = [asyncio.create_task(bench.report()) for _ in range(12)]
        await asyncio.sleep(0)
        gate.set()
        assert sorted(await asyncio.gather(*posts)) == 11 * ["refused"] + ["timeout"]
        assert bench.state.asked == 1

    run(work)


def test_while_one_tries_again_the_others_are_refused() -> None:
    async def work(bench: Bench) -> None:
        bench.state.behave = time_out
        await bench.report()
        bench.now, gate = 5.0, threading.Event()
        bench.state.behave = lambda: None if gate.wait(20) else time_out()
        trying = asyncio.create_task(bench.report())
        await asyncio.sleep(0)
        assert await bench.report() == "refused"
        gate.set()
        assert await trying == "answered"
        assert await bench.report() == "answered"

    run(work)


def test_a_call_that_never_returns_is_given_up_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEADLINE_S", 0.05)

    async def work(bench: Bench) -> None:
        gate = threading.Event()
        bench.state.behave = lambda: gate.wait(20) or None
        bench.queue.put(EXPOSURE)
        with pytest.raises(StateTimeout, match=r"within 0\.05 s"):
            await bench.journal.flush()
        assert bench.queue.queued_bytes == EXPOSURE.nbytes, "what was not written waits on"
        gate.set()
        monkeypatch.setattr(module, "DEADLINE_S", 20.0)

    run(work)


def test_a_state_that_refuses_at_once_may_be_asked_again_at_once() -> None:
    async def work(bench: Bench) -> None:
        def refuse() -> None:
            raise StateUnavailable("connection refused")

        bench.state.behave = refuse
        assert [await bench.report() for _ in range(3)] == 3 * ["refused"]
        assert bench.state.asked == 3

    run(work)
