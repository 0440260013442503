"""Uniform quantization of rows and columns, in numpy: codes, steps and minimums, and how they read back."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHRINK_FACTORS = tuple(round(1.0 - 0.02 * step, 2) for step in range(26))
_CLIP_FACTORS = tuple(round(1.0 - 0.02 * step, 2) for step in range(46))
_FLOAT16_MAX = float(np.finfo(np.float16).max)
_BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class RowCodes:
    """Codes uint8 (N, d) with a scale and minimum per row (N,): value = scale * code + minimum in float32."""

    codes: NDArray[np.uint8]
    scales: NDArray[np.floating]
    minimums: NDArray[np.floating]

    def values(self) -> NDArray[np.float32]:
        """Dequantized rows (N, d); multiplication and addition are rounded separately."""
        scaled = self.codes.astype(np.float32) * self.scales.astype(np.float32)[:, None]
        return scaled + self.minimums.astype(np.float32)[:, None]


@dataclass(frozen=True)
class ColumnCodes:
    """Codes uint8 (N, d) with a float32 scale and minimum per column (d,)."""

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    minimums: NDArray[np.float32]

    def values(self) -> NDArray[np.float32]:
        """Dequantized rows (N, d); multiplication and addition are rounded separately."""
        return self.codes.astype(np.float32) * self.scales[None, :] + self.minimums[None, :]


def quantize_rows(
    table: NDArray[np.floating],
    bits: int,
    *,
    dtype: type[np.floating] = np.float16,
    shrink: bool | None = None,
) -> RowCodes:
    """Quantize each row of `table` (N, d) on its own range.

    Scale and minimum are rounded to `dtype` first and the codes are taken from the rounded values, so the
    codes are the best for what will be read. With `shrink` (default: below 8 bits) the range is also tried
    narrowed about its middle by 1.00, 0.98, .., 0.50 and each row keeps the factor of its least squared
    error. A constant row has scale 0 and codes 0. Raises ValueError for values that are not finite or do
    not fit `dtype`.
    """
    values = np.asarray(table, dtype=np.float32)
    _require_finite(values)
    if dtype is np.float16 and values.size and float(np.abs(values).max()) > _FLOAT16_MAX:
        raise ValueError(f"a value of magnitude above {_FLOAT16_MAX:.0f} does not fit a float16 minimum")
    factors = SHRINK_FACTORS if (bits < 8 if shrink is None else shrink) else (1.0,)
    codes = np.empty(values.shape, dtype=np.uint8)
    scales, minimums = np.empty(len(values), dtype=dtype), np.empty(len(values), dtype=dtype)
    for start in range(0, len(values), _BLOCK_ROWS):
        part = slice(start, start + _BLOCK_ROWS)
        codes[part], scales[part], minimums[part] = _best_rows(values[part], bits, dtype, factors)
    return RowCodes(codes, scales, minimums)


def _best_rows(
    values: NDArray[np.float32], bits: int, dtype: type[np.floating], factors: tuple[float, ...]
) -> tuple[NDArray[np.uint8], NDArray[np.floating], NDArray[np.floating]]:
    low, high = values.min(axis=1).astype(np.float64), values.max(axis=1).astype(np.float64)
    middle, spread = (low + high) / 2, high - low
    best_error = np.full(len(values), np.inf)
    codes = np.zeros(values.shape, dtype=np.uint8)
    scales, minimums = np.zeros(len(values), dtype=dtype), np.zeros(len(values), dtype=dtype)
    for factor in factors:
        start = low if factor == 1.0 else middle - factor * spread / 2
        trial_minimum = start.astype(dtype)
        trial_scale = (factor * spread / (2**bits - 1)).astype(dtype)
        trial = _nearest(values, trial_scale[:, None], trial_minimum[:, None], bits)
        error = np.square(
            RowCodes(trial, trial_scale, trial_minimum).values().astype(np.float64) - values
        ).sum(1)
        better = error < best_error
        codes[better], scales[better], minimums[better] = (
            trial[better],
            trial_scale[better],
            trial_minimum[better],
        )
        best_error[better] = error[better]
    return codes, scales, minimums


def quantize_columns(
    table: NDArray[np.floating], bits: int, weights: NDArray[np.generic] | None = None
) -> ColumnCodes:
    """Quantize each column of `table` (N, d) with one step, clipped where the squared error is least.

    The range of a column is tried narrowed toward its (weighted) mean by 1.00, 0.98, .., 0.10; errors count
    row i `weights[i]` times. The step of a column folds into the basis of a low-rank table. Raises
    ValueError for values that are not finite.
    """
    values = np.asarray(table, dtype=np.float32)
    _require_finite(values)
    share = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not share.any():
        share = np.ones(len(values))
    codes = np.zeros(values.shape, dtype=np.uint8)
    scales, minimums = np.zeros(values.shape[1], np.float32), np.zeros(values.shape[1], np.float32)
    for j in range(values.shape[1]):
        codes[:, j], scales[j], minimums[j] = _best_column(values[:, j], bits, share)
    return ColumnCodes(codes, scales, minimums)


def _best_column(
    column: NDArray[np.float32], bits: int, share: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], np.float32, np.float32]:
    center = float(share @ column.astype(np.float64) / share.sum())
    low, high = float(column.min()), float(column.max())
    best = (np.zeros(len(column), np.uint8), np.float32(0.0), np.float32(center))
    best_error = float(share @ np.square(column.astype(np.float64) - np.float32(center)))
    for factor in _CLIP_FACTORS:
        minimum = np.float32(center + factor * (low - center))
        scale = np.float32(factor * (high - low) / (2**bits - 1))
        codes = _nearest(column, scale, minimum, bits)
        read = codes.astype(np.float32) * scale + minimum
        error = float(share @ np.square(column.astype(np.float64) - read))
        if error < best_error:
            best, best_error = (codes, scale, minimum), error
    return best


def _nearest(
    values: NDArray[np.float32],
    scale: NDArray[np.floating] | np.float32,
    minimum: NDArray[np.floating] | np.float32,
    bits: int,
) -> NDArray[np.uint8]:
    """Nearest code, ties to even, clipped to 0 .. 2^bits - 1; 0 where the scale is 0."""
    step = np.asarray(scale, dtype=np.float64)
    safe = np.where(step > 0, step, 1.0)
    position = np.rint((values.astype(np.float64) - np.asarray(minimum, dtype=np.float64)) / safe)
    return np.where(step > 0, np.clip(position, 0, 2**bits - 1), 0).astype(np.uint8)


def _require_finite(values: NDArray[np.float32]) -> None:
    if not np.isfinite(values).all():
        raise ValueError("the table holds values that are not finite")
