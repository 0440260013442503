"""Which variant a unit gets: a pure function of seed, unit, coverage and weights (GrowthBook hash version 2).

The hash is FNV-1a (32 bits) over ASCII, applied twice; GrowthBook's published vectors are the tests.
Units are ASCII because published SDKs hash UTF-16 units, code points or bytes and differ outside ASCII.
"""

from collections.abc import Sequence

BUCKETS = 10_000
_OFFSET_BASIS = 0x811C9DC5
_PRIME = 0x01000193
_MASK = 0xFFFFFFFF


def fnv1a32(text: str) -> int:
    """Return the 32-bit FNV-1a hash of ASCII `text`; other text is a UnicodeEncodeError (a ValueError)."""
    value = _OFFSET_BASIS
    for byte in text.encode("ascii"):
        value = ((value ^ byte) * _PRIME) & _MASK
    return value


def bucket(seed: str, unit: str) -> int:
    """Return the bucket of a unit, 0 to 9,999."""
    return fnv1a32(str(fnv1a32(seed + unit))) % BUCKETS


def ranges(coverage: float, weights: Sequence[float]) -> list[tuple[float, float]]:
    """Return [start, end) of every variant within [0, 1).

    Plain IEEE doubles added in the order of the weights, not rounded: integer or decimal ranges would put
    units on an edge into another variant than other implementations of this hash do.
    """
    bounds = []
    start = 0.0
    for weight in weights:
        bounds.append((start, start + coverage * weight))
        start += weight
    return bounds


def choose(unit_bucket: int, bounds: Sequence[tuple[float, float]]) -> int | None:
    """Return the index of the first range that holds the bucket, None when the unit is not covered."""
    position = unit_bucket / BUCKETS
    for index, (start, end) in enumerate(bounds):
        if start <= position < end:
            return index
    return None


def drawn_for_shadow(key: str, request_id: str, percent: float) -> bool:
    """Return whether a request is among the `percent` that the shadow of experiment `key` scores."""
    return bucket("shadow:" + key, request_id) < BUCKETS / 100 * percent
