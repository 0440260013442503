"""Quality of a stream of rows from additive sums: merge workers, take a restated row back, keep no rows."""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slimctr.quality.checks import checked
from slimctr.quality.exact import entropy, probabilities, row_losses

BINS = 4096
LOWEST_LOGIT = -16.0
BINS_PER_LOGIT = 128

Histogram = NDArray[np.int64]


def bin_of(logits: ArrayLike) -> NDArray[np.int64]:
    """Return the bin (B,) of each logit: 4,096 equal bins over [-16, 16), ends clamped.

    The bins are equal in the logit because at usual click rates equal bins of the probability are useless.
    """
    position = np.floor((np.asarray(logits, dtype=np.float64) - LOWEST_LOGIT) * BINS_PER_LOGIT)
    return np.clip(position, 0, BINS - 1).astype(np.int64)


def _empty_histogram() -> Histogram:
    return np.zeros((2, BINS), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class QualitySums:
    """What logloss, NE, calibration and AUC of a set of rows need, in a form that adds and subtracts.

    `sum_loss` is in nats, unclipped. `histogram` (2, 4096) counts non-clicks (row 0) and clicks (row 1) per
    logit bin. Sums of workers add in any order; a row with a wrong label is taken back by subtraction.
    """

    count: int = 0
    clicks: int = 0
    sum_p: float = 0.0
    sum_loss: float = 0.0
    histogram: Histogram = field(default_factory=_empty_histogram)

    @classmethod
    def of(cls, labels: ArrayLike, logits: ArrayLike) -> Self:
        """Return the sums of rows (B,); raises ValueError like the exact metrics, for no rows too."""
        clicked, z = checked(labels, logits)
        cells = bin_of(z) + BINS * clicked
        return cls(
            count=clicked.size,
            clicks=int(clicked.sum()),
            sum_p=float(probabilities(z).sum()),
            sum_loss=float(row_losses(clicked, z).sum()),
            histogram=np.bincount(cells, minlength=2 * BINS).reshape(2, BINS).astype(np.int64),
        )

    def __add__(self, other: "QualitySums") -> "QualitySums":
        return QualitySums(
            self.count + other.count,
            self.clicks + other.clicks,
            self.sum_p + other.sum_p,
            self.sum_loss + other.sum_loss,
            self.histogram + other.histogram,
        )

    def __sub__(self, other: "QualitySums") -> "QualitySums":
        return QualitySums(
            self.count - other.count,
            self.clicks - other.clicks,
            self.sum_p - other.sum_p,
            self.sum_loss - other.sum_loss,
            self.histogram - other.histogram,
        )

    @property
    def logloss(self) -> float | None:
        """Mean log-loss in nats; None without rows."""
        return self.sum_loss / self.count if self.count else None

    @property
    def ne(self) -> float | None:
        """Log-loss over the entropy of the click rate; None unless there are clicks and non-clicks."""
        if not 0 < self.clicks < self.count:
            return None
        return self.sum_loss / self.count / entropy(self.clicks / self.count)

    @property
    def calibration(self) -> float | None:
        """Sum of predicted over observed clicks; None without a click."""
        return self.sum_p / self.clicks if self.clicks else None

    @property
    def auc(self) -> float | None:
        """Area under the ROC curve, pairs within a bin counting half; None unless both classes occur."""
        if not 0 < self.clicks < self.count:
            return None
        non_clicks, clicks = self.histogram
        below = np.cumsum(non_clicks) - non_clicks
        # Twice the pairs stays an integer, so the value does not depend on how the sums were merged.
        return int((clicks * (2 * below + non_clicks)).sum()) / (2 * self.clicks * (self.count - self.clicks))

    @property
    def auc_error_bound(self) -> float | None:
        """Largest distance of `auc` from the exact AUC: half of all pairs that share a bin."""
        if not 0 < self.clicks < self.count:
            return None
        non_clicks, clicks = self.histogram
        return int((clicks * non_clicks).sum()) / (2 * self.clicks * (self.count - self.clicks))

    def summary(self) -> dict[str, float | None]:
        """Return rows, clicks and every metric as one flat dictionary; None where a metric is undefined."""
        return {
            "rows": self.count,
            "clicks": self.clicks,
            "auc": self.auc,
            "auc_error_bound": self.auc_error_bound,
            "logloss": self.logloss,
            "ne": self.ne,
            "calibration": self.calibration,
        }
