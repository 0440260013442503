"""Standard errors of AUCs against DeLong's formula over all pairs, and against draws."""

import math

import numpy as np
import pytest
from rounding import SUMS64

from slimctr import quality


def rows(seed: int, count: int, decimals: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores that follow them, and scores that follow them less and share their noise."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < 0.3).astype(np.float32)
    shared = rng.normal(size=count)
    scores = (labels + shared).round(decimals)
    return labels, scores, (0.5 * labels + shared + 0.5 * rng.normal(size=count)).round(decimals)


def pairs_won(labels: np.ndarray, z: np.ndarray) -> np.ndarray:
    """1 where a click (row) is above a non-click (column), a half where they tie."""
    ahead = z[labels == 1][:, None] - z[labels == 0][None, :]
    return np.where(ahead > 0, 1.0, np.where(ahead == 0, 0.5, 0.0))


def error_of(won: np.ndarray) -> float:
    clicks, others = won.shape
    return math.sqrt(won.mean(axis=1).var(ddof=1) / clicks + won.mean(axis=0).var(ddof=1) / others)


@pytest.mark.parametrize("decimals", [8, 1, 0])
def test_the_error_is_that_of_all_pairs_with_and_without_ties(decimals: int) -> None:
    labels, scores, _ = rows(1, 300, decimals)
    assert quality.auc_error(labels, scores) == pytest.approx(error_of(pairs_won(labels, scores)), rel=SUMS64)


@pytest.mark.parametrize("decimals", [8, 1, 0])
def test_the_difference_is_paired(decimals: int) -> None:
    labels, scores, others = rows(2, 300, decimals)
    gain, error = quality.auc_difference(labels, scores, others)
    won = pairs_won(labels, scores) - pairs_won(labels, others)
    assert gain == pytest.approx(quality.auc(labels, scores) - quality.auc(labels, others), abs=SUMS64)
    assert error == pytest.approx(error_of(won), rel=SUMS64)
    apart = math.hypot(quality.auc_error(labels, scores), quality.auc_error(labels, others))
    assert error < apart


def test_a_model_does_not_differ_from_itself() -> None:
    labels, scores, _ = rows(3, 200)
    assert quality.auc_difference(labels, scores, scores) == (0.0, 0.0)


def test_the_error_is_the_deviation_over_logs_drawn_anew() -> None:
    drawn = [rows(seed, 400) for seed in range(400)]
    told = np.mean([quality.auc_error(labels, scores) for labels, scores, _ in drawn])
    spread = np.std([quality.auc(labels, scores) for labels, scores, _ in drawn], ddof=1)
    # a deviation of 400 draws is known to 1 / sqrt(800) = 3.5 %: four of these
    assert told == pytest.approx(spread, rel=0.14)


@pytest.mark.parametrize("labels", [[0, 0, 0, 1], [1, 1, 1, 0]])
def test_a_single_click_or_non_click_has_no_error(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="needs two of both"):
        quality.auc_error(labels, [1.0, 2.0, 3.0, 4.0])
