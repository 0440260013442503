"""Interleaved timing: all contestants take short turns in every round, so that noise hits all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Call = Callable[[int], object]

SLICE_SECONDS = 0.02


@dataclass(frozen=True)
class Turns:
    """How many rounds count, after one that does not, and how long the turn of a contestant is."""

    rounds: int
    slice_seconds: float = SLICE_SECONDS

    def take(self, calls: Mapping[str, Call]) -> dict[str, list[float]]:
        """Return the seconds per call of every contestant in each round.

        A contestant is called with 0, 1, 2, ... for the length of a turn, at least once.
        """
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(self.rounds + 1):
            for name, call in calls.items():
                spent = _seconds_per_call(call, self.slice_seconds)
                if turn:
                    seconds[name].append(spent)
        return seconds


def median_ratio(one: list[float], other: list[float]) -> float:
    """Return how many times longer `one` takes than `other`: the median of the ratios within a round."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def _seconds_per_call(call: Call, slice_seconds: float) -> float:
    calls, started = 0, time.perf_counter()
    while True:
        call(calls)
        calls += 1
        elapsed = time.perf_counter() - started
        if elapsed >= slice_seconds:
            return elapsed / calls
