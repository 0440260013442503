"""Metrics of the request path: an observation is an append, adding up waits for a scrape or the next second."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from prometheus_client import Counter, Gauge, Histogram

FLUSH_SECONDS = 1.0


class Tally:
    """The observations of one labeled histogram since the last flush; observed on the event loop only."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._bounds = np.array(histogram._upper_bounds)
        self._waiting: list[float] = []
        self._flushing = threading.Lock()
        self.observe = self._waiting.append

    def flush(self) -> None:
        """Add the waiting observations to the histogram, each in the bucket that `Histogram.observe` would choose."""
        with self._flushing:
            values = self._waiting[:]
            if not values:
                return
            del self._waiting[: len(values)]
            buckets = np.bincount(np.searchsorted(self._bounds, values), minlength=len(self._bounds))
            for bucket in np.flatnonzero(buckets):
                self._histogram._buckets[bucket].inc(int(buckets[bucket]))
            self._histogram._sum.inc(sum(values))


class Total:
    """What is to be added to one labeled counter or gauge since the last flush; `add` on the event loop only."""

    def __init__(self, metric: Counter | Gauge) -> None:
        self._metric = metric
        self._waiting: list[int] = []
        self._flushing = threading.Lock()
        self.add = self._waiting.append

    def flush(self) -> None:
        """Add the waiting amounts to the metric."""
        with self._flushing:
            amounts = self._waiting[:]
            del self._waiting[: len(amounts)]
            if amounts:
                self._metric.inc(sum(amounts))


class Tallies:
    """Every tally and total of a process."""

    def __init__(self) -> None:
        self._known: dict[Histogram | Counter | Gauge, Tally | Total] = {}

    def of(self, histogram: Histogram) -> Tally:
        """Return the tally of a labeled histogram."""
        return cast(Tally, self._kept(histogram, Tally))

    def total(self, metric: Counter | Gauge) -> Total:
        """Return the total of a labeled counter or gauge."""
        return cast(Total, self._kept(metric, Total))

    def _kept(self, metric: Any, kind: Callable[[Any], Tally | Total]) -> Tally | Total:
        if metric not in self._known:
            self._known[metric] = kind(metric)
        return self._known[metric]

    def flush(self) -> None:
        """Flush every tally."""
        for tally in list(self._known.values()):
            tally.flush()

    async def flush_regularly(self) -> None:
        """Flush every second until canceled: a scrape of another worker sees what this one has written."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            self.flush()
