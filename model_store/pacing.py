"""Leaves core and interpreter to other threads between the short steps of a long job.

Python hands the interpreter to a waiting thread every 5 ms, and the system a core after several; a server that loads a
model in one thread would hold up the requests of another by that much. A job that is paced rests between its steps.
"""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

# Steps of some 50 microseconds share a pause: each one of its own would take longer than the step.
STEPS_PER_PAUSE = 8
_LEAST_PAUSE_S = 0.0002


class _Pace:
    def __init__(self, rest: float, hurry: threading.Event | None) -> None:
        self.rest = rest
        self.hurry = hurry
        self.resumed_s = time.thread_time()


_pace: ContextVar[_Pace | None] = ContextVar("pace", default=None)


@contextmanager
def paced(rest: float, hurry: threading.Event | None = None) -> Generator[None, None, None]:
    """Make every `pause` of this thread last `rest` times what the step before it took of a core, until the block ends.

    A pause lasts 0.2 ms at least; with a `rest` of 0, or once `hurry` is set, there are none.
    """
    token = _pace.set(_Pace(rest, hurry) if rest > 0 else None)
    try:
        yield
    finally:
        _pace.reset(token)


def is_paced() -> bool:
    """Return whether this thread rests at its pauses: the steps between them should be short then."""
    return _pace.get() is not None


def pause() -> None:
    """Sleep as `paced` says; outside of it do nothing."""
    pace = _pace.get()
    if pace is not None and not (pace.hurry and pace.hurry.is_set()):
        time.sleep(max(_LEAST_PAUSE_S, pace.rest * (time.thread_time() - pace.resumed_s)))
        pace.resumed_s = time.thread_time()
