"""Mask arithmetic against naive loops, by hand, and on a problem whose answer is known."""

import numpy as np
import pytest
from rounding import SUMS64

from slimctr.compression.column_masks import ColumnBudget, MaskState, final_mask, keep_columns, step


def budget(rows=(100, 10, 1), dim=4, ratio=0.5, cost="bytes"):
    return ColumnBudget.of(rows, dim, ratio, cost)


def test_the_whole_costs_one_either_way():
    for cost in ("bytes", "dims"):
        made = budget(cost=cost)
        assert made.share(np.ones((3, 4), bool)) == 1.0
        assert 4 * made.costs.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(budget().costs, np.array([100, 10, 1]) / (4 * 111))
    np.testing.assert_allclose(budget(cost="dims").costs, np.full(3, 1 / 12))


def test_bytes_and_dims_are_different_budgets():
    mask = np.zeros((3, 4), bool)
    mask[0, 0] = mask[1] = mask[2] = True
    assert budget(cost="dims").share(mask) == pytest.approx(9 / 12)
    assert budget(cost="bytes").share(mask) == pytest.approx((100 + 40 + 4) / 444)


def test_a_budget_below_one_column_per_field_is_refused():
    assert budget(ratio=0.25).limit == 111
    with pytest.raises(ValueError, match="less than the one that every field keeps"):
        budget(ratio=0.249)


def test_one_step_by_hand():
    """a = .01, eta 1, q = 2, kappa = .25: column 0 falls by gz + .5 to the bound, column 1 rises."""
    made = ColumnBudget.of([7], 2, 0.5, "dims")
    state = MaskState(np.array([[0.01, -0.004]]), 0.01, np.array([[1.0, 0.5]]))
    after = step(state, np.array([[0.003, -0.02]]), made, mask_rate=1.0, price_rate=1e-3)
    np.testing.assert_allclose(after.auxiliary, [[0.01 - (0.003 + 0.01 * 0.5), -0.004 + 0.02 - 0.005]])
    assert after.price == 0.01  # one of two columns is alive: exactly the budget
    np.testing.assert_allclose(after.duty, [[1.0, 0.998 * 0.5]])
    dearer = step(MaskState.initial(1, 2), np.zeros((1, 2)), made, mask_rate=1.0, price_rate=1e-3)
    assert dearer.price == pytest.approx(1e-3 * 0.5)
    cheap = step(MaskState(np.full((1, 2), -0.01), 1e-4, np.ones((1, 2))), np.zeros((1, 2)), made,
                 mask_rate=1.0, price_rate=1e-3)  # fmt: skip
    assert cheap.price == 0.0


def naive_step(a, q, s, gradient, units, dim, ratio, eta, eta_q):
    whole = sum(unit * dim for unit in units)
    new_a, new_s, cost = [], [], 0.0
    for f, unit in enumerate(units):
        new_a.append([])
        new_s.append([])
        for j in range(dim):
            z = 1 if a[f][j] > 0 else 0
            cost += unit / whole * z
            new_a[f].append(min(max(a[f][j] - eta * (gradient[f][j] + q * unit / whole), -0.02), 0.02))
            new_s[f].append(0.998 * s[f][j] + 0.002 * z)
    return new_a, max(0.0, q + eta_q * (cost - ratio)), new_s


@pytest.mark.parametrize("cost", ["bytes", "dims"])
def test_steps_follow_the_equations_one_number_at_a_time(cost):
    rng = np.random.default_rng(1)
    rows = (40, 7, 3)
    made = ColumnBudget.of(rows, 5, 0.4, cost)
    units = rows if cost == "bytes" else (1, 1, 1)
    state = MaskState.initial(3, 5)
    a, q, s = state.auxiliary.tolist(), 0.0, state.duty.tolist()
    for _ in range(60):
        gradient = rng.normal(scale=0.01, size=(3, 5))
        state = step(state, gradient, made, mask_rate=0.7, price_rate=0.05)
        a, q, s = naive_step(a, q, s, gradient, units, 5, 0.4, 0.7, 0.05)
    np.testing.assert_allclose(state.auxiliary, a, rtol=SUMS64)
    np.testing.assert_allclose(state.duty, s, rtol=SUMS64)
    assert state.price == pytest.approx(q, rel=SUMS64)
    assert state.mask.dtype == bool
    assert 0 < state.mask.sum() < 15


