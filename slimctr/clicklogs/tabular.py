"""Reads click logs that name their columns: CSV with a header line, and Parquet."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from slimctr.clicklogs.delimited import DelimitedFile, TextLayout
from slimctr.clicklogs.parquet_values import as_text, check_type, is_list
from slimctr.clicklogs.parse_errors import ParseErrors
from slimctr.clicklogs.rows import RawBatch, RowChecker, clean_batch
from slimctr.clicklogs.sources import first_line
from slimctr.errors import LogFormatError
from slimctr.features import FeatureSchema

DEFAULT_LABELS = ("label", "click", "clicked")
MISSING_CELLS = ("", "NaN", "nan")
PARQUET_BATCH_ROWS = 1 << 17


class CsvLog:
    """One CSV file with a header line (.tsv: tab-separated, no quotes); empty and NaN cells are missing.

    `constants` are columns more, with one value in the whole file: those of its folders.
    """

    def __init__(
        self, path: Path, label: str | None = None, constants: Mapping[str, str | None] | None = None
    ):
        is_tsv = ".tsv" in path.suffixes
        names = _header(path, delimiter="\t" if is_tsv else ",", quoted=not is_tsv)
        self._path = path
        self._constants = dict(constants or {})
        self._names = [*names, *self._constants]
        self._label = _label_column(path, self._names, label)
        self.left_out = _left_out(self._names, self._label, self._constants)
        layout = TextLayout("\t" if is_tsv else ",", quoted=not is_tsv, header=True, missing=MISSING_CELLS)
        self._file = DelimitedFile(path, layout, names)

    @property
    def fraction(self) -> float:
        """Share of the file read by the latest `batches`."""
        return self._file.fraction

    def infer_schema(self) -> FeatureSchema:
        """Return every column but the label and `left_out` as a categorical field, in file order."""
        return _all_categorical(self._path, self._names, {self._label, *self.left_out})

    def batches(self, schema: FeatureSchema, errors: ParseErrors) -> Iterator[pa.RecordBatch]:
        """Yield clean batches (see ClickLog); columns that `schema` does not name are ignored."""
        _require_fields(self._path, self._names, schema)
        wanted = [name for name in (self._label, *schema.names) if name not in self._constants]
        for raw in self._file.batches(wanted, errors):
            yield clean_batch(_with_constants(raw, self._constants), self._label, schema, errors)


class ParquetLog:
    """One Parquet file; docs/data.md says which types are read and as what.

    `constants` are columns more, with one value in the whole file: those of its folders.
    """

    def __init__(
        self, path: Path, label: str | None = None, constants: Mapping[str, str | None] | None = None
    ):
        try:
            self._schema = pq.read_schema(path)
        except FileNotFoundError as error:
            raise LogFormatError(f"no click log at {path}") from error
        except (pa.ArrowInvalid, OSError) as error:
            raise LogFormatError(f"{path} is no Parquet file: {error}") from error
        self.fraction = 0.0
        self._path = path
        self._constants = dict(constants or {})
        self._names = [*self._schema.names, *self._constants]
        self._label = _label_column(path, self._names, label)
        self.left_out = _left_out(self._names, self._label, self._constants)

    def infer_schema(self) -> FeatureSchema:
        """Return every column but the label and `left_out` as a categorical field; list columns are multi-valued."""
        lists = {column.name for column in self._schema if is_list(column.type)}
        return _all_categorical(self._path, self._names, {self._label, *self.left_out}, lists)

    def batches(self, schema: FeatureSchema, errors: ParseErrors) -> Iterator[pa.RecordBatch]:
        """Yield clean batches (see ClickLog); line numbers are row numbers from 1."""
        _require_fields(self._path, self._names, schema)
        numeric = {field.name for field in schema.fields if field.kind == "numeric"}
        columns = [name for name in (self._label, *schema.names) if name not in self._constants]
        for name in columns:
            kind = self._schema.field(name).type
            if name == self._label and is_list(kind):
                raise LogFormatError(f"{self._path}: the label column '{name}' holds lists, not 0 and 1")
            check_type(self._path, name, kind, is_numeric=name in numeric)
        numbers = numeric | {self._label}
        start = 0
        with self._opened() as file:
            total = max(file.metadata.num_rows, 1)
            for batch in self._read(file, columns):
                check = RowChecker(batch.num_rows)
                texts = {
                    name: as_text(name, batch.column(name), check, is_number=name in numbers)
                    for name in columns
                }
                first = start + 1
                raw = RawBatch(self._path, texts, batch.num_rows, lambda row, first=first: first + row)
                start += batch.num_rows
                self.fraction = start / total
                raw = _with_constants(raw, self._constants)
                yield clean_batch(raw, self._label, schema, errors, check)
        self.fraction = 1.0

    def _opened(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self._path, memory_map=True)
        except (pa.ArrowInvalid, OSError) as error:
            raise LogFormatError(f"{self._path} is no Parquet file: {error}") from error

    def _read(self, file: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
        try:
            yield from file.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=columns)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise LogFormatError(f"{self._path} is damaged and cannot be read: {error}") from error


def _with_constants(raw: RawBatch, constants: dict[str, str | None]) -> RawBatch:
    columns = {
        name: pa.nulls(raw.rows, pa.string()) if value is None else pa.repeat(value, raw.rows)
        for name, value in constants.items()
    }
    return replace(raw, columns={**raw.columns, **columns})


def _header(path: Path, delimiter: str, quoted: bool) -> list[str]:
    """Return the column names of the first line, without spaces around them."""
    line = first_line(path)
    if not quoted:
        return [name.strip() for name in line.split(delimiter)]
    try:
        return [name.strip() for name in next(csv.reader([line], strict=True, delimiter=delimiter))]
    except csv.Error as error:
        raise LogFormatError(f"{path}: the header line is no csv: {error}") from error


def _label_column(path: Path, names: list[str], label: str | None) -> str:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise LogFormatError(f"{path}: column {', '.join(repeated)} occurs twice")
    found = [name for name in ((label,) if label else DEFAULT_LABELS) if name in names]
    if len(found) > 1:
        raise LogFormatError(
            f"{path} has the columns {' and '.join(found)}, and each could be the label: name it with --label"
        )
    if found:
        return found[0]
    looked_for = f"'{label}'" if label else ", ".join(DEFAULT_LABELS)
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    raise LogFormatError(
        f"no label column in {path}: looked for {looked_for} among {shown}. "
        "Name it with --label; a file without a header line is not csv"
    )


def _left_out(names: list[str], label: str, constants: dict[str, str | None]) -> tuple[str, ...]:
    """Columns that become fields only where a schema file says so.

    They name a label as well, and the click itself must not become a feature; or the folder of the file holds them, as
    a day does that no later log will have.
    """
    return tuple(name for name in names if name != label and (name in DEFAULT_LABELS or name in constants))


def _all_categorical(
    path: Path, names: list[str], labels: set[str], multivalued: set[str] = frozenset()
) -> FeatureSchema:
    fields = [
        {"name": name, "kind": "categorical", "multivalued": name in multivalued}
        for name in names
        if name not in labels
    ]
    return FeatureSchema.parse({"fields": fields}, str(path))


def _require_fields(path: Path, names: list[str], schema: FeatureSchema) -> None:
    absent = [name for name in schema.names if name not in names]
    if absent:
        raise LogFormatError(f"{path} has no column {', '.join(absent)}, which the schema names")
