"""Quality of an engine on labeled rows."""

import time
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from slimctr.features import EncodedBatch, Vocabulary
from slimctr.features.renumbering import maps_between, renumbered_batch
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


def stored_batch(scorer: Scorer, base: Vocabulary, batch: EncodedBatch) -> EncodedBatch:
    """Return a batch of rows of the training vocabulary `base` as rows of the version, which may store fewer.

    Raises ValueError when the version was not made of that vocabulary.
    """
    maps = maps_between(base, scorer.encoder.vocabulary)
    return renumbered_batch(batch, maps, base.schema)


def evaluate_rows(
    scorer: Scorer, parts: Iterable[LabeledRows], base: Vocabulary | None = None
) -> dict[str, Any]:
    """Return `slimctr.quality.summary` of all rows, and rows per second of lookup and network together.

    The ids of the rows are those of the training vocabulary `base`; None: of the version's own.
    """
    stored = scorer.encoder.vocabulary
    maps = [None] * len(stored.schema.fields) if base is None else maps_between(base, stored)
    labels: list[NDArray[np.float32]] = []
    logits: list[NDArray[np.float32]] = []
    seconds = 0.0
    for part in parts:
        batch = renumbered_batch(part.batch, maps, stored.schema)
        started = time.perf_counter()
        logits.append(scorer.logits(batch))
        seconds += time.perf_counter() - started
        labels.append(part.labels)
    figures = summary(np.concatenate(labels), np.concatenate(logits))
    return {**figures, "rows_per_second": figures["rows"] / seconds}
