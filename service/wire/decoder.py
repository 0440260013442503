"""The one thread for bodies that would hold up the event loop: who has it, who waits for it, and for how long."""

import asyncio
import gc
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

from service.errors import DeadlineExceeded

R = TypeVar("R")
Turn = asyncio.Future[None]


class Decoder:
    """Runs jobs one at a time, on the event loop's behalf; `close` ends its thread.

    A decoded body takes many times its bytes until it is encoded. So jobs that encode go before those that decode the
    next body, and few bodies are in memory in decoded form, however many wait.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="slimctr-decode")
        self._waiting: dict[str, deque[Turn]] = {"encode": deque(), "decode": deque()}
        self._is_busy = False

    async def run(self, kind: Literal["decode", "encode"], work: Callable[[], R], deadline_s: float) -> R:
        """Return `work()`, done in the thread once those that came before are done.

        Raises DeadlineExceeded as soon as `deadline_s`, on the monotonic clock, has passed; work that has not begun
        then never begins, and work that has begun keeps the thread until it ends.
        """
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded("the deadline passed before the body was decoded")
        try:
            async with asyncio.timeout(left_s):
                await self._turn(self._waiting[kind])
                job = asyncio.get_running_loop().run_in_executor(self._thread, _without_collector, work)
                job.add_done_callback(self._ended)
                return await asyncio.shield(job)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed while the body waited or was decoded") from None

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=True)

    async def _turn(self, waiting: deque[Turn]) -> None:
        """Return when it is this job's turn, whose end `_next` must follow."""
        if not self._is_busy:
            self._is_busy = True
            return
        turn: Turn = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was given and will not be used
                self._next()
            raise

    def _ended(self, job: asyncio.Future[Any]) -> None:
        if not job.cancelled():
            job.exception()  # nobody may be left to see it
        self._next()

    def _next(self) -> None:
        for waiting in self._waiting.values():
            while waiting:
                turn = waiting.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._is_busy = False


def _without_collector(work: Callable[[], R]) -> R:
    """Decoded bodies are millions of objects without cycles: walking through them would hold up every thread."""
    gc.disable()
    try:
        return work()
    finally:
        gc.enable()
