"""Rounding to codes: ties, clipping, unbiased draws, and draws that do not depend on the batch."""

import numpy as np
import pytest
import torch

from slimctr.compression.low_precision.rounding import Rounder, nearest_codes, random_codes, uniform_draws
from slimctr.networks.integer_table import code_range


def test_nearest_codes_take_ties_to_even_and_stay_in_range():
    positions = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 6.6, 7.9, -8.4, -99.0])
    assert nearest_codes(positions, 4).tolist() == [0, 2, 2, 0, -2, 7, 7, -8, -8]


def test_random_codes_go_up_under_the_fraction_and_stay_in_range():
    positions = torch.tensor([1.25, 1.25, -1.25, -1.25, 3.0, 99.0, -99.0])
    draws = torch.tensor([0.24, 0.25, 0.74, 0.75, 0.0, 0.0, 0.9])
    assert random_codes(positions, 4, draws).tolist() == [2, 1, -1, -2, 3, 7, -8]


def test_random_codes_do_not_round_up_a_float_that_is_all_but_a_code():
    """floor(v + draw) in float32 would give 101 here."""
    assert random_codes(torch.tensor([100.0]), 8, torch.tensor([1 - 2**-24])).item() == 100


@pytest.mark.parametrize("position", [0.3, -1.7, 5.05])
def test_repeated_write_backs_average_to_the_value(position):
    repeats, delta = 20_000, 0.01
    rows = torch.arange(repeats)
    codes = Rounder("stochastic", 3).codes(torch.full((repeats, 1), position), 4, step=1, table=0, rows=rows)
    mean = delta * codes.double().mean().item()
    error = 5 * delta / (2 * np.sqrt(repeats))  # five standard errors: a code deviates by half a step at most
    assert mean == pytest.approx(delta * position, abs=error)


def test_out_of_range_values_clip_whatever_the_draw():
    rows = torch.arange(1000)
    codes = Rounder("stochastic", 3).codes(torch.full((1000, 2), 7.9), 4, step=1, table=0, rows=rows)
    assert set(codes.unique().tolist()) == {code_range(4)[1]}


def test_draws_depend_on_seed_step_table_row_and_column_alone():
    rows = torch.tensor([5, 900, 17])
    draws = uniform_draws(1, 2, 3, rows, 4)
    assert torch.equal(uniform_draws(1, 2, 3, rows.flip(0), 4).flip(0), draws)
    assert torch.equal(uniform_draws(1, 2, 3, rows[1:2], 4), draws[1:2])
    for other in ((9, 2, 3), (1, 9, 3), (1, 2, 9)):
        assert not torch.equal(uniform_draws(*other, rows, 4), draws)
    assert len(draws.unique()) == draws.numel()


def test_draws_are_uniform():
    draws = uniform_draws(7, 1, 0, torch.arange(40_000), 5).double().numpy().ravel()
    assert draws.min() >= 0
    assert draws.max() < 1
    expected = len(draws) / 50
    chi_squared = np.square(np.bincount((draws * 50).astype(int), minlength=50) - expected).sum() / expected
    assert chi_squared < 90  # 49 degrees of freedom; p about 3e-4
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 5 / np.sqrt(len(draws))  # five standard errors


def test_deterministic_rounding_stalls_where_stochastic_moves():
    """1,000 updates of 0.0005 on a step of 0.01: 5,000 stochastic runs end at 0.5 on average, sd 0.069."""
    runs, delta, update = 5_000, np.float32(0.01), np.float32(0.0005)
    rows = torch.arange(runs)
    ends = {}
    for rounding in ("stochastic", "deterministic"):
        rounder, codes = Rounder(rounding, 11), torch.zeros(runs, 1)
        for step in range(1000):
            positions = (codes * delta + update) / delta
            codes = rounder.codes(positions, 8, step=step, table=0, rows=rows).float()
        ends[rounding] = (codes * delta).numpy()
    assert (ends["deterministic"] == 0).all()
    # five standard errors of a mean
    assert ends["stochastic"].mean() == pytest.approx(0.5, abs=5 * 0.069 / np.sqrt(runs))
    # of a deviation
    assert ends["stochastic"].std() == pytest.approx(0.069, rel=5 / np.sqrt(2 * runs))
