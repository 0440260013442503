"""Latencies during loads against the quiet times between them, with the spread that resampling the loads gives."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

RESAMPLES = 1000

Floats = npt.NDArray[np.float64]


class Window(NamedTuple):
    """One load and the quiet time after it, by the clock of the client."""

    begin: float
    end: float
    quiet_begin: float
    quiet_end: float

    @property
    def seconds(self) -> float:
        """How long the load took."""
        return self.end - self.begin


def tail_of(begins: Floats, seconds: Floats, windows: Sequence[Window], seed: int = 0) -> dict[str, Any]:
    """Return p50 and p99 of both kinds of requests, the ratio of the p99s and its 95 % interval.

    A request counts where it was under way, however briefly; one outside all windows does not count.
    """
    ends = begins + seconds
    quiet = [seconds[(begins < w.quiet_end) & (ends > w.quiet_begin)] for w in windows]
    loading = [seconds[(begins < w.end) & (ends > w.begin)] for w in windows]
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(windows), size=(RESAMPLES, len(windows)))
    ratios = [_p99(loading, draw) / _p99(quiet, draw) for draw in draws]
    everything = np.arange(len(windows))
    found: dict[str, Any] = {}
    for name, kind in (("quiet", quiet), ("loading", loading)):
        pooled = np.concatenate(kind)
        found[f"{name}_requests"] = len(pooled)
        found[f"{name}_p50_ms"] = 1e3 * float(np.median(pooled))
        found[f"{name}_p99_ms"] = 1e3 * _p99(kind, everything)
    found["p99_ratio"] = found["loading_p99_ms"] / found["quiet_p99_ms"]
    found["p99_ratio_interval"] = [float(edge) for edge in np.percentile(ratios, (2.5, 97.5))]
    return found


def _p99(groups: Sequence[Floats], chosen: npt.NDArray[np.int64]) -> float:
    return float(np.percentile(np.concatenate([groups[number] for number in chosen]), 99))
