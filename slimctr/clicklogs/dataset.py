"""Reads an encoded data set directory; every file is checked against its checksum before it is used."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model_store.tensors import map_tensors
from slimctr.clicklogs.rows import LABEL_COLUMN
from slimctr.clicklogs.sources import sha256_of
from slimctr.clicklogs.splits import SPLITS
from slimctr.errors import LogFormatError
from slimctr.features import Bag, EncodedBatch, Encoder, FeatureSchema, Vocabulary

DATASET_VERSION = 1


@dataclass(frozen=True)
class Split:
    """Encoded rows: `labels` float32 (B,) of 0 and 1, `batch` with their row ids."""

    labels: np.ndarray
    batch: EncodedBatch

    def __len__(self) -> int:
        return len(self.labels)


class Dataset:
    """An encoded data set: `schema`, `info` (the content of dataset.json) and three splits."""

    def __init__(self, directory: Path | str):
        """Open what `slimctr data prepare` wrote; raise LogFormatError when it is something else or altered."""
        self.path = Path(directory)
        self._verified: set[str] = set()
        self.info = _read_info(self.path)
        self.schema = FeatureSchema.load(self._file("schema.json"))

    @property
    def rows_per_field(self) -> list[int]:
        """Rows of the table of every field, the OOV row included."""
        return [field["rows"] for field in self.info["fields"]]

    def encoder(self) -> Encoder:
        """Return the encoder from raw values to the row ids of this data set."""
        return Encoder(self.schema, self.vocabulary())

    def vocabulary(self) -> Vocabulary:
        """Return the vocabulary, memory-mapped."""
        return Vocabulary.open(self._file("vocabulary.safetensors"), self.schema)

    def counts(self, field: str) -> np.ndarray:
        """Return how often each row of a field occurs in the training split, int64 (rows,)."""
        return map_tensors(self._file("counts.safetensors"))[field]

    def load(self, split: str) -> Split:
        """Return a whole split in memory."""
        table = pq.read_table(self._split_file(split)).combine_chunks()
        batches = table.to_batches()
        return self._decode(batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema))

    def stream(self, split: str, rows: int) -> Iterator[Split]:
        """Yield a split in file order, `rows` rows at a time (the last one may be shorter)."""
        waiting: list[pa.RecordBatch] = []
        count = 0
        for batch in pq.ParquetFile(self._split_file(split)).iter_batches(batch_size=rows):
            waiting.append(batch)
            count += batch.num_rows
            while count >= rows:
                table = pa.Table.from_batches(waiting).combine_chunks()
                yield self._decode(table.slice(0, rows).to_batches()[0])
                waiting = table.slice(rows).to_batches()
                count -= rows
        if count:
            yield self._decode(pa.Table.from_batches(waiting).combine_chunks().to_batches()[0])

    def raw_test(self, limit: int) -> tuple[list[dict[str, Any]], np.ndarray]:
        """Return up to `limit` test rows as a client would send them, and their labels int8.

        A categorical value is a string, a numeric one a number, a multi-valued one a list; None is a missing
        value.
        """
        batches = pq.ParquetFile(self._file("raw_test.parquet")).iter_batches(batch_size=max(limit, 1))
        first = next(batches, None)
        if first is None or limit <= 0:
            return [], np.zeros(0, np.int8)
        rows = first.select(list(self.schema.names)).to_pylist()
        numeric = [field.name for field in self.schema.fields if field.kind == "numeric"]
        for row in rows:
            for name in numeric:
                if row[name] is not None:
                    row[name] = _number(row[name])
        return rows, first.column(LABEL_COLUMN).to_numpy()

    def _split_file(self, split: str) -> Path:
        if split not in SPLITS:
            raise LogFormatError(f"no split '{split}' in {self.path}: the splits are {', '.join(SPLITS)}")
        return self._file(f"{split}.parquet")

    def _file(self, name: str) -> Path:
        path = self.path / name
        entry = next((entry for entry in self.info["files"] if entry["file"] == name), None)
        if entry is None or not path.is_file():
            raise LogFormatError(f"{path} is missing: prepare the data set again")
        if name not in self._verified:
            if sha256_of(path) != entry["sha256"]:
                raise LogFormatError(
                    f"{path} differs from the checksum in dataset.json: prepare the data set again"
                )
            self._verified.add(name)
        return path

    def _decode(self, batch: pa.RecordBatch) -> Split:
        schema = self.schema
        ids = np.empty((batch.num_rows, len(schema.single)), np.int32)
        for column, position in enumerate(schema.single):
            ids[:, column] = batch.column(schema.names[position]).to_numpy()
        bags = tuple(_bag(batch.column(schema.names[position])) for position in schema.multi)
        labels = batch.column(LABEL_COLUMN).to_numpy().astype(np.float32)
        return Split(labels, EncodedBatch.uncounted(ids, bags))


def _read_info(path: Path) -> dict[str, Any]:
    file = path / "dataset.json"
    try:
        info = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise LogFormatError(
            f"{path} is no encoded data set: it has no dataset.json (see `slimctr data prepare`)"
        ) from error
    except (OSError, ValueError) as error:
        raise LogFormatError(f"{file} cannot be read: {error}") from error
    if info.get("dataset_version") != DATASET_VERSION:
        raise LogFormatError(
            f"{file} is not of data set version {DATASET_VERSION}: prepare the data set again"
        )
    return info


def _bag(lists: pa.ListArray) -> Bag:
    offsets = lists.offsets.to_numpy()
    values = lists.values.to_numpy()[offsets[0] : offsets[-1]]
    return Bag(np.ascontiguousarray(values), (offsets - offsets[0]).astype(np.int32))


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)
