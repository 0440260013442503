"""Quality metrics over rows held in memory, in float64, as functions of labels and logits.

Logits are the stored float32 scores before the sigmoid. Every function raises ValueError for empty input,
labels other than 0 and 1, and logits that are not finite.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from slimctr.quality.checks import BoolArray, FloatArray, checked, require_both_classes

PROBABILITY_FLOOR = 1e-7
_LOGIT_LIMIT = math.log((1 - PROBABILITY_FLOOR) / PROBABILITY_FLOOR)


def probabilities(logits: ArrayLike) -> FloatArray:
    """Return the sigmoid of logits in float64, without overflow at either end."""
    z = np.asarray(logits, dtype=np.float64)
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, small) / (1.0 + small)


def row_losses(labels: ArrayLike, logits: ArrayLike) -> FloatArray:
    """Return the log-loss of every row, softplus(z) - y z in natural logs (B,), without clipping.

    This is the loss of the online estimates; `logloss` applies the offline clip on top.
    """
    clicked, z = checked(labels, logits)
    return _softplus_losses(clicked, z)


def _softplus_losses(clicked: BoolArray, z: FloatArray) -> FloatArray:
    # softplus(z) - y z equals softplus(-z) for a click: this form never subtracts two large numbers.
    return np.logaddexp(0.0, np.where(clicked, -z, z))


def logloss(labels: ArrayLike, logits: ArrayLike) -> float:
    """Return the mean log-loss in natural logs, with probabilities clipped to [1e-7, 1 - 1e-7].

    The clip is applied to the logit (at +-16.118), where it is exact; near one a probability has lost digits.
    """
    clicked, z = checked(labels, logits)
    return float(_softplus_losses(clicked, np.clip(z, -_LOGIT_LIMIT, _LOGIT_LIMIT)).mean())


def entropy(click_rate: float) -> float:
    """Return the entropy of a click rate strictly between 0 and 1, in nats."""
    return -(click_rate * math.log(click_rate) + (1 - click_rate) * math.log1p(-click_rate))


def ne(labels: ArrayLike, logits: ArrayLike) -> float:
    """Return normalized entropy: log-loss over the entropy of the click rate of the same rows.

    Raises ValueError when the rows are all clicks or all non-clicks (the entropy is zero).
    """
    clicked, z = checked(labels, logits)
    require_both_classes(clicked, "NE")
    return logloss(clicked, z) / entropy(float(clicked.mean()))


def calibration(labels: ArrayLike, logits: ArrayLike) -> float:
    """Return sum of predicted over sum of observed clicks; 1 is calibrated, above 1 predicts too many.

    Raises ValueError when there is no click.
    """
    clicked, z = checked(labels, logits)
    if not clicked.any():
        raise ValueError(f"calibration is undefined: none of the {clicked.size} rows is a click")
    return float(probabilities(z).sum() / clicked.sum())


def auc(labels: ArrayLike, logits: ArrayLike) -> float:
    """Return the area under the ROC curve, equal logits taking their average rank.

    Raises ValueError when the rows are all clicks or all non-clicks.
    """
    clicked, z = checked(labels, logits)
    require_both_classes(clicked, "AUC")
    return _rank_auc(clicked, z)


def _rank_auc(clicked: BoolArray, z: FloatArray) -> float:
    order = np.argsort(z, kind="stable")
    ascending, hits = z[order], clicked[order]
    starts = np.flatnonzero(np.concatenate(([True], ascending[1:] != ascending[:-1])))
    sizes = np.diff(np.append(starts, z.size))
    clicks_per_tie = np.add.reduceat(hits.astype(np.int64), starts)
    clicks = int(clicks_per_tie.sum())
    # Ranks start+1 .. start+size average (2 start + size + 1) / 2: twice the rank sum stays an exact integer.
    twice_rank_sum = int((clicks_per_tie * (2 * starts + sizes + 1)).sum())
    twice_pairs_won = twice_rank_sum - clicks * (clicks + 1)
    return twice_pairs_won / (2 * clicks * (z.size - clicks))


def gauc(labels: ArrayLike, logits: ArrayLike, groups: ArrayLike) -> float:
    """Return the AUC within groups (users, say), averaged with the rows of each group as weights.

    Groups (B,) of any sortable type; a group of one class only has no AUC and is left out, weight included.
    Raises ValueError when no group has both classes.
    """
    clicked, z = checked(labels, logits)
    keys = np.asarray(groups)
    if keys.shape != clicked.shape:
        raise ValueError(f"{keys.size} groups do not match {clicked.size} rows")
    _, group_of_row = np.unique(keys, return_inverse=True)
    order = np.argsort(group_of_row, kind="stable")
    boundaries = np.flatnonzero(np.diff(group_of_row[order])) + 1
    weighted, rows = 0.0, 0
    for members in np.split(order, boundaries):
        hits = clicked[members]
        if hits.any() and not hits.all():
            weighted += members.size * _rank_auc(hits, z[members])
            rows += members.size
    if rows == 0:
        raise ValueError("gAUC is undefined: no group has both a click and a non-click")
    return weighted / rows


def has_gauc(labels: ArrayLike, groups: ArrayLike) -> bool:
    """Say whether some group (B,) has both a click and a non-click, so that `gauc` is defined."""
    clicked = np.asarray(labels).astype(np.bool_)
    _, group_of_row = np.unique(np.asarray(groups), return_inverse=True)
    clicks = np.bincount(group_of_row, weights=clicked)
    return bool(((clicks > 0) & (clicks < np.bincount(group_of_row))).any())


def ece(labels: ArrayLike, logits: ArrayLike, bins: int = 20) -> float:
    """Return the expected calibration error over `bins` equal-mass bins of the score.

    Rows are sorted by logit (equal logits keep their order) and cut into bins whose sizes differ by at most
    one; the result is the sum over bins of (rows of the bin / rows) x |mean probability - click rate|. With
    fewer rows than bins every row is a bin.
    """
    clicked, z = checked(labels, logits)
    if bins < 1:
        raise ValueError(f"bins is {bins}; ECE needs at least one bin")
    order = np.argsort(z, kind="stable")
    gaps = (probabilities(z) - clicked)[order]
    parts = np.array_split(gaps, min(bins, gaps.size))
    return sum(abs(float(part.sum())) for part in parts) / gaps.size


def summary(labels: ArrayLike, logits: ArrayLike) -> dict[str, float]:
    """Return rows, clicks, auc, logloss, ne, calibration and ece of the rows as one flat dictionary.

    Raises ValueError when the rows are all clicks or all non-clicks.
    """
    clicked, z = checked(labels, logits)
    require_both_classes(clicked, "the summary")
    return {
        "rows": clicked.size,
        "clicks": int(clicked.sum()),
        "auc": auc(clicked, z),
        "logloss": logloss(clicked, z),
        "ne": ne(clicked, z),
        "calibration": calibration(clicked, z),
        "ece": ece(clicked, z),
    }
