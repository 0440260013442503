"""Bucketing: numbers to bucket numbers, the integers that numeric fields use as keys."""

import numpy as np
from numpy.typing import NDArray

from slimctr.features.schema import Bucketing
from slimctr.native.keys import MISSING

_LARGEST_INTEGER = 2.0**53 - 1


def bucket_numbers(numbers: NDArray[np.float64], bucketing: Bucketing) -> NDArray[np.int64]:
    """Return the bucket of each finite number, float64 (n,) to int64 (n,); NaN becomes MISSING.

    `log_squared`: floor(ln(v)²) where v > 2, else v without its fraction (everything below -(2^53-1) shares a
    bucket), as is usual for Criteo's integer fields. `edges`: the number of edges ≤ v.
    """
    missing = np.isnan(numbers)
    known = np.where(missing, 0.0, numbers)
    if bucketing.kind == "log_squared":
        buckets = np.where(
            known > 2,
            np.floor(np.log(np.maximum(known, 2)) ** 2),
            np.trunc(np.maximum(known, -_LARGEST_INTEGER)),
        ).astype(np.int64)
    else:
        buckets = np.searchsorted(np.asarray(bucketing.edges), known, side="right").astype(np.int64)
    buckets[missing] = MISSING
    return buckets
