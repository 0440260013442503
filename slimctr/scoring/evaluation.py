"""Quality of an engine on labeled rows."""

import time
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from slimctr.features import EncodedBatch
from slimctr.quality import summary
from slimctr.scoring.scorer import Scorer


class LabeledRows(Protocol):
    """Rows of an encoded log: `labels` (B,) and the row ids of the same instances."""

    @property
    def labels(self) -> NDArray[np.float32]:
        """Clicks, 0 or 1."""

    @property
    def batch(self) -> EncodedBatch:
        """Row ids."""


def evaluate_rows(scorer: Scorer, parts: Iterable[LabeledRows]) -> dict[str, Any]:
    """Return `slimctr.quality.summary` of all rows, and rows per second of lookup and network together."""
    labels: list[NDArray[np.float32]] = []
    logits: list[NDArray[np.float32]] = []
    seconds = 0.0
    for part in parts:
        started = time.perf_counter()
        logits.append(scorer.logits(part.batch))
        seconds += time.perf_counter() - started
        labels.append(part.labels)
    figures = summary(np.concatenate(labels), np.concatenate(logits))
    return {**figures, "rows_per_second": figures["rows"] / seconds}
