"""What compression changed: bytes, quality and scores of a model beside its parent and its float original."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from slimctr.networks import CtrModel, TableSpec
from slimctr.training import Scores, measure

REPORT_FILE = "report.json"


@dataclass(frozen=True)
class ModelBytes:
    """Bytes of a model before export: rows of the tables, steps of columns, everything else in float32.

    The artifact (network as exported, vocabulary, headers) is measured when it is published.
    """

    tables: int
    wide: int
    scales: int
    network: int

    @property
    def payload(self) -> int:
        """Rows of all tables."""
        return self.tables + self.wide

    @property
    def total(self) -> int:
        """All four parts."""
        return self.payload + self.scales + self.network


def model_bytes(model: CtrModel) -> ModelBytes:
    """Count the bytes of `model` as its specification stores it."""
    spec = model.spec
    tables = sum(n * row_bytes(table) for n, table in zip(spec.rows, spec.tables, strict=True))
    wide = sum(n * row_bytes(table) for n, table in zip(spec.rows, spec.wide, strict=False))
    columns = sum(8 * table.dim for table in (*spec.tables, *spec.wide) if table.scale == "column")
    network = sum(4 * p.numel() for part in (model.expands, model.backbone) for p in part.parameters())
    return ModelBytes(tables, wide, columns, network)


def row_bytes(table: TableSpec) -> int:
    """Bytes of one row: floats, or codes with the step and minimum of the row where it has its own."""
    if table.kind == "float":
        return 4 * table.dim
    return -(-table.dim * table.bits // 8) + (4 if table.scale == "row" else 0)


@dataclass(frozen=True)
class Candidate:
    """One model of a report: its bytes and its scores on validation and test rows."""

    bytes: ModelBytes
    scores: Mapping[str, Scores]


def fidelity(logits: NDArray[np.float32], reference: NDArray[np.float32]) -> dict[str, float]:
    """How far logits are from those of another model on the same rows: mean, p99, mean shift."""
    difference = logits.astype(np.float64) - reference.astype(np.float64)
    return {
        "mean_abs_logit_difference": float(np.abs(difference).mean()),
        "p99_abs_logit_difference": float(np.quantile(np.abs(difference), 0.99)),
        "mean_logit_shift": float(difference.mean()),
    }


def build_report(models: Mapping[str, Candidate]) -> dict[str, Any]:
    """Return the report (JSON) of `models`, which hold "compressed" and any of "parent" and "original".

    Ratios are bytes of the other model over bytes of the compressed one; differences of logits are on test
    rows.
    """
    small = models["compressed"]
    report: dict[str, Any] = {}
    for name, candidate in models.items():
        entry: dict[str, Any] = {
            "bytes": {
                **asdict(candidate.bytes),
                "payload": candidate.bytes.payload,
                "total": candidate.bytes.total,
            },
            **{split: measure(scores) for split, scores in candidate.scores.items()},
        }
        if name != "compressed":
            entry["ratio_payload"] = candidate.bytes.payload / small.bytes.payload
            entry["ratio_model"] = candidate.bytes.total / small.bytes.total
            entry["fidelity"] = fidelity(small.scores["test"].logits, candidate.scores["test"].logits)
        report[name] = entry
    return report


def report_table(report: Mapping[str, Any]) -> Table:
    """Lay a report out for a terminal, one line per model."""
    table = Table(title="on test rows; ratios and logit differences of the compressed model to that line")
    for heading in (
        "model",
        "payload",
        "model bytes",
        "ratio",
        "AUC",
        "logloss",
        "NE",
        "calibration",
        "|Δlogit| mean",
        "p99",
    ):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name, entry in report.items():
        test, gap = entry["test"], entry.get("fidelity")
        table.add_row(
            name,
            f"{entry['bytes']['payload']:,}",
            f"{entry['bytes']['total']:,}",
            f"{entry['ratio_model']:.2f}" if gap else "",
            f"{test['auc']:.5f}",
            f"{test['logloss']:.5f}",
            f"{test['ne']:.4f}",
            f"{test['calibration']:.4f}",
            f"{gap['mean_abs_logit_difference']:.4f}" if gap else "",
            f"{gap['p99_abs_logit_difference']:.4f}" if gap else "",
        )
    return table
