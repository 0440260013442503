"""Exact metrics against scikit-learn and naive loops."""

import math

import numpy as np
import pytest
from rounding import SUMS64
from sklearn.metrics import log_loss, roc_auc_score

from slimctr import quality


def clicks(seed: int, rows: int, decimals: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1.5, 1.2, rows).astype(np.float32)
    if decimals is not None:
        logits = logits.round(decimals)
    labels = (rng.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    return labels, logits


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_auc_is_scikit_learns_with_and_without_ties(decimals: int | None) -> None:
    labels, logits = clicks(1, 5000, decimals)
    assert quality.auc(labels, logits) == pytest.approx(roc_auc_score(labels, logits), abs=SUMS64)


def test_auc_is_the_share_of_ordered_pairs_with_half_a_point_for_ties() -> None:
    labels, logits = clicks(2, 120, 0)
    won = [1.0 if a > b else 0.5 if a == b else 0.0 for a in logits[labels == 1] for b in logits[labels == 0]]
    assert quality.auc(labels, logits) == pytest.approx(sum(won) / len(won), abs=SUMS64)


def test_auc_of_constant_scores_is_one_half() -> None:
    assert quality.auc([0, 1, 1, 0, 0], [3.0] * 5) == 0.5


def test_logloss_is_scikit_learns() -> None:
    labels, logits = clicks(3, 4000)
    expected = log_loss(labels, 1 / (1 + np.exp(-logits.astype(np.float64))))
    assert quality.logloss(labels, logits) == pytest.approx(expected, rel=SUMS64)


def test_logloss_clips_the_probability_and_row_losses_do_not() -> None:
    assert quality.logloss([1, 0], [-40.0, 40.0]) == pytest.approx(-math.log(1e-7), rel=SUMS64)
    assert quality.row_losses([1, 0, 1], [-40.0, 800.0, 0.0]) == pytest.approx([40.0, 800.0, math.log(2)])


def test_ne_of_the_base_rate_is_one() -> None:
    labels = np.array([1, 0, 0, 0, 0])
    base = math.log(0.2 / 0.8)
    assert quality.ne(labels, [base] * 5) == pytest.approx(1.0, abs=SUMS64)
    assert quality.ne(labels, [base + 0.5] * 5) > 1.0


def test_calibration_is_predicted_over_observed() -> None:
    labels, logits = clicks(4, 3000)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert quality.calibration(labels, logits) == pytest.approx(p.sum() / labels.sum(), rel=SUMS64)


def test_ece_is_the_naive_loop() -> None:
    labels, logits = clicks(5, 1000)
    rows = sorted(zip(logits.astype(np.float64), labels, strict=True), key=lambda row: row[0])
    expected = 0.0
    for start in range(0, 1000, 50):
        part = rows[start : start + 50]
        p = sum(1 / (1 + math.exp(-z)) for z, _ in part) / 50
        expected += 50 / 1000 * abs(p - sum(y for _, y in part) / 50)
    assert quality.ece(labels, logits) == pytest.approx(expected, rel=SUMS64)


def test_ece_with_fewer_rows_than_bins_takes_each_row_alone() -> None:
    assert quality.ece([1, 0], [0.0, 0.0]) == pytest.approx(0.5)


def test_gauc_weights_groups_by_rows_and_skips_one_class_groups() -> None:
    labels, logits = clicks(6, 600, 1)
    groups = np.random.default_rng(6).integers(0, 150, 600)
    weighted = weight = 0.0
    for group in set(groups.tolist()):
        rows = groups == group
        if 0 < labels[rows].sum() < rows.sum():
            weighted += rows.sum() * roc_auc_score(labels[rows], logits[rows])
            weight += rows.sum()
    assert weight < 600
    assert quality.gauc(labels, logits, groups) == pytest.approx(weighted / weight, rel=SUMS64)
    assert quality.gauc(labels, logits, groups.astype(str)) == pytest.approx(weighted / weight, rel=SUMS64)


def test_gauc_without_a_two_class_group_is_refused() -> None:
    with pytest.raises(ValueError, match="no group has both"):
        quality.gauc([1, 1, 0], [0.1, 0.2, 0.3], ["a", "a", "b"])


def test_summary_is_the_single_metrics() -> None:
    labels, logits = clicks(7, 500)
    result = quality.summary(labels, logits)
    assert result["rows"] == 500
    assert result["clicks"] == labels.sum()
    for name in ("auc", "logloss", "ne", "calibration", "ece"):
        assert result[name] == getattr(quality, name)(labels, logits)


@pytest.mark.parametrize("metric", ["auc", "ne", "summary"])
@pytest.mark.parametrize(
    ("labels", "word"), [([1, 1], "all 2 rows are clicks"), ([0, 0], "all 2 rows are non-clicks")]
)
def test_one_class_is_refused(metric: str, labels: list[int], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        getattr(quality, metric)(labels, [0.1, 0.2])


@pytest.mark.parametrize("metric", ["auc", "logloss", "ne", "calibration", "ece", "summary", "row_losses"])
@pytest.mark.parametrize(
    ("labels", "logits", "message"),
    [
        ([], [], "no rows"),
        ([1, 0], [0.1, math.nan], "logit of row 1 is nan"),
        ([1, 0], [math.inf, 0.0], "logit of row 0 is inf"),
        ([1, 0.5], [0.1, 0.2], "label of row 1 is 0.5"),
        ([1, math.nan], [0.1, 0.2], "label of row 1 is nan"),
        ([1, 0], [0.1], "2 labels do not match 1 logits"),
        ([[1, 0]], [[0.1, 0.2]], "one-dimensional"),
    ],
)
def test_unusable_input_is_refused(metric: str, labels: list, logits: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(quality, metric)(labels, logits)


def test_calibration_without_a_click_is_refused() -> None:
    with pytest.raises(ValueError, match="none of the 2 rows is a click"):
        quality.calibration([0, 0], [0.1, 0.2])


def test_ece_needs_a_bin() -> None:
    with pytest.raises(ValueError, match="bins is 0"):
        quality.ece([0, 1], [0.1, 0.2], bins=0)
