"""The table that ends the demo: quality, bytes and speed of every variant."""

from dataclasses import dataclass

import numpy as np
from rich.table import Table

from slimctr.quality import auc, logloss


@dataclass(frozen=True)
class Line:
    """One variant as served: quality of the answered scores, the three byte figures, client-side latency."""

    name: str
    auc: float
    logloss: float
    payload_bytes: int
    artifact_bytes: int
    resident_bytes: int
    p50_ms: float
    p99_ms: float
    rows_per_second: float


def served_quality(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Return AUC and logloss of served probabilities float (B,) against labels (B,)."""
    clipped = np.clip(scores, 1e-7, 1 - 1e-7)
    logits = np.log(clipped) - np.log1p(-clipped)
    return auc(labels, logits), logloss(labels, logits)


def result_table(lines: list[Line], title: str) -> Table:
    """Return the table; bytes carry the ratio to the first line, the original."""
    table = Table(title=title, title_justify="left")
    for heading in (
        "variant",
        "AUC",
        "logloss",
        "payload",
        "artifact",
        "resident",
        "p50 ms",
        "p99 ms",
        "rows/s",
    ):
        table.add_column(heading, justify="left" if heading == "variant" else "right", no_wrap=True)
    first = lines[0]
    for line in lines:
        table.add_row(
            line.name,
            f"{line.auc:.5f}",
            f"{line.logloss:.5f}",
            _bytes(line.payload_bytes, first.payload_bytes),
            _bytes(line.artifact_bytes, first.artifact_bytes),
            _bytes(line.resident_bytes, first.resident_bytes),
            f"{line.p50_ms:.2f}",
            f"{line.p99_ms:.2f}",
            f"{line.rows_per_second:,.0f}",
        )
    return table


def _bytes(count: int, original: int) -> str:
    size = f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} KB"
    return size if count == original else f"{size} ({original / max(count, 1):.1f}x)"
