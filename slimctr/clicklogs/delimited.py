"""Streams delimited text as batches of raw binary columns with the line number of every row."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from slimctr.clicklogs.parse_errors import ParseErrors
from slimctr.clicklogs.rows import RawBatch
from slimctr.clicklogs.sources import ByteSource
from slimctr.errors import LogFormatError
from slimctr.native import delimited as native
from slimctr.native.delimited import Records, gather_cells, split_records

BLOCK_BYTES = 8 << 20
MAX_RECORD_BYTES = 1 << 20
BATCH_ROWS = 1 << 16


@dataclass(frozen=True)
class TextLayout:
    """How a delimited file is written; `header`: the first record holds names, `missing`: cells without a value.

    `quoted`: cells may stand in quotes as in RFC 4180; else a quote is an ordinary character.
    """

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
        """Yield the `wanted` columns; a row with another number of cells or a wrong quote is counted in `errors`.

        A row has the number of the line it starts in; empty lines are left out. Raises LogFormatError when the file
        cannot be decompressed or a line is longer than MAX_RECORD_BYTES.
        """
        source = ByteSource(self.path)
        line = 1
        is_header = self.layout.header
        text = b""
        try:
            while True:
                block = source.read(BLOCK_BYTES)
                text, at = text + block, 0
                while at < len(text):
                    data = np.frombuffer(text, np.uint8, offset=at)
                    records = self._split(data, is_final=not block, room=1 if is_header else BATCH_ROWS)
                    if is_header:
                        if len(records.faults):
                            raise LogFormatError(f"{self.path}: the header line cannot be split into names")
                        is_header = len(records.lines) == 0
                    else:
                        self._report(records, line, errors)
                        self.fraction = source.fraction
                        if len(records.lines):
                            yield self._batch(data, records, wanted, line)
                    line += records.passed
                    at += records.consumed
                    if records.is_too_long:
                        raise LogFormatError(
                            f"{self.path}, line {line}: the line is longer than {MAX_RECORD_BYTES:,} bytes. "
                            "Is the file binary?"
                        )
                    if records.consumed == 0:
                        break
                text = text[at:]
                if not block:
                    break
            self.fraction = 1.0
        finally:
            source.close()

    def _split(self, data: np.ndarray, *, is_final: bool, room: int) -> Records:
        return split_records(
            data,
            len(self.names),
            delimiter=self.layout.delimiter,
            quoted=self.layout.quoted,
            is_final=is_final,
            limit=MAX_RECORD_BYTES,
            room=room,
        )

    def _report(self, records: Records, line: int, errors: ParseErrors) -> None:
        for passed, reason, cells, lines in records.faults.tolist():
            errors.add(self.path, line + passed, self._problem(reason, cells, lines))

    def _problem(self, reason: int, cells: int, lines: int) -> str:
        over = f" (the row goes on over {lines} lines)" if lines > 1 else ""
        if reason == native.CELLS:
            return f"{cells} cells instead of {len(self.names)}{over}"
        if reason == native.TEXT_BEHIND_QUOTE:
            return (
                'text follows the closing quote of a cell: double the quotes inside a quoted cell ("")' + over
            )
        return f"a quote is opened and never closed{over}"

    def _batch(self, data: np.ndarray, records: Records, wanted: list[str], line: int) -> RawBatch:
        columns = {name: self._column(data, records, self.names.index(name)) for name in wanted}
        lines = records.lines
        return RawBatch(self.path, columns, len(lines), lambda row: line + int(lines[row]))

    def _column(self, data: np.ndarray, records: Records, column: int) -> pa.Array:
        text, offsets = gather_cells(data, records, column)
        cells = pa.BinaryArray.from_buffers(
            pa.binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(text)]
        )
        missing = pc.is_in(cells, value_set=pa.array([mark.encode() for mark in self.layout.missing]))
        return pc.if_else(missing, None, cells) if pc.any(missing).as_py() else cells
