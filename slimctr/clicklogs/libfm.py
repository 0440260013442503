"""Reads libFM / libSVM text: `label index:value …`, or field-aware `label field:index:value …`."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from slimctr.clicklogs.layout_guess import guess_format
from slimctr.clicklogs.parse_errors import ParseErrors
from slimctr.clicklogs.rows import LABEL_COLUMN, RawBatch, RowChecker, clean_batch, parse_numbers
from slimctr.clicklogs.sources import ByteSource, first_line
from slimctr.errors import LogFormatError
from slimctr.features import FeatureSchema, Field

BLOCK_BYTES = 4 << 20
SAMPLED_LINES = 10_000
PAIR = r"^(?P<index>[0-9]+):(?P<value>[^:]+)$"
FIELD_PAIR = r"^(?P<field>[0-9]{1,6}):(?P<index>[0-9]+):(?P<value>[^:]+)$"
FIELD_NAME = re.compile(r"f(0|[1-9][0-9]{0,5})")


class LibfmLog:
    """One file in either form, recognized by the first line.

    Without field numbers the position decides: the i-th pair of every line is field `f<i>` (from 1), and all
    lines have as many pairs as the first. With them the field is `f<number>`; a field may be absent
    (missing), and may repeat when it is multi-valued. A categorical field takes the index as its value and
    needs the number 1 behind it; a field that the schema declares numeric takes the number and ignores the
    index.
    """

    left_out: tuple[str, ...] = ()

    def __init__(self, path: Path):
        line = first_line(path)
        pairs = line.split()[1:]
        colons = {pair.count(":") for pair in pairs}
        if colons not in ({1}, {2}):
            raise LogFormatError(
                f"{path} is no libFM log: line 1 is not a label and index:value or field:index:value pairs. "
                f"{guess_format(line)}".rstrip()
            )
        self.fraction = 0.0
        self._path = path
        self._has_fields = colons == {2}
        self._pairs = len(pairs)

    def infer_schema(self) -> FeatureSchema:
        """Return categorical fields: one per position, or per field number in the first SAMPLED_LINES lines."""
        if not self._has_fields:
            return _schema(dict.fromkeys(range(1, self._pairs + 1), False))
        pairs = _Pairs(next(self._lines()).slice(0, SAMPLED_LINES), has_fields=True)
        many = {int(number): False for number in np.unique(pairs.fields[pairs.fields >= 0])}
        cells, occurrences = np.unique(np.stack([pairs.rows, pairs.fields]), axis=1, return_counts=True)
        for number in cells[1][occurrences > 1]:
            many[int(number)] = True
        return _schema(many)

    def batches(self, schema: FeatureSchema, errors: ParseErrors) -> Iterator[pa.RecordBatch]:
        """Yield clean batches (see ClickLog); a pair of a field that `schema` does not name is ignored."""
        numbers = {_field_number(field, self._path): field for field in schema.fields}
        if not self._has_fields and max(numbers) > self._pairs:
            raise LogFormatError(f"{self._path} has {self._pairs} pairs a line, so no field f{max(numbers)}")
        start = 1
        for lines in self._lines():
            check = RowChecker(len(lines))
            raw = RawBatch(
                self._path,
                self._columns(lines, numbers, check),
                len(lines),
                lambda row, start=start: start + row,
            )
            start += len(lines)
            yield clean_batch(raw, LABEL_COLUMN, schema, errors, check)

    def _lines(self) -> Iterator[pa.Array]:
        """Yield the trimmed lines block by block; bytes that are not UTF-8 become U+FFFD, which no pair accepts."""
        source = ByteSource(self._path)
        rest = b""
        try:
            while block := source.read(BLOCK_BYTES):
                text = rest + block
                # A CR at the end may be half of a line end.
                end = max(text.rfind(b"\n"), text.rfind(b"\r", 0, -1)) + 1
                rest = text[end:]
                self.fraction = source.fraction
                if end:
                    yield _line_array(text[:end])
            if rest:
                yield _line_array(rest)
        finally:
            source.close()

    def _columns(self, lines: pa.Array, numbers: dict[int, Field], check: RowChecker) -> dict[str, pa.Array]:
        """Return label and field columns (B,) of the lines; refuse the lines that are not pairs."""
        pairs = _Pairs(lines, self._has_fields)
        check.skip(pairs.blank)
        check.refuse(
            pairs.malformed,
            lambda row: f"{lines[row].as_py()[:60]!r} holds something else than {pairs.shape}",
        )
        if not self._has_fields:
            check.refuse(
                pairs.per_line != self._pairs,
                lambda row: f"{pairs.per_line[row]} pairs instead of {self._pairs}",
            )
        columns = {LABEL_COLUMN: pairs.label}
        for number, field in numbers.items():
            columns[field.name] = pairs.column(number, field, check)
        return columns


class _Pairs:
    """The pairs of some lines laid end to end: `rows`, `fields` int64 (n,); `indices`, `values` string (n,)."""

    def __init__(self, lines: pa.Array, has_fields: bool):
        self.shape = "field:index:value" if has_fields else "index:value"
        tokens = pc.ascii_split_whitespace(lines)
        offsets = tokens.offsets.to_numpy()
        self.per_line = np.maximum(np.diff(offsets) - 1, 0)
        self.blank = pc.equal(lines, "").to_numpy(zero_copy_only=False)
        self.label = pc.if_else(pc.equal(lines, ""), None, pc.list_element(tokens, 0))
        self.rows = np.repeat(np.arange(len(lines)), self.per_line)
        first = np.repeat(offsets[:-1] + 1, self.per_line)
        starts = np.cumsum(self.per_line) - self.per_line
        position = np.arange(len(self.rows)) - np.repeat(starts, self.per_line)
        parts = pc.extract_regex(
            tokens.values.take(pa.array(first + position)), FIELD_PAIR if has_fields else PAIR
        )
        broken = pc.is_null(parts).to_numpy(zero_copy_only=False)
        self.malformed = np.zeros(len(lines), bool)
        self.malformed[self.rows[broken]] = True
        self.indices = parts.field("index")
        self.values = parts.field("value")
        if has_fields:
            fields = pc.if_else(pc.is_null(parts), "-1", parts.field("field")).cast(pa.int64())
            self.fields = fields.to_numpy(zero_copy_only=False)
        else:
            self.fields = position + 1

    def column(self, number: int, field: Field, check: RowChecker) -> pa.Array:
        """Return the raw values of one field, string (B,) or list<string> (B,)."""
        here = np.flatnonzero(self.fields == number)
        rows = self.rows[here]
        lines = len(self.per_line)
        if field.kind == "categorical":
            numbers = parse_numbers(self.values.take(pa.array(here)))
            other = ~pc.fill_null(pc.equal(numbers, 1.0), False).to_numpy(zero_copy_only=False)
            check.refuse(
                _mark(rows[other], lines),
                lambda row: f"categorical field '{field.name}' has a value other than 1: declare it numeric",
            )
        source = self.values if field.kind == "numeric" else self.indices
        if field.multivalued:
            offsets = np.concatenate([[0], np.bincount(rows, minlength=lines).cumsum()]).astype(np.int32)
            return pa.ListArray.from_arrays(pa.array(offsets), source.take(pa.array(here)))
        repeated = _mark(rows[1:][rows[1:] == rows[:-1]], lines)
        check.refuse(repeated, lambda row: f"field '{field.name}' occurs twice: declare it multivalued")
        place = np.full(lines, -1, np.int64)
        place[rows] = here
        return source.take(pa.array(place, mask=place < 0))


def _line_array(block: bytes) -> pa.Array:
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    text = np.frombuffer(block.removesuffix(b"\n").decode(errors="replace").encode() + b"\n", np.uint8)
    ends = np.flatnonzero(text == ord("\n")) + 1
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    lines = pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(text))
    return pc.ascii_trim_whitespace(lines)


def _mark(rows: np.ndarray, count: int) -> np.ndarray:
    mask = np.zeros(count, bool)
    mask[rows] = True
    return mask


def _schema(multivalued: dict[int, bool]) -> FeatureSchema:
    return FeatureSchema(
        fields=tuple(
            Field(name=f"f{number}", kind="categorical", multivalued=many)
            for number, many in multivalued.items()
        )
    )


def _field_number(field: Field, path: Path) -> int:
    if not FIELD_NAME.fullmatch(field.name):
        raise LogFormatError(
            f"{path}: a libFM log has fields f1, f2, … by position or number, so no '{field.name}'"
        )
    return int(field.name[1:])
