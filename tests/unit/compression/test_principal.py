"""Golden table of the specification, streaming merges, sign rule and rank policies."""

import numpy as np
import pytest
from rounding import SUMS64

from slimctr.compression.principal import (
    Moments,
    energy_rank,
    greedy_ranks,
    principal_axes,
    second_moment,
)

TABLE = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [-1.0, 3.0]])
COUNTS = np.array([8, 1, 1, 0])


def test_golden_table():
    moments = Moments.of(TABLE, COUNTS)
    axes = principal_axes(moments.covariance)
    np.testing.assert_allclose(moments.mean, [1.0, 0.3])
    np.testing.assert_allclose(axes.eigenvalues, [0.45, 0.16])
    np.testing.assert_allclose(axes.basis(1)[:, 0], [0.371391, 0.928477], atol=1e-6)  # six digits
    codes = (TABLE - moments.mean) @ axes.basis(1)
    np.testing.assert_allclose(
        codes[:, 0], [-0.278543, 0.278543, 1.949801, 1.764106], atol=1e-6
    )  # six digits


def test_uniform_weights_give_another_basis():
    weighted = principal_axes(Moments.of(TABLE, COUNTS).covariance)
    uniform = principal_axes(Moments.of(TABLE).covariance)
    assert abs(weighted.vectors[:, 0] @ uniform.vectors[:, 0]) < 0.99


def test_mean_is_taken_per_column_when_rows_equal_columns():
    square = np.random.default_rng(0).normal(size=(5, 5)) + np.arange(5)
    moments = Moments.of(square, np.ones(5))
    centered = square - square.mean(axis=0)
    np.testing.assert_allclose(moments.scatter, centered.T @ centered, atol=SUMS64)


def test_counts_equal_repeated_rows():
    counts = np.array([3, 0, 2, 5])
    repeated = np.repeat(TABLE, counts, axis=0)
    np.testing.assert_allclose(Moments.of(TABLE, counts).scatter, Moments.of(repeated).scatter, atol=SUMS64)


def test_streamed_batches_equal_one_pass():
    rows = np.random.default_rng(1).normal(size=(1000, 6))
    streamed = Moments.empty(6)
    for part in np.array_split(rows, 7):
        streamed = streamed.merged(Moments.of(part))
    whole = Moments.of(rows)
    np.testing.assert_allclose(streamed.mean, whole.mean, atol=SUMS64)
    np.testing.assert_allclose(streamed.covariance, whole.covariance, atol=SUMS64)


def test_two_batches_differ_from_one_counted_twice():
    rng = np.random.default_rng(2)
    first, second = Moments.of(rng.normal(size=(50, 3))), Moments.of(rng.normal(size=(50, 3)))
    assert not np.allclose(first.merged(second).covariance, first.merged(first).covariance)


def test_merging_keeps_the_digits_of_a_far_mean():
    rng = np.random.default_rng(3)
    rows = 1e6 + rng.normal(scale=1e-2, size=(4000, 2))
    streamed = Moments.empty(2)
    for part in np.array_split(rows, 40):
        streamed = streamed.merged(Moments.of(part))
    # a deviation of 1e-2 from 1e6 is known to 2^-53 1e6 / 1e-2, about 1e-8 of it
    np.testing.assert_allclose(np.diag(streamed.covariance), rows.var(axis=0), rtol=1e-6)


def test_empty_moments_change_nothing():
    moments = Moments.of(TABLE)
    assert Moments.empty(2).merged(moments) is moments
    assert moments.merged(Moments.empty(2)) is moments
    assert Moments.of(TABLE, np.zeros(4)).weight == 0.0


def test_weights_of_the_wrong_length_are_refused():
    with pytest.raises(ValueError, match="4 weights"):
        Moments.of(TABLE, np.ones(3))


def test_largest_entry_of_an_axis_is_positive():
    rows = np.random.default_rng(4).normal(size=(200, 9)) * np.arange(1, 10)
    axes = principal_axes(Moments.of(rows).covariance)
    peaks = axes.vectors[np.abs(axes.vectors).argmax(axis=0), np.arange(9)]
    assert (peaks > 0).all()
    assert (np.diff(axes.eigenvalues) <= 0).all()


def test_mean_squared_error_of_a_rank_is_the_tail():
    rows = np.random.default_rng(5).normal(size=(500, 8)) * np.linspace(3, 0.1, 8)
    moments = Moments.of(rows)
    axes = principal_axes(moments.covariance)
    for rank in (1, 3, 8):
        basis = axes.basis(rank)
        back = moments.mean + (rows - moments.mean) @ basis @ basis.T
        assert np.square(rows - back).sum(1).mean() == pytest.approx(axes.tail(rank), abs=SUMS64)
        np.testing.assert_allclose(back.mean(axis=0), rows.mean(axis=0), atol=SUMS64)


def test_uncentered_axes_are_those_of_a_singular_value_decomposition():
    rows = np.random.default_rng(6).normal(size=(40, 5)) + 2
    basis = principal_axes(second_moment(rows)).basis(2)
    left, singular, right = np.linalg.svd(rows, full_matrices=False)
    best = (left[:, :2] * singular[:2]) @ right[:2]
    np.testing.assert_allclose(rows @ basis @ basis.T, best, atol=SUMS64)


def test_weighting_by_count_lowers_the_weighted_error():
    rng = np.random.default_rng(7)
    counts = (1e5 / np.arange(1, 501) ** 1.1).astype(np.int64)
    mixing = rng.normal(size=(16, 16)) * (2.0 ** -np.arange(16))[None, :]
    rows = rng.normal(size=(500, 16)) @ mixing.T + rng.normal(size=16)
    rows[:20] = rng.normal(size=(20, 16))
    share = counts / counts.sum()

    def weighted_error(mean, basis):
        back = mean + (rows - mean) @ basis @ basis.T
        return float(share @ np.square(rows - back).sum(1))

    weighted, plain = Moments.of(rows, counts), Moments.of(rows)
    with_counts = weighted_error(weighted.mean, principal_axes(weighted.covariance).basis(2))
    without = weighted_error(plain.mean, principal_axes(plain.covariance).basis(2))
    by_svd = weighted_error(np.zeros(16), principal_axes(second_moment(rows)).basis(2))
    assert with_counts < without
    assert with_counts < by_svd


def test_energy_rank():
    spectrum = np.array([6.0, 3.0, 0.9, 0.1])
    assert energy_rank(spectrum, 0.6) == 1
    assert energy_rank(spectrum, 0.95) == 3
    assert energy_rank(spectrum, 1.0) == 4
    assert energy_rank(np.zeros(4), 0.95) == 1


def test_greedy_ranks_spend_the_budget_where_variance_is_cheapest():
    spectra = [np.array([5.0, 4.0, 1.0]), np.array([5.0, 4.0, 1.0])]
    assert greedy_ranks(spectra, [10, 1000], budget_bytes=4 * (30 + 1000)) == [3, 1]
    assert greedy_ranks(spectra, [10, 1000], budget_bytes=4 * 3030) == [3, 3]
    with pytest.raises(ValueError, match="budget"):
        greedy_ranks(spectra, [10, 1000], budget_bytes=100)
