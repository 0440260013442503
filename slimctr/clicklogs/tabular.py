"""Reads click logs that name their columns: CSV with a header line, and Parquet."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from slimctr.clicklogs.delimited import DelimitedFile, TextLayout
from slimctr.clicklogs.parse_errors import ParseErrors
from slimctr.clicklogs.rows import RawBatch, RowChecker, clean_batch
from slimctr.clicklogs.sources import first_line
from slimctr.errors import LogFormatError
from slimctr.features import FeatureSchema

DEFAULT_LABELS = ("label", "click", "clicked")
MISSING_CELLS = ("", "NaN", "nan")
PARQUET_BATCH_ROWS = 1 << 17


class CsvLog:
    """One CSV file with a header line (.tsv: tab-separated); empty and NaN cells are missing.

    A row with a line break inside a cell is refused, because a quote that is never closed looks the same.
    """

    def __init__(self, path: Path, label: str | None = None):
        delimiter = "\t" if ".tsv" in path.suffixes else ","
        names = next(csv.reader([first_line(path)], delimiter=delimiter))
        self._path = path
        self._label = _label_column(path, names, label)
        self._names = names
        self._file = DelimitedFile(
            path, TextLayout(delimiter, quoted=True, header=True, missing=MISSING_CELLS), names
        )

    @property
    def fraction(self) -> float:
        """Share of the file read by the latest `batches`."""
        return self._file.fraction

    def infer_schema(self) -> FeatureSchema:
        """Return every column but the label as a categorical field, in file order."""
        return _all_categorical(self._path, self._names, self._label)

    def batches(self, schema: FeatureSchema, errors: ParseErrors) -> Iterator[pa.RecordBatch]:
        """Yield clean batches (see ClickLog); columns that `schema` does not name are ignored."""
        _require_fields(self._path, self._names, schema)
        # All columns are read: an open quote in a column that nobody wants swallows rows as well.
        for raw in self._file.batches(self._names, errors):
            check = RowChecker(raw.rows)
            for name, cells in raw.columns.items():
                broken = pc.fill_null(pc.match_substring(cells, "\n"), False)
                check.refuse(
                    broken.to_numpy(zero_copy_only=False),
                    lambda row, name=name, cells=cells: _line_break_problem(name, cells[row].as_py()),
                )
            yield clean_batch(raw, self._label, schema, errors, check)


class ParquetLog:
    """One Parquet file; integers and strings are values, lists multi-valued, floats fit numeric fields only."""

    def __init__(self, path: Path, label: str | None = None):
        try:
            self._file = pq.ParquetFile(path, memory_map=True)
        except FileNotFoundError as error:
            raise LogFormatError(f"no click log at {path}") from error
        except (pa.ArrowInvalid, OSError) as error:
            raise LogFormatError(f"{path} is no Parquet file: {error}") from error
        self.fraction = 0.0
        self._path = path
        self._names = self._file.schema_arrow.names
        self._label = _label_column(path, self._names, label)

    def infer_schema(self) -> FeatureSchema:
        """Return every column but the label as a categorical field; list columns are multi-valued."""
        lists = {column.name for column in self._file.schema_arrow if _is_list(column.type)}
        return _all_categorical(self._path, self._names, self._label, lists)

    def batches(self, schema: FeatureSchema, errors: ParseErrors) -> Iterator[pa.RecordBatch]:
        """Yield clean batches (see ClickLog); line numbers are row numbers from 1."""
        _require_fields(self._path, self._names, schema)
        numeric = {field.name for field in schema.fields if field.kind == "numeric"} | {self._label}
        start, total = 0, max(self._file.metadata.num_rows, 1)
        columns = [self._label, *schema.names]
        for batch in self._file.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=columns):
            texts = {name: self._as_text(name, batch.column(name), name in numeric) for name in columns}
            first = start + 1
            raw = RawBatch(self._path, texts, batch.num_rows, lambda row, first=first: first + row)
            start += batch.num_rows
            self.fraction = start / total
            yield clean_batch(raw, self._label, schema, errors)

    def _as_text(self, name: str, values: pa.Array, numeric: bool) -> pa.Array:
        kind = values.type
        if pa.types.is_dictionary(kind):
            return self._as_text(name, values.dictionary_decode(), numeric)
        if _is_list(kind):
            items = self._as_text(name, values.values, numeric=False)
            kind_of_list = pa.ListArray if pa.types.is_list(kind) else pa.LargeListArray
            texts = kind_of_list.from_arrays(values.offsets, items, mask=pc.is_null(values))
            return texts.cast(pa.list_(pa.string()))
        if pa.types.is_floating(kind) and numeric:
            return pc.if_else(pc.is_nan(values), None, values).cast(pa.string())
        if pa.types.is_boolean(kind) and name == self._label:
            return values.cast(pa.string())
        if (
            pa.types.is_integer(kind)
            or pa.types.is_string(kind)
            or pa.types.is_large_string(kind)
            or _is_binary(kind)
        ):
            return values
        if pa.types.is_null(kind):
            return values.cast(pa.string())
        raise LogFormatError(
            f"{self._path}: column '{name}' is {kind}; a categorical value is an integer or a string. "
            "Cast the column, or declare it numeric in a schema file (--schema)"
        )


def _line_break_problem(name: str, cell: bytes) -> str:
    lines = cell.rstrip().count(b"\n") + 1
    return f"column '{name}' goes on over {lines} lines: is a quote never closed?"


def _label_column(path: Path, names: list[str], label: str | None) -> str:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise LogFormatError(f"{path}: column {', '.join(repeated)} occurs twice")
    for candidate in (label,) if label else DEFAULT_LABELS:
        if candidate in names:
            return candidate
    looked_for = f"'{label}'" if label else ", ".join(DEFAULT_LABELS)
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    raise LogFormatError(
        f"no label column in {path}: looked for {looked_for} among {shown}. "
        "Name it with --label; a file without a header line is not csv"
    )


def _all_categorical(
    path: Path, names: list[str], label: str, multivalued: set[str] = frozenset()
) -> FeatureSchema:
    fields = [
        {"name": name, "kind": "categorical", "multivalued": name in multivalued}
        for name in names
        if name != label
    ]
    return FeatureSchema.parse({"fields": fields}, str(path))


def _require_fields(path: Path, names: list[str], schema: FeatureSchema) -> None:
    absent = [name for name in schema.names if name not in names]
    if absent:
        raise LogFormatError(f"{path} has no column {', '.join(absent)}, which the schema names")


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
