"""Reads click logs that name their columns: CSV with a header line, and Parquet."""

import csv
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from slimctr.clicklogs.delimited import DelimitedFile, TextLayout
from slimctr.clicklogs.layout_guess import guess_header, guess_kind
from slimctr.clicklogs.parquet_values import as_text, check_type, is_list
from slimctr.clicklogs.parse_errors import ParseErrors
from slimctr.clicklogs.rows import RawBatch, RowChecker, clean_batch
from slimctr.clicklogs.sources import first_line
from slimctr.errors import ConfigError, LogFormatError
from slimctr.features import FeatureSchema

DEFAULT_LABELS = ("label", "click", "clicked")
MISSING_CELLS = ("", "NaN", "nan")
PARQUET_BATCH_ROWS = 1 << 17
_SHOWN_CHARACTERS = 60
_INDEX = re.compile(r"__index_level_[0-9]+__")


class CsvLog:
    """One CSV file with a header line (.tsv: tab-separated, no quotes); empty and NaN cells are missing.

    `constants` are columns more, with one value in the whole file: those of its folders.
    """

    def __init__(
        self, path: Path, label: str | None = None, constants: Mapping[str, str | None] | None = None
    ):
        is_tsv = ".tsv" in (suffix.lower() for suffix in path.suffixes)
        delimiter = "\t" if is_tsv else ","
        line = first_line(path)
        names = _header(path, line, delimiter, quoted=not is_tsv)
        self._path = path
        self._constants = dict(constants or {})
        self._names = [*names, *self._constants]
        guess = guess_header(line, delimiter)
        self._label = _label_column(path, self._names, label, guess if label is None else "")
        self.left_out = _left_out(self._names, self._label, self._constants)
        layout = TextLayout(delimiter, quoted=not is_tsv, header=True, missing=MISSING_CELLS)
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
            raise LogFormatError(f"{path} is no Parquet file: {_told(path, error)}") from error
        self.fraction = 0.0
        self._path = path
        self._constants = dict(constants or {})
        self._names = [*self._schema.names, *self._constants]
        self._label = _label_column(path, self._names, label)
        self.left_out = _left_out(self._names, self._label, {*self._constants, *_pandas_index(self._schema)})

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
            raise LogFormatError(f"{self._path} is no Parquet file: {_told(self._path, error)}") from error

    def _read(self, file: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
        try:
            yield from file.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=columns)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise LogFormatError(f"{self._path} is damaged and cannot be read: {error}") from error


def _told(path: Path, error: Exception) -> str:
    """Return what a file is that is no Parquet, or why it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return str(error)
    is_parquet = head.startswith(b"PAR1")
    return str(error) if is_parquet else guess_kind(head) or str(error)


def _with_constants(raw: RawBatch, constants: dict[str, str | None]) -> RawBatch:
    columns = {
        name: pa.nulls(raw.rows, pa.string()) if value is None else pa.repeat(value, raw.rows)
        for name, value in constants.items()
    }
    return replace(raw, columns={**raw.columns, **columns})


def _header(path: Path, line: str, delimiter: str, quoted: bool) -> list[str]:
    """Return the column names of the header line, without spaces around them."""
    if not quoted:
        return [name.strip() for name in line.split(delimiter)]
    try:
        return [name.strip() for name in next(csv.reader([line], strict=True, delimiter=delimiter))]
    except csv.Error as error:
        raise LogFormatError(
            f"{path}: the header line is no csv: {error}. "
            + (guess_header(line, delimiter) or "It holds the names of the columns, with commas between")
        ) from error


def _label_column(path: Path, names: list[str], label: str | None, guess: str = "") -> str:
    """Return the name of the label column; `guess` is what a refused file may be instead."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise LogFormatError(
            f"{path}: column {_shown(repeated)} occurs twice. A column has a name of its own in the header line; a file "
            "without a header line is not csv"
        )
    found = [name for name in ((label,) if label else DEFAULT_LABELS) if name in names]
    if len(found) > 1:
        raise LogFormatError(
            f"{path} has the columns {' and '.join(found)}, and each could be the label: name it with --label"
        )
    if found:
        return found[0]
    looked_for = f"'{label}'" if label else ", ".join(DEFAULT_LABELS)
    raise LogFormatError(
        f"no label column in {path}: looked for {looked_for} among {_shown(names)}. "
        + (guess or "Name it with --label; a file without a header line is not csv")
    )


def _shown(names: list[str]) -> str:
    """Return the first names as a person can read them: no control character, none of any length."""
    shown = [
        repr(name)[1:-1] if len(name) <= _SHOWN_CHARACTERS else f"{name[:_SHOWN_CHARACTERS]!r}…"
        for name in names
    ]
    return ", ".join(shown[:12]) + (", …" if len(names) > 12 else "")


def _pandas_index(schema: pa.Schema) -> set[str]:
    """Return the columns that hold an index without a name: pandas numbers the rows so."""
    columns = (schema.pandas_metadata or {}).get("index_columns", [])
    return {name for name in columns if isinstance(name, str) and _INDEX.fullmatch(name)}


def _left_out(names: list[str], label: str, special: Collection[str]) -> tuple[str, ...]:
    """Columns that become fields only where a schema file says so.

    They name a label as well, and the click itself must not become a feature; or they are `special`: the folder of the
    file holds them, as a day does that no later log will have, or they number the rows.
    """
    return tuple(name for name in names if name != label and (name in DEFAULT_LABELS or name in special))


def _all_categorical(
    path: Path, names: list[str], labels: set[str], multivalued: set[str] = frozenset()
) -> FeatureSchema:
    fields = [
        {"name": name, "kind": "categorical", "multivalued": name in multivalued}
        for name in names
        if name not in labels
    ]
    try:
        return FeatureSchema.parse({"fields": fields}, str(path))
    except ConfigError as error:
        index = " (pandas writes its index so: index=False leaves it out)" if "" in names else ""
        raise ConfigError(
            f"{error}. Rename the columns{index}, or name those to keep in a schema file (--schema)"
        ) from None


def _require_fields(path: Path, names: list[str], schema: FeatureSchema) -> None:
    absent = [name for name in schema.names if name not in names]
    if absent:
        raise LogFormatError(f"{path} has no column {', '.join(absent)}, which the schema names")
