"""Mixes integers into random-looking bits, for splits and weights that are functions of a number and a seed."""

import numpy as np

from slimctr.errors import ConfigError

MAX_SEED = 2**32 - 1


def check_seed(seed: int) -> None:
    """Raise ConfigError for a seed outside 0 to MAX_SEED."""
    if not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"seed {seed!r} does not lie between 0 and {MAX_SEED}")


def mix64(z: np.ndarray | np.uint64) -> np.ndarray | np.uint64:
    """Return the splitmix64 finalizer (Steele, Lea and Flood 2014) of every uint64, a bijection."""
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def uniform(z: np.ndarray) -> np.ndarray:
    """Map mixed uint64 (n,) to float64 (n,) in [0, 1)."""
    return (z >> np.uint64(11)) * 2.0**-53


def hashed_position(numbers: np.ndarray, seed: int) -> np.ndarray:
    """Map row numbers uint64 (n,) to float64 (n,) in [0, 1), evenly and independently of their order."""
    with np.errstate(over="ignore"):
        return uniform(
            mix64((numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + mix64(np.uint64(seed + 1)))
        )
