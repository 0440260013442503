"""How trained tables of low precision are stored: codes as they are, steps in the form the artifact has."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slimctr.compression.low_precision.integer_training import step_floor
from slimctr.compression.low_precision.rounding import nearest_codes
from slimctr.compression.low_precision.start import BLOCK_ROWS
from slimctr.compression.quantization import SHRINK_FACTORS, quantize_columns
from slimctr.errors import CompressionError
from slimctr.networks import FloatTable, HalfTable, QuantizedTable
from slimctr.networks.integer_table import IntegerTable, code_range
from slimctr.networks.learned_step import LearnedStepTable


@torch.no_grad()
def set_untrained_oov_row(table: IntegerTable, counts: NDArray[np.int64]) -> None:
    """Set the out-of-vocabulary row of a field that never met one to the mean row, weighted by training count.

    A row with a step of its own gets the step of least squared error.
    """
    if counts[0] or not counts.sum():
        return
    mean = torch.zeros(1, table.dim, dtype=torch.float64)
    for rows in torch.arange(table.rows).split(BLOCK_ROWS):
        share = torch.from_numpy(counts[rows.numpy()] / counts.sum())
        mean += share @ table.values_of(rows).double()
    first = torch.zeros(1, dtype=torch.int64)
    if table.scope == "row":
        table.steps[0] = _best_step(mean.float(), table.bits)
    table.write(first, nearest_codes(mean.float() / table.steps_of(first), table.bits))


def _best_step(row: Tensor, bits: int) -> float:
    lowest, highest = code_range(bits)
    covering = max(float(row.max()) / highest, float(row.min()) / lowest)
    steps = torch.tensor([max(factor * covering, step_floor(bits)) for factor in SHRINK_FACTORS]).unsqueeze(1)
    errors = (steps * nearest_codes(row / steps, bits) - row).square().sum(dim=1)
    return float(steps[errors.argmin()])


def stored_integer_table(table: IntegerTable, field: str) -> QuantizedTable | HalfTable:
    """Return a trained integer table as it is stored.

    Up to 8 bits the codes stay as they are, shifted to unsigned, and minimum = -2^(bits-1) * step, so that
    reading gives step * code exactly; steps of rows are rounded to float16. A table with one step is stored
    with a step per column, all equal. At 16 bits each value is rounded to float16. Raises CompressionError
    for a step or value beyond float16.
    """
    if table.bits == 16:
        stored = HalfTable(table.rows, table.dim)
        for rows in torch.arange(table.rows).split(BLOCK_ROWS):
            stored.weight[rows] = table.values_of(rows).half()
        _require_finite(stored.weight, field)
        return stored
    lowest, _ = code_range(table.bits)
    if table.scope == "row":
        stored = QuantizedTable(table.rows, table.dim, table.bits, "row")
        steps = table.steps.half()
    else:
        stored = QuantizedTable(table.rows, table.dim, table.bits, "column")
        steps = table.steps.expand(table.dim)
    stored.scales.copy_(steps)
    stored.minimums.copy_(lowest * stored.scales.float())
    _require_finite(stored.minimums, field)
    for rows in torch.arange(table.rows).split(BLOCK_ROWS):
        stored.codes[rows] = (table.codes_of(rows) - lowest).to(torch.uint8)
    return stored


def stored_learned_table(table: LearnedStepTable) -> QuantizedTable:
    """Return the codes of a table trained with a learned step, with a scale and minimum per column."""
    codes, scales, minimums = table.codes()
    return QuantizedTable.from_codes(codes, scales, minimums, bits=table.bits, scale="column")


def stored_wide_table(table: FloatTable, bits: int, counts: NDArray[np.int64]) -> FloatTable | QuantizedTable:
    """Return a trained first-order table with one step for the field, or as it is at 32 bits."""
    if bits == 32:
        return table
    coded = quantize_columns(table.weight.detach().numpy(), bits, counts + 1)
    parts = (torch.from_numpy(part) for part in (coded.codes, coded.scales, coded.minimums))
    return QuantizedTable.from_codes(*parts, bits=bits, scale="column")


def _require_finite(values: Tensor, field: str) -> None:
    if not bool(values.isfinite().all()):
        raise CompressionError(
            f"field '{field}' has grown beyond float16; train it with a lower learning rate or more embedding_l2"
        )
