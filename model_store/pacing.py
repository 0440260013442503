"""Lets other threads have the interpreter between the short steps of a long job.

Python hands the interpreter to a waiting thread every 5 ms; a server that loads a model in one thread would hold up the
requests of another by that much. A job that is paced sleeps between its steps instead.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

# Steps of some 50 microseconds share a pause: each one of its own would take longer than the step.
STEPS_PER_PAUSE = 8

_pause_s = ContextVar("pause_s", default=0.0)


@contextmanager
def paced(pause_s: float) -> Generator[None, None, None]:
    """Make every `pause` of this thread sleep `pause_s` seconds until the block ends."""
    token = _pause_s.set(pause_s)
    try:
        yield
    finally:
        _pause_s.reset(token)


def pause() -> None:
    """Sleep as `paced` says; outside of it do nothing."""
    if (pause_s := _pause_s.get()) > 0:
        time.sleep(pause_s)
