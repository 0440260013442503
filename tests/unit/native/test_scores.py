"""Probabilities of logits, against the formula in float64."""

import numpy as np
import pytest
from rounding import EXP_UNITS, gamma

from slimctr.native.scores import probabilities, sigmoid


def test_probabilities_are_those_of_the_formula() -> None:
    logits = np.concatenate([[-200, -90, -88, 0, 200], np.random.default_rng(0).normal(0, 9, 5000)]).astype(
        np.float32
    )
    expected = 1 / (1 + np.exp(-logits.astype(np.float64)))
    found, is_finite = probabilities(logits)
    assert is_finite
    assert found.dtype == np.float32
    smallest = np.finfo(np.float32).smallest_normal
    np.testing.assert_allclose(found, expected, rtol=gamma(EXP_UNITS), atol=smallest)
    np.testing.assert_array_equal(sigmoid(logits), found)


def test_a_score_does_not_depend_on_its_neighbours() -> None:
    logits = np.random.default_rng(1).normal(0, 3, 301).astype(np.float32)
    alone = [float(sigmoid(logits[i : i + 1])[0]) for i in range(len(logits))]
    assert sigmoid(logits).tolist() == alone
    assert sigmoid(logits[::2]).tolist() == alone[::2]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 4, 8])
def test_what_is_not_finite_is_noticed_wherever_it_stands(wrong: float, place: int) -> None:
    logits = np.zeros(9, np.float32)
    logits[place] = wrong
    found, is_finite = probabilities(logits)
    assert not is_finite
    assert np.isnan(found[place]) == np.isnan(wrong)
    assert (np.delete(found, place) == 0.5).all()


def test_no_logits_have_no_probabilities() -> None:
    found, is_finite = probabilities(np.empty(0, np.float32))
    assert (len(found), is_finite) == (0, True)


@pytest.mark.parametrize("logits", [np.zeros(2), np.zeros((2, 1), np.float32)])
def test_other_arrays_are_refused(logits: np.ndarray) -> None:
    with pytest.raises(ValueError, match="float32"):
        probabilities(logits)
