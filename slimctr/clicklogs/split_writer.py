"""Writes batches to Parquet in even row groups and tallies what a split contains."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from slimctr.features import EncodedBatch, FeatureSchema

ROW_GROUP_ROWS = 1 << 17


class ParquetRows:
    """A zstd-compressed Parquet file that is written row group by row group; `rows` counts what was added."""

    def __init__(self, path: Path, schema: pa.Schema):
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0
        self.rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        self._waiting.append(batch)
        self._waiting_rows += batch.num_rows
        self.rows += batch.num_rows
        if self._waiting_rows >= ROW_GROUP_ROWS:
            self._write(self._waiting_rows // ROW_GROUP_ROWS * ROW_GROUP_ROWS)

    def close(self) -> None:
        """Write what waits and finish the file."""
        if self._waiting_rows:
            self._write(self._waiting_rows)
        self._writer.close()

    def _write(self, rows: int) -> None:
        table = pa.Table.from_batches(self._waiting, schema=self._schema)
        self._writer.write_table(table.slice(0, rows), row_group_size=ROW_GROUP_ROWS)
        self._waiting = table.slice(rows).to_batches()
        self._waiting_rows -= rows


class SplitTally:
    """Rows, clicks and, per field, values that were missing or out of vocabulary in one split."""

    def __init__(self, schema: FeatureSchema):
        fields = len(schema.fields)
        self.rows = 0
        self.clicks = 0
        self._multi = schema.multi
        self._values = np.zeros(fields, np.int64)
        self._oov = np.zeros(fields, np.int64)
        self._missing = np.zeros(fields, np.int64)

    def add(self, labels: np.ndarray, encoded: EncodedBatch) -> None:
        """Count a batch: `labels` int8 (B,) and its row ids."""
        self.rows += len(labels)
        self.clicks += int(labels.sum())
        values = np.full_like(self._values, len(labels))
        values[list(self._multi)] = [len(bag.values) for bag in encoded.bags]
        self._values += values
        self._oov += encoded.oov
        self._missing += encoded.missing

    def summary(self) -> dict[str, Any]:
        """Return rows, clicks and click rate."""
        return {"rows": self.rows, "clicks": self.clicks, "click_rate": self.clicks / max(self.rows, 1)}

    def field_summary(self, position: int) -> dict[str, int]:
        """Return how many values a field had and how many of them were out of vocabulary or missing."""
        return {
            "values": int(self._values[position]),
            "oov": int(self._oov[position]),
            "missing": int(self._missing[position]),
        }

    def warnings(self, split: str) -> list[str]:
        """Return what makes the split useless for training or evaluation though it was written."""
        if self.clicks in (0, self.rows):
            only = "clicks" if self.clicks else "rows without a click"
            return [
                f"the {split} split has only {only}: AUC is undefined on it and a model cannot learn from it"
            ]
        return []
