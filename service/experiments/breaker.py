"""A circuit breaker: after the state let someone wait in vain, it is not asked for a while."""

import time
from collections.abc import Callable
from typing import TypeVar

from service.experiments.errors import StateTimeout, StateUnavailable

T = TypeVar("T")


class Breaker:
    """Refuse work for `rest_s` after a timeout, then let one piece of work try.

    Work asks on the event loop (`enter`) and is done on the one thread of the state (`run`).
    """

    def __init__(self, rest_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rest_s = rest_s
        self._clock = clock
        self._open_until: float | None = None
        self._trips = 0

    def enter(self) -> int:
        """Return a ticket for `run`; raises StateUnavailable while the breaker is open."""
        if self._open_until is not None:
            left_s = self._open_until - self._clock()
            if left_s > 0:
                raise StateUnavailable(
                    f"the state did not answer in time and is asked again in {left_s:.1f} s; try again then"
                )
            # This one tries; the others are refused until it is back, or has been away for too long.
            self._open_until = self._clock() + self._rest_s
        return self._trips

    def run(self, ticket: int, work: Callable[[], T]) -> T:
        """Return `work()`; raises what it raises, and StateUnavailable when other work timed out since `enter`."""
        if ticket != self._trips:
            raise StateUnavailable("the state did not answer in time; try again")
        try:
            result = work()
        except StateTimeout:
            self.trip()
            raise
        except StateUnavailable:
            self.close()  # an answer, if no good one
            raise
        self.close()
        return result

    def trip(self) -> None:
        """Open the breaker: the state did not answer in time."""
        self._trips += 1
        self._open_until = self._clock() + self._rest_s

    def close(self) -> None:
        """Let work through."""
        self._open_until = None
