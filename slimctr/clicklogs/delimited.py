"""Streams delimited text as batches of raw binary columns with the line number of every row."""

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from slimctr.clicklogs.parse_errors import ParseErrors
from slimctr.clicklogs.rows import RawBatch
from slimctr.clicklogs.sources import ByteSource
from slimctr.errors import LogFormatError

BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class TextLayout:
    """How a delimited file is written; `header`: line 1 holds names, `missing`: cells without a value."""

    delimiter: str
    quoted: bool
    header: bool
    missing: tuple[str, ...] = ("",)


class DelimitedFile:
    """One delimited file. `fraction` is the share of it read by the latest `batches`."""

    def __init__(self, path: Path, layout: TextLayout, names: list[str]):
        self.path = path
        self.layout = layout
        self.names = names
        self.fraction = 0.0

    def batches(self, wanted: list[str], errors: ParseErrors) -> Iterator[RawBatch]:
        """Yield the `wanted` columns; a row with another number of cells is counted in `errors` and skipped.

        Line numbers count records: after a quoted cell with a line break inside they are smaller than the
        editor's. A blank line becomes a row of nulls. Raises LogFormatError when the file cannot be split at
        all.
        """
        lines = _LineNumbers(first=2 if self.layout.header else 1)
        source = ByteSource(self.path)
        start = 0
        try:
            for batch in self._open(source, wanted, lines):
                lines.report(self.path, errors)
                self.fraction = source.fraction
                offset = start
                start += batch.num_rows
                if batch.num_rows:
                    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
                    yield RawBatch(
                        self.path,
                        columns,
                        batch.num_rows,
                        lambda row, offset=offset: lines.of_row(offset + row),
                    )
            lines.report(self.path, errors)
        except (pa.ArrowInvalid, OSError) as error:
            raise LogFormatError(f"{self.path} cannot be read after row {start}: {error}") from error
        finally:
            source.close()

    def _open(
        self, source: ByteSource, wanted: list[str], lines: "_LineNumbers"
    ) -> pa.csv.CSVStreamingReader:
        return pa.csv.open_csv(
            source.stream,
            read_options=pa.csv.ReadOptions(
                # The parallel reader does not know row numbers.
                use_threads=False,
                block_size=BLOCK_BYTES,
                column_names=self.names,
                skip_rows=1 if self.layout.header else 0,
            ),
            parse_options=pa.csv.ParseOptions(
                delimiter=self.layout.delimiter,
                quote_char='"' if self.layout.quoted else False,
                newlines_in_values=self.layout.quoted,
                ignore_empty_lines=False,
                invalid_row_handler=lines.refuse,
            ),
            convert_options=pa.csv.ConvertOptions(
                check_utf8=False,
                column_types={name: pa.binary() for name in self.names},
                include_columns=wanted,
                null_values=list(self.layout.missing),
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )


class _LineNumbers:
    """Maps the n-th well-formed row to its line, given the rows that were refused before it."""

    def __init__(self, first: int):
        self._first = first
        self._refused: list[tuple[int, str]] = []
        self._reported = 0

    def refuse(self, row: pa.csv.InvalidRow) -> str:
        spanned = row.text.count("\n")
        tail = f" over {spanned + 1} lines: is a quote never closed?" if spanned else ""
        self._refused.append(
            (row.number, f"{row.actual_columns} cells instead of {row.expected_columns}{tail}")
        )
        return "skip"

    def report(self, path: Path, errors: ParseErrors) -> None:
        while self._reported < len(self._refused):
            line, detail = self._refused[self._reported]
            self._reported += 1
            errors.add(path, line, detail)

    def of_row(self, row: int) -> int:
        # The k-th refused line stands before the row exactly when its number is at most first + row + k.
        positions = range(len(self._refused))
        return (
            self._first
            + row
            + bisect.bisect_right(positions, self._first + row, key=lambda k: self._refused[k][0] - k)
        )
