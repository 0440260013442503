"""Measures how late the event loop wakes up: work on the loop that blocks it shows here first."""

import asyncio
from collections.abc import Awaitable, Callable

from prometheus_client import Histogram


async def watch_loop_lag(
    lag_seconds: Histogram,
    interval_seconds: float = 0.1,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] | None = None,
) -> None:
    """Observe, every `interval_seconds`, how much later than asked a sleep returned; runs until canceled."""
    now = clock or asyncio.get_running_loop().time
    while True:
        due = now() + interval_seconds
        await sleep(interval_seconds)
        lag_seconds.observe(max(0.0, now() - due))
