"""What compression changed: bytes, quality and scores of a model beside its parent and its float original."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from model_store.codecs import divided_rows, masked_bytes
from slimctr.networks import CtrModel, TableSpec
from slimctr.networks.folding import coded_maps
from slimctr.training import Scores, measure


@dataclass(frozen=True)
class ModelBytes:
    """Bytes of a model before export: rows of the tables, steps of columns, everything else in float32.

    A field of fewer columns adds two bytes for the number of each.

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
    tables = sum(map(table_bytes, spec.tables, spec.stored_rows))
    wide = sum(map(table_bytes, spec.wide, spec.stored_rows))
    columns = sum(8 * table.dim for table in (*spec.tables, *spec.wide) if table.scale == "column")
    columns += sum(8 * table.dim * len(table.segments) for table in (*spec.tables, *spec.wide))
    network = sum(4 * p.numel() for part in (model.expands, model.backbone) for p in part.parameters())
    if spec.network_bits is not None:
        for linear in coded_maps(model.backbone).values():
            network -= linear.weight.numel() * (32 - spec.network_bits) // 8 - 4 * linear.out_features
    network += sum(2 * len(expand.columns or ()) for expand in spec.expands)
    return ModelBytes(tables, wide, columns, network)


def table_bytes(table: TableSpec, rows: int) -> int:
    """Bytes of the rows of a table."""
    if table.kind == "mixed":
        return sum(count * -(-table.dim * bits // 8) for bits, count in table.segments)
    if table.kept is not None:
        return masked_bytes(rows, table.dim, table.kept, table.value_bits)
    if table.divisor is not None:
        return 4 * table.dim * divided_rows(rows, table.divisor)
    return rows * row_bytes(table)


def row_bytes(table: TableSpec) -> int:
    """Bytes of one row: floats, or codes with the step and minimum of the row where it has its own."""
    if table.kind != "quantized":
        return (4 if table.kind == "float" else 2) * table.dim
    return -(-table.dim * table.bits // 8) + (4 if table.scale == "row" else 0)


@dataclass(frozen=True)
class Candidate:
    """One model of a report: its bytes, its scores on validation and test rows, the digests of its run."""

    bytes: ModelBytes
    scores: Mapping[str, Scores]
    sha256: Mapping[str, str]


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
            "sha256": dict(candidate.sha256),
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
    """Lay a report out for a terminal of 80 columns: one column per model, one line per figure of its test rows."""
    table = Table()
    table.add_column("test rows")
    for name in report:
        table.add_column(name, justify="right")
    for title, figure in _FIGURES.items():
        table.add_row(title, *(figure(entry) for entry in report.values()))
    return table


def _gap(key: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda entry: f"{entry['fidelity'][key]:.4f}" if "fidelity" in entry else ""


_FIGURES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "payload bytes": lambda entry: f"{entry['bytes']['payload']:,}",
    "model bytes": lambda entry: f"{entry['bytes']['total']:,}",
    "times the compressed": lambda entry: f"{entry['ratio_model']:.2f}" if "fidelity" in entry else "",
    "AUC": lambda entry: f"{entry['test']['auc']:.5f}",
    "logloss": lambda entry: f"{entry['test']['logloss']:.5f}",
    "NE": lambda entry: f"{entry['test']['ne']:.4f}",
    "calibration": lambda entry: f"{entry['test']['calibration']:.4f}",
    "|Δlogit|, mean": _gap("mean_abs_logit_difference"),
    "|Δlogit|, p99": _gap("p99_abs_logit_difference"),
}
