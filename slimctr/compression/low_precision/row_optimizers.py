"""Optimizers of table rows that keep state per row and touch only the rows of a batch."""

from typing import Literal, Protocol

import torch
from torch import Tensor

RowOptimizerName = Literal["adam", "row_adagrad"]

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


class RowOptimizer(Protocol):
    """Gives the next values of some rows and remembers what it needs about them."""

    def updated(self, rows: Tensor, values: Tensor, gradient: Tensor, rate: float) -> Tensor:
        """Return new values of rows (T,), which are distinct; values and gradient (T, d) or (T,)."""

    def held(self) -> list[Tensor]:
        """Return the tensors that stay between steps."""


class RowAdam:
    """Adam whose two moments, of the shape of the table, move only for the rows of a batch.

    The bias correction counts steps of the training, as torch's SparseAdam does. Takes 8 bytes per value.
    """

    def __init__(self, *shape: int) -> None:
        self._first, self._second = torch.zeros(shape), torch.zeros(shape)
        self._steps = 0

    def updated(self, rows: Tensor, values: Tensor, gradient: Tensor, rate: float) -> Tensor:
        """Return values minus the Adam step."""
        self._steps += 1
        first = torch.lerp(self._first[rows], gradient, 1 - _BETA_1)
        second = torch.lerp(self._second[rows], gradient.square(), 1 - _BETA_2)
        self._first[rows], self._second[rows] = first, second
        mean = first / (1 - _BETA_1**self._steps)
        deviation = (second / (1 - _BETA_2**self._steps)).sqrt()
        return values - rate * mean / (deviation + _EPSILON)

    def held(self) -> list[Tensor]:
        """Return both moments."""
        return [self._first, self._second]


class RowAdagrad:
    """Adagrad with one accumulator per row, of the mean squared gradient of the row. Takes 4 bytes per row."""

    def __init__(self, *shape: int) -> None:
        self._sums = torch.zeros(shape[0])

    def updated(self, rows: Tensor, values: Tensor, gradient: Tensor, rate: float) -> Tensor:
        """Return values minus the Adagrad step."""
        sums = self._sums[rows] + gradient.square().reshape(len(rows), -1).mean(dim=1)
        self._sums[rows] = sums
        deviation = sums.sqrt().reshape(-1, *[1] * (values.ndim - 1))
        return values - rate * gradient / (deviation + _EPSILON)

    def held(self) -> list[Tensor]:
        """Return the accumulators."""
        return [self._sums]


def build_row_optimizer(name: RowOptimizerName, *shape: int) -> RowOptimizer:
    """Return the optimizer of a table of this shape, or of its steps (rows,)."""
    return RowAdam(*shape) if name == "adam" else RowAdagrad(*shape)
