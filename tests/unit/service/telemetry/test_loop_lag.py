"""The loop's lag is the time a sleep took beyond what was asked."""

import asyncio
import contextlib

from prometheus_client import CollectorRegistry, Histogram

from service.telemetry.loop_lag import watch_loop_lag


def test_lag_is_the_oversleep() -> None:
    registry = CollectorRegistry()
    lag = Histogram("lag_seconds", "lag", buckets=(0.01, 0.1, 1.0), registry=registry)
    now = 0.0
    oversleeps = iter([0.0, 0.05, 0.5])

    async def sleep(seconds: float) -> None:
        nonlocal now
        extra = next(oversleeps, None)
        if extra is None:
            raise asyncio.CancelledError
        now += seconds + extra

    async def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await watch_loop_lag(lag, 0.1, sleep, lambda: now)

    asyncio.run(run())
    assert registry.get_sample_value("lag_seconds_count") == 3
    assert registry.get_sample_value("lag_seconds_bucket", {"le": "0.01"}) == 1
    assert registry.get_sample_value("lag_seconds_bucket", {"le": "0.1"}) == 2
    assert registry.get_sample_value("lag_seconds_bucket", {"le": "1.0"}) == 3


def test_it_runs_on_the_loops_own_clock_until_canceled() -> None:
    registry = CollectorRegistry()
    lag = Histogram("lag_seconds", "lag", registry=registry)

    async def run() -> None:
        task = asyncio.create_task(watch_loop_lag(lag, 0.0))
        while not registry.get_sample_value("lag_seconds_count"):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    asyncio.run(run())
