"""Trains integer tables inside the training loop: rows of the batch, their steps, and the way back to codes."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimctr.compression.low_precision.rounding import Rounder, nearest_codes
from slimctr.compression.low_precision.row_optimizers import (
    RowOptimizer,
    RowOptimizerName,
    build_row_optimizer,
)
from slimctr.networks import CtrModel
from slimctr.networks.integer_table import IntegerTable, ReadRows, code_range

SMALLEST_STORED_STEP = 2.0**-14
_SMALLEST_STEP = 1e-8
_BOUNDARY = 1e-6


def step_floor(bits: int) -> float:
    """The smallest step a row may have: the smallest normal float16, or 1e-8 at 16 bits, where no step is stored."""
    return _SMALLEST_STEP if bits == 16 else SMALLEST_STORED_STEP


def step_gradient(values: Tensor, steps: Tensor, upstream: Tensor, bits: int, batch_rows: int) -> Tensor:
    """Gradient (T,) of the loss in the steps (T, 1) of rows with values (T, d) and upstream gradient (T, d).

    `upstream` is the gradient in the quantized rows, summed over their repeats in the batch. A coordinate on the
    edge of the range counts as clipped, although step * code / step may miss it by a rounding. Scaled by
    1 / sqrt(B d (2^(b-1) - 1)). Source: arXiv 2212.05735, step 2 of its iteration.
    """
    lowest, highest = code_range(bits)
    positions = values / steps
    slope = positions.round() - positions
    slope = torch.where(positions <= lowest + _BOUNDARY * -lowest, float(lowest), slope)
    slope = torch.where(positions >= highest - _BOUNDARY * highest, float(highest), slope)
    return (slope * upstream).sum(dim=1) / math.sqrt(batch_rows * values.shape[1] * highest)


@dataclass(frozen=True)
class RowLearning:
    """How rows are trained: optimizer, multiple of the network's learning rate, rounding on the way back."""

    optimizer: RowOptimizerName
    rate_factor: float
    rounder: Rounder


class IntegerTraining:
    """The row trainer of a model with integer tables (`slimctr.training.trainer.RowTrainer`).

    A step gives the rows of the batch their gradient step in float32 and rounds them back to codes. With
    `step_rate`, the steps of those rows are learned in between, from a second pass over the same batch in which
    the new rows are rounded to the nearest code and the network has its new weights; rows are then written
    with their new steps. Rows that the batch did not read keep codes, steps and optimizer state.
    """

    def __init__(self, model: CtrModel, learning: RowLearning, step_rate: float | None = None) -> None:
        self._model = model
        self._tables = [table for table in model.tables if isinstance(table, IntegerTable)]
        self._learning = learning
        self._step_rate = step_rate
        self._rows = [build_row_optimizer(learning.optimizer, t.rows, t.dim) for t in self._tables]
        self._steps: list[RowOptimizer] = (
            []
            if step_rate is None
            else [build_row_optimizer(learning.optimizer, t.rows) for t in self._tables]
        )
        self._batches = 0

    def read_rows(self) -> list[Tensor]:
        """Return the rows of the last forward pass (T, d), one tensor per table, with their gradients."""
        return [table.last_read.values for table in self._tables]

    def step(self, rate: float, peak_share: float, batch_rows: int, loss: Callable[[], Tensor]) -> None:
        """Train the rows of the last forward pass and let go of them.

        `rate` is the learning rate of the network, `peak_share` what it is of its peak; `loss` runs the model on
        the same batch again.
        """
        self._batches += 1
        updated = [
            optimizer.updated(
                read.rows, read.values.detach(), read.values.grad, rate * self._learning.rate_factor
            )
            for optimizer, read in zip(self._rows, self._reads(), strict=True)
        ]
        if self._step_rate is not None:
            self._learn_steps(updated, self._step_rate * peak_share, batch_rows, loss)
        for index, (table, read, values) in enumerate(zip(self._tables, self._reads(), updated, strict=True)):
            codes = self._learning.rounder.codes(
                values / table.steps_of(read.rows),
                table.bits,
                step=self._batches,
                table=index,
                rows=read.rows,
            )
            table.write(read.rows, codes)
            table.forget()

    def held(self) -> list[Tensor]:
        """Return every tensor that stays between steps, tables not included."""
        return [tensor for optimizer in (*self._rows, *self._steps) for tensor in optimizer.held()]

    def _reads(self) -> list[ReadRows]:
        return [table.last_read for table in self._tables]

    def _learn_steps(
        self, updated: Sequence[Tensor], rate: float, batch_rows: int, loss: Callable[[], Tensor]
    ) -> None:
        before = [table.steps_of(read.rows) for table, read in zip(self._tables, self._reads(), strict=True)]
        for table, values, steps in zip(self._tables, updated, before, strict=True):
            table.substitute = (steps * nearest_codes(values / steps, table.bits)).requires_grad_()
        with _frozen_statistics(self._model):
            upstream = torch.autograd.grad(loss(), [table.substitute for table in self._tables])
        for table, read, optimizer, values, steps, gradient in zip(
            self._tables, self._reads(), self._steps, updated, before, upstream, strict=True
        ):
            slope = step_gradient(values, steps, gradient, table.bits, batch_rows)
            learned = optimizer.updated(read.rows, steps.squeeze(1), slope, rate)
            table.steps[read.rows] = learned.clamp(min=step_floor(table.bits))


@contextmanager
def _frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Keep batch-norms on the statistics of the batch, without adding them to the running ones."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
