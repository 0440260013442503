"""One thread, taken in turns that deadlines end; work whose deadline passed while it waited is never done."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from service.errors import DeadlineExceeded
from service.wire.decoder import Decoder

FOREVER = 60.0


def run(scenario: Callable[[Decoder], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        decoder = Decoder()
        try:
            async with asyncio.timeout(FOREVER):
                return await scenario(decoder)
        finally:
            decoder.close()

    return asyncio.run(main())


def due(seconds: float = FOREVER) -> float:
    return time.monotonic() + seconds


class Held:
    """Work that goes on until it is let go."""

    def __init__(self) -> None:
        self.begun, self.let_go = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.let_go.wait(FOREVER)
        return "done"


async def begin(decoder: Decoder, held: Held, seconds: float = FOREVER) -> "asyncio.Task[str]":
    task = asyncio.create_task(decoder.run("decode", held, due(seconds)))
    await asyncio.to_thread(held.begun.wait, FOREVER)
    return task


def test_work_is_done_in_the_order_it_came_and_encoding_first() -> None:
    async def scenario(decoder: Decoder) -> list[str]:
        held, done = Held(), []
        first = await begin(decoder, held)
        waiting = []
        for kind, name in (("decode", "a"), ("decode", "b"), ("encode", "c"), ("encode", "d")):
            waiting.append(asyncio.create_task(decoder.run(kind, lambda name=name: done.append(name), due())))
            await asyncio.sleep(0)
        held.let_go.set()
        await asyncio.gather(first, *waiting)
        return done

    assert run(scenario) == ["c", "d", "a", "b"]


def test_what_expires_while_it_waits_is_never_done() -> None:
    async def scenario(decoder: Decoder) -> list[str]:
        held, done = Held(), []
        first = await begin(decoder, held)
        with pytest.raises(DeadlineExceeded):
            await decoder.run("decode", lambda: done.append("late"), due(0.02))
        with pytest.raises(DeadlineExceeded):
            await decoder.run("decode", lambda: done.append("over"), due(-1))
        held.let_go.set()
        await first
        await decoder.run("decode", lambda: done.append("next"), due())
        return done

    assert run(scenario) == ["next"]


def test_a_deadline_ends_the_wait_for_work_that_goes_on_and_the_next_waits_for_that() -> None:
    async def scenario(decoder: Decoder) -> str:
        held = Held()
        first = await begin(decoder, held, 0.05)
        with pytest.raises(DeadlineExceeded):
            await first
        following = asyncio.create_task(decoder.run("decode", lambda: "after", due()))
        await asyncio.sleep(0.02)
        assert not following.done()
        held.let_go.set()
        return await following

    assert run(scenario) == "after"


def test_who_is_canceled_with_its_turn_passes_it_on() -> None:
    async def scenario(decoder: Decoder) -> str:
        held = Held()
        first = await begin(decoder, held)
        second = asyncio.create_task(decoder.run("decode", lambda: "second", due()))
        third = asyncio.create_task(decoder.run("decode", lambda: "third", due()))
        await asyncio.sleep(0)
        held.let_go.set()
        await first
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        return await third

    assert run(scenario) == "third"


def test_errors_of_the_work_are_raised_and_the_thread_goes_on() -> None:
    async def scenario(decoder: Decoder) -> str:
        def broken() -> None:
            raise KeyError("x")

        with pytest.raises(KeyError):
            await decoder.run("decode", broken, due())
        return await decoder.run("encode", lambda: "well", due())

    assert run(scenario) == "well"
