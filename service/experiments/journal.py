"""The journal of an experiment: one thread that writes exposures, joins outcomes and ripens rows in the state."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from service.experiments.breaker import Breaker
from service.experiments.errors import StateTimeout, StateUnavailable
from service.experiments.exposures import ExposureQueue
from service.experiments.outcomes import Ledger, Verdict, Written
from service.experiments.record import Exposure, Outcome
from service.experiments.state import State

# Nothing waits longer for one transaction, its turn included; the backends' own timeouts are shorter.
DEADLINE_S = 10.0
START_DEADLINE_S = 30.0
# After a timeout the state is left alone for this long, and whoever needs it is refused at once.
REST_S = 5.0
# One transaction handles this many requests or outcomes: enough to be cheap, few enough to let others in.
TRANSACTION_ITEMS = 500

T = TypeVar("T")


class Flushed(NamedTuple):
    """What writing exposures did: verdicts on outcomes known before, and how many of each experiment became what."""

    verdicts: list[Verdict]
    written: Counter[tuple[str, Written]]


logger = logging.getLogger("slimctr.experiments")


class Journal:
    """Everything that reads or writes the state; its methods wait for that without holding up the event loop."""

    def __init__(self, state: State, exposures: ExposureQueue, clock: Callable[[], float]) -> None:
        self._state = state
        self._exposures = exposures
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="slimctr-state")
        self._flushing = asyncio.Lock()
        self._breaker = Breaker(REST_S)

    async def open(self) -> None:
        """Open the state; raises StateUnavailable."""
        await self._run(lambda state: state.open(), START_DEADLINE_S)

    async def close(self) -> None:
        """Write what waits and close the state; what cannot be written then is counted as failed and logged."""
        self._breaker.close()  # a last try, however the one before ended
        try:
            await self.flush()
        except StateUnavailable:
            lost = self._exposures.take_all()
            self._exposures.failed(lost)
            logger.exception("the state is down at the end; exposures are lost", extra={"rows": len(lost)})
        finally:
            await self._run(lambda state: state.close(), DEADLINE_S)
            await asyncio.to_thread(self._thread.shutdown)

    async def read(self, call: Callable[[State], T]) -> T:
        """Return `call(state)`, run in the thread of the state.

        Raises what the call raises, StateTimeout after `DEADLINE_S`, and StateUnavailable at once for a while after
        a timeout.
        """
        breaker = self._breaker
        ticket = breaker.enter()
        return await self._run(lambda state: breaker.run(ticket, lambda: call(state)), DEADLINE_S)

    async def _run(self, call: Callable[[State], T], deadline_s: float) -> T:
        waiting = asyncio.get_running_loop().run_in_executor(self._thread, call, self._state)
        try:
            async with asyncio.timeout(deadline_s):
                return await waiting
        except TimeoutError as error:
            self._breaker.trip()
            raise StateTimeout(f"the state did not answer within {deadline_s:g} s; try again") from error

    async def flush(self) -> Flushed:
        """Write every exposure that waits; return what became of them and of outcomes that had come before them.

        Raises StateUnavailable and keeps the exposures when the state is down.
        """
        flushed = Flushed([], Counter())
        async with self._flushing:
            while batch := self._exposures.take(TRANSACTION_ITEMS):
                try:
                    found = await self._transact(
                        {exposure.request_id for exposure in batch}, set(), _exposing(batch)
                    )
                    flushed.verdicts.extend(found.verdicts)
                    flushed.written.update(found.written)
                except (StateUnavailable, asyncio.CancelledError):
                    # Writing one twice is harmless, it is a repeat; losing one is not.
                    self._exposures.put_back(batch)
                    raise
                except Exception:
                    self._exposures.failed(batch)
                    logger.exception("exposures could not be written", extra={"rows": len(batch)})
                else:
                    self._exposures.sent(batch)
        return flushed

    async def report(self, items: Sequence[Outcome]) -> list[Verdict]:
        """Join outcomes; when this returns all are stored. Raises StateUnavailable."""
        verdicts: list[Verdict] = []
        for start in range(0, len(items), TRANSACTION_ITEMS):
            part = items[start : start + TRANSACTION_ITEMS]
            verdicts += await self._transact(
                {outcome.request_id for outcome in part},
                {outcome.outcome_id for outcome in part},
                _reporting(part),
            )
        return verdicts

    async def mature(self) -> None:
        """Count every row whose time has come as a non-click."""
        now = self._clock()
        while due := await self.read(lambda state: state.due(now, TRANSACTION_ITEMS)):
            await self._transact(set(due), set(), _maturing(due, now))

    async def _transact(
        self, request_ids: Iterable[str], outcome_ids: Iterable[str], step: Callable[[Ledger], T]
    ) -> T:
        requests, outcomes, now = list(request_ids), list(outcome_ids), self._clock()
        return await self.read(lambda state: state.transact(requests, outcomes, step, now))


def _exposing(batch: Sequence[Exposure]) -> Callable[[Ledger], Flushed]:
    def step(ledger: Ledger) -> Flushed:
        for exposure in batch:
            ledger.expose(exposure)
        return Flushed(ledger.verdicts_of_early, ledger.written)

    return step


def _reporting(items: Sequence[Outcome]) -> Callable[[Ledger], list[Verdict]]:
    return lambda ledger: [ledger.report(outcome) for outcome in items]


def _maturing(request_ids: Sequence[str], now: float) -> Callable[[Ledger], int]:
    return lambda ledger: sum(ledger.mature(request_id, now) for request_id in request_ids)
