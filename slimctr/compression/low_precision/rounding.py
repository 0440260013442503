"""Rounding to a grid of signed codes: to the nearest, or up with a probability equal to the fraction."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from slimctr.networks.integer_table import code_range

Rounding = Literal["stochastic", "deterministic"]

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def nearest_codes(positions: Tensor, bits: int) -> Tensor:
    """Nearest code int32 of positions v = w / step, ties to even, clipped to the range of `bits`."""
    return positions.round().clamp(*code_range(bits)).int()


def random_codes(positions: Tensor, bits: int, draws: Tensor) -> Tensor:
    """Code below or above v = w / step, above where the uniform draw in [0, 1) is under the fraction of v.

    The expectation is v inside the range; codes are clipped to it. The fraction is compared apart from the
    integer part, because floor(v + draw) in float32 rounds up too often.
    """
    below = positions.floor()
    codes = below + (draws < positions - below)
    return codes.clamp(*code_range(bits)).int()


def uniform_draws(seed: int, step: int, table: int, rows: Tensor, dim: int) -> Tensor:
    """Uniform float32 draws (n, dim) in [0, 1) for rows (n,) of a table at a training step.

    A draw depends on seed, step, table, row and column alone, not on the other rows of the batch or on their
    order: the output of splitmix64 at position row * dim + column of a stream of its own.
    """
    stream = np.random.SeedSequence([seed, step, table]).generate_state(1, np.uint64)[0]
    positions = rows.numpy().astype(np.uint64)[:, None] * np.uint64(dim) + np.arange(dim, dtype=np.uint64)
    mixed = stream + (positions + np.uint64(1)) * _GOLDEN_GAMMA
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
    mixed ^= mixed >> np.uint64(31)
    return torch.from_numpy((mixed >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24))


@dataclass(frozen=True)
class Rounder:
    """Turns positions v = w / step into codes, by `rounding`; `seed` makes stochastic draws repeatable."""

    rounding: Rounding
    seed: int

    def codes(self, positions: Tensor, bits: int, *, step: int, table: int, rows: Tensor) -> Tensor:
        """Return the codes int32 (n, d) of positions (n, d) of `rows` of a table at a training step."""
        if self.rounding == "deterministic":
            return nearest_codes(positions, bits)
        return random_codes(positions, bits, uniform_draws(self.seed, step, table, rows, positions.shape[1]))
