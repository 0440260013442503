"""What every reader of a click log offers, and which reader opens which format."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, Protocol

import pyarrow as pa

from slimctr.clicklogs.parse_errors import ParseErrors
from slimctr.features import FeatureSchema

LogFormat = Literal["libfm", "criteo", "avazu", "csv", "parquet", "synthetic"]


class ClickLog(Protocol):
    """One file of a click log. `fraction` is the share of it read by the latest `batches`.

    `left_out`: columns that `infer_schema` leaves out though they are there.
    """

    fraction: float
    left_out: tuple[str, ...]

    def infer_schema(self) -> FeatureSchema:
        """Return the schema that the format itself suggests."""

    def batches(self, schema: FeatureSchema, errors: ParseErrors) -> Iterator[pa.RecordBatch]:
        """Yield batches in file order: `label` int8, then one column per field of `schema`.

        A column is string, or list<string> for a multi-valued field. Null means missing. Rows that cannot be
        read are counted in `errors` and left out. Raises LogFormatError when the file is not of this format
        or lacks a field.
        """


def open_log(
    path: Path,
    log_format: LogFormat,
    label: str | None = None,
    constants: Mapping[str, str | None] | None = None,
) -> ClickLog:
    """Return the reader of a file; `label` names the label column (csv and parquet only).

    `constants`: columns that have one value in the whole file (csv and parquet only).
    """
    from slimctr.clicklogs.avazu import AvazuLog
    from slimctr.clicklogs.criteo import CriteoLog
    from slimctr.clicklogs.libfm import LibfmLog
    from slimctr.clicklogs.tabular import CsvLog, ParquetLog

    if log_format == "csv":
        return CsvLog(path, label, constants)
    if log_format == "parquet":
        return ParquetLog(path, label, constants)
    if log_format == "criteo":
        return CriteoLog(path)
    if log_format == "avazu":
        return AvazuLog(path)
    return LibfmLog(path)


class LogInParts:
    """Several files that are one log, read one after another."""

    def __init__(self, parts: list[ClickLog]):
        self._parts = parts
        self._done = 0
        self.left_out = parts[0].left_out

    @property
    def fraction(self) -> float:
        """Share of the files read, each file counting the same."""
        return min(
            (self._done + self._parts[min(self._done, len(self._parts) - 1)].fraction) / len(self._parts), 1.0
        )

    def infer_schema(self) -> FeatureSchema:
        """Return the schema that the first file suggests."""
        return self._parts[0].infer_schema()

    def batches(self, schema: FeatureSchema, errors: ParseErrors) -> Iterator[pa.RecordBatch]:
        """Yield clean batches (see ClickLog)."""
        for done, part in enumerate(self._parts):
            self._done = done
            yield from part.batches(schema, errors)
