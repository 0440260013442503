"""Golden codes of the specification and the error bounds of row and column quantization."""

import numpy as np
import pytest
from rounding import FEW32, SUMS64

from slimctr.compression.quantization import quantize_columns, quantize_rows

ROW = np.array([[-0.12, 0.03, 0.0, 0.21]])


@pytest.mark.parametrize(("bits", "codes"), [(8, [0, 116, 93, 255]), (4, [0, 7, 5, 15]), (2, [0, 1, 1, 3])])
def test_golden_row(bits, codes):
    assert quantize_rows(ROW, bits, dtype=np.float32, shrink=False).codes[0].tolist() == codes


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_error_is_at_most_half_a_step_without_shrinking(bits):
    table = np.random.default_rng(0).normal(size=(300, 12))
    coded = quantize_rows(table, bits, dtype=np.float32, shrink=False)
    error = np.abs(coded.values() - table)
    assert (error <= coded.scales[:, None] / 2 + FEW32 * np.abs(table).max()).all()


@pytest.mark.parametrize("bits", [2, 4])
def test_shrinking_never_adds_error_and_helps_outliers(bits):
    rng = np.random.default_rng(1)
    table = rng.normal(size=(200, 16))
    table[:, 0] *= 6
    plain = np.square(quantize_rows(table, bits, shrink=False).values() - table).sum(1)
    searched = np.square(quantize_rows(table, bits).values() - table).sum(1)
    assert (searched <= plain * (1 + SUMS64)).all()
    assert searched.sum() < 0.95 * plain.sum()


def test_codes_come_from_the_rounded_scale():
    table = np.random.default_rng(2).normal(size=(100, 16)) * 10
    coded = quantize_rows(table, 8)
    assert coded.scales.dtype == np.float16
    position = (table - coded.minimums.astype(np.float64)[:, None]) / coded.scales.astype(np.float64)[:, None]
    expected = np.clip(np.rint(position.astype(np.float64)), 0, 255)
    assert np.mean(coded.codes == expected) > 0.999


def test_constant_row_has_scale_and_codes_zero():
    coded = quantize_rows(np.full((2, 5), 0.25), 4)
    assert not coded.codes.any()
    assert not coded.scales.any()
    np.testing.assert_array_equal(coded.values(), 0.25)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e5])
def test_values_that_cannot_be_stored_are_refused(value):
    with pytest.raises(ValueError, match=r"finite|fit"):
        quantize_rows(np.array([[0.0, value]]), 8)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_step_per_column_beats_one_step_for_all(bits):
    rng = np.random.default_rng(3)
    table = rng.normal(size=(2000, 8)) * 2.0 ** -np.arange(8)
    per_column = np.square(quantize_columns(table, bits).values() - table).mean()
    flat = quantize_columns(table.reshape(-1, 1), bits).values().reshape(table.shape)
    assert per_column < np.square(flat - table).mean()


def test_column_clipping_follows_the_weights():
    column = np.concatenate([np.random.default_rng(4).normal(size=999), [100.0]])[:, None]
    rare = quantize_columns(column, 4, weights=np.r_[np.ones(999), 0.0])
    plain = quantize_columns(column, 4)
    head = slice(0, 999)
    assert (
        np.square(rare.values()[head] - column[head]).sum()
        < np.square(plain.values()[head] - column[head]).sum()
    )


def test_constant_column_reads_back_exactly():
    coded = quantize_columns(np.full((7, 1), 1.5), 8)
    np.testing.assert_array_equal(coded.values(), 1.5)
    assert not coded.codes.any()
