"""Histograms of the request path: an observation is an append, adding up waits for a scrape or the next second."""

import asyncio
import threading
from collections.abc import Iterable

import numpy as np
from prometheus_client import Histogram

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


class Tallies:
    """Every tally of a process."""

    def __init__(self) -> None:
        self._known: dict[Histogram, Tally] = {}

    def of(self, histogram: Histogram) -> Tally:
        """Return the tally of a labeled histogram."""
        if histogram not in self._known:
            self._known[histogram] = Tally(histogram)
        return self._known[histogram]

    def flush(self) -> None:
        """Flush every tally."""
        tallies: Iterable[Tally] = list(self._known.values())
        for tally in tallies:
            tally.flush()

    async def flush_regularly(self) -> None:
        """Flush every second until canceled: a scrape of another worker sees what this one has written."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            self.flush()