def test_a_column_that_was_forced_off_comes_back_when_the_loss_misses_it():
    made = ColumnBudget.of([5], 3, 0.9, "dims")
    state = MaskState(np.array([[0.01, -0.02, -0.02]]), 0.0, np.ones((1, 3)))
    assert state.mask.tolist() == [[True, False, False]]
    for _ in range(10):
        state = step(state, np.array([[0.0, -0.003, 0.0]]), made, mask_rate=1.0, price_rate=1e-3)
    assert state.mask.tolist() == [[True, True, False]]


def naive_keep(scores, units, limit):
    """Best column of every field, then all others by falling score while they fit."""
    fields, dim = scores.shape
    kept = {(f, max(range(dim), key=lambda j: (scores[f, j], -j))) for f in range(fields)}
    left = limit - sum(units)
    others = [(f, j) for f in range(fields) for j in range(dim) if (f, j) not in kept]
    for f, j in sorted(others, key=lambda place: (-scores[place], place)):
        if units[f] <= left:
            kept.add((f, j))
            left -= units[f]
    return kept


@pytest.mark.parametrize("ratio", [0.2, 0.34, 0.5, 0.9])
@pytest.mark.parametrize("cost", ["bytes", "dims"])
def test_columns_are_kept_like_one_at_a_time(ratio, cost):
    rng = np.random.default_rng(3)
    rows = [500, 20, 80, 3]
    made = ColumnBudget.of(rows, 6, ratio, cost)
    for scores in (rng.random((4, 6)), rng.integers(0, 3, (4, 6)).astype(float)):
        mask = keep_columns(scores, made)
        expected = naive_keep(scores, made.units.tolist(), made.limit)
        assert {tuple(place) for place in np.argwhere(mask).tolist()} == expected
        assert mask.any(axis=1).all()
        assert made.share(mask) <= ratio


def test_a_column_too_dear_makes_room_for_cheaper_ones():
    scores = np.array([[0.9, 0.8, 0.7], [0.6, 0.2, 0.1]])
    mask = keep_columns(scores, ColumnBudget.of([10, 1], 3, 16 / 33, "bytes"))
    assert mask.tolist() == [[True, False, False], [True, True, True]]


def test_equal_duty_goes_by_the_auxiliary_value():
    state = MaskState(np.array([[0.01, 0.02, 0.015]]), 0.0, np.ones((1, 3)))
    made = ColumnBudget.of([4], 3, 2 / 3, "dims")
    assert final_mask(state, made).tolist() == [[False, True, True]]


@pytest.mark.parametrize("ratio", [0.5, 0.25])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_search_finds_the_columns_whose_removal_costs_most(seed, ratio):
    """A logistic regression of 24 columns, their effects a tenth apart: removal of each is simply computed."""
    rng = np.random.default_rng(seed)
    fields, dim, rows = 4, 6, 20_000
    scales = rng.permutation(0.5 * 0.9 ** np.arange(24))
    x = rng.normal(size=(rows, 24)) * scales
    clicked = (rng.random(rows) < 1 / (1 + np.exp(-0.8 * x.sum(axis=1)))).astype(float)
    weight = trained(x, clicked)

    def loss(mask):
        logits = x @ (weight * mask)
        return np.mean(np.logaddexp(0, logits) - clicked * logits)

    missed = np.array([loss(1.0 - np.eye(24)[column]) for column in range(24)])
    made = ColumnBudget.of([1] * fields, dim, ratio, "dims")
    state = MaskState.initial(fields, dim)
    for _ in range(1_200):
        rows_of_batch = rng.integers(0, rows, 4_000)
        batch = x[rows_of_batch] * weight
        error = 1 / (1 + np.exp(-batch @ state.mask.ravel())) - clicked[rows_of_batch]
        gradient = error @ batch / len(batch)
        state = step(state, gradient.reshape(fields, dim), made, mask_rate=1.0, price_rate=1e-3)
    kept = final_mask(state, made).ravel()
    assert kept.sum() == round(24 * ratio)
    assert missed[kept].min() > 0.85 * missed[~kept].max()  # near ties may fall either way


def trained(x, clicked):
    weight = np.zeros(x.shape[1])
    for _ in range(8):
        chance = 1 / (1 + np.exp(-x @ weight))
        curvature = (x * (chance * (1 - chance))[:, None]).T @ x
        weight += np.linalg.solve(curvature, x.T @ (clicked - chance))
    return weight
