"""An Arrow stream to row ids: keys are hashed where they lie in its bytes, no value becomes an object."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimctr.errors import ArrowError, BadValue, FeatureError
from slimctr.features.arrow_plan import ArrowPlan, buffers_of, record_of
from slimctr.features.arrow_stream import (
    NO_PLACES,
    TEXT_VIEWS,
    ArrowArray,
    ArrowBatch,
    ArrowColumn,
    ArrowStream,
)
from slimctr.features.assembly import MAX_REPEATED_KEYS, Numbers
from slimctr.features.batch import Bag, EncodedBatch
from slimctr.features.columns import CATEGORY, FRACTION, TOO_LARGE, missing_field
from slimctr.features.schema import Bucketing, FeatureSchema, Field
from slimctr.features.vocabulary import Vocabulary
from slimctr.native import arrow_cells as cells
from slimctr.native.arrow_cells import CELLS, WIDTH, Refusal, encode_cells
from slimctr.native.keys import RUN, encode_integers

MAX_TEXT_BYTES = 2**26
"""Text of all cells together: dictionaries make much of it out of a small body."""

_BROKEN = {
    cells.OUTSIDE: "a buffer is shorter than the column needs",
    cells.BAD_INDEX: "an index is outside of its dictionary",
    cells.BAD_OFFSETS: "offsets decrease or pass the end of the text, or a view leads to no text",
}


def arrow_batch(
    schema: FeatureSchema, vocabulary: Vocabulary, stream: ArrowStream, plan: ArrowPlan
) -> EncodedBatch:
    """Return the batch of a stream. Raises BadValue, MissingField, ArrowError."""
    return _Batch(schema, vocabulary, stream, plan).encode()


class _Batch:
    def __init__(
        self, schema: FeatureSchema, vocabulary: Vocabulary, stream: ArrowStream, plan: ArrowPlan
    ) -> None:
        self._schema = schema
        self._vocabulary = vocabulary
        self._stream = stream
        self._plan = plan
        self._size = stream.rows * len(schema.single)
        self._bag_keys = 0
        self._views: list[NDArray[np.int64]] = []
        self._views_start: dict[int, int] = {}

    def encode(self) -> EncodedBatch:
        rows, singles = self._stream.rows, len(self._schema.single)
        records = [self._single_cells(batch, start) for batch, start in self._batches()]
        bags = [self._bag_cells(position, column, records) for position, column in self._plan.bags]
        out = np.empty(self._size, np.int32)
        counts = np.zeros((2, len(self._schema.fields)), np.int64)
        every = records[0] if len(records) == 1 else np.concatenate(records)
        table = self._vocabulary.key_table
        refused = encode_cells(
            table, self._stream.data, self._view_places(), every, out, counts, MAX_TEXT_BYTES
        )
        if refused is not None:
            raise self._refused(every[refused[0]].view(CELLS)[0], refused[1])
        if self._plan.numbers:
            self._encode_numbers(out, counts)
        missing, oov = counts
        ids = out[: rows * singles].reshape(rows, singles)
        return EncodedBatch(
            ids,
            tuple(Bag(out[start : start + int(offsets[-1])], offsets) for start, offsets in bags),
            oov,
            missing,
        )

    def _batches(self) -> Iterator[tuple[ArrowBatch, int]]:
        """Every batch and its first row."""
        start = 0
        for batch in self._stream.batches:
            yield batch, start
            start += batch.array.length

    def _single_cells(self, batch: ArrowBatch, start: int) -> NDArray[np.int64]:
        array = batch.array
        out_start = start * len(self._schema.single)
        records = self._plan.cells.records(array.places, array.length, out_start, start)
        for number, column in self._plan.dictionaries:
            self._point_to_entries(records[number].view(CELLS), self._entries(batch, column), column)
        for number, column in self._plan.views:
            self._point_to_views(records[number].view(CELLS), array, column.view)
        return records

    def _bag_cells(
        self, position: int, column: ArrowColumn | None, records: list[NDArray[np.int64]]
    ) -> tuple[int, NDArray[np.int32]]:
        """Add the cells of a multi-valued field to `records`; return where they start in the ids, and their offsets."""
        field, start = self._schema.fields[position], self._size
        lengths = []
        for batch, row in self._batches():
            bags = np.empty(batch.array.length, CELLS)
            bags[:] = record_of(position, field, column, 1)
            bags["row"] = np.arange(row, row + len(bags))
            bags["cells"] = 1
            if column is not None and column.list_bytes:
                self._fill_bags(bags, batch, column)
            bags["out_start"] = self._size + np.cumsum(bags["cells"]) - bags["cells"]
            self._size += int(bags["cells"].sum())
            lengths.append(bags["cells"])
            records.append(bags.view(np.int64).reshape(-1, WIDTH))
        offsets = np.zeros(self._stream.rows + 1, np.int32)
        np.cumsum(np.concatenate(lengths), out=offsets[1:])
        return start, offsets

    def _fill_bags(self, bags: NDArray[np.void], batch: ArrowBatch, column: ArrowColumn) -> None:
        array = batch.array
        nulls, place = array.places[column.buffer], array.places[column.buffer + 1]
        inner = int(array.nodes[column.node + 1, 0])
        offsets = self._read(column, place, f"<i{column.list_bytes}", len(bags) + 1).astype(np.int64)
        lengths = np.diff(offsets)
        if (offsets < 0).any() or (offsets > inner).any() or (lengths < 0).any():
            raise ArrowError(f"column '{column.name}': the offsets of its lists decrease or pass their end")
        lengths[self._nulls(column, nulls, len(bags))] = 0
        # Lists without text have no bytes that bound how many values they claim.
        self._bag_keys += int(lengths.sum())
        if self._bag_keys > MAX_REPEATED_KEYS:
            raise BadValue(column.name, f"the lists of the request have more than {MAX_REPEATED_KEYS} values")
        full = lengths > 0
        bags["type"] = np.where(full, bags["type"], 0)
        bags["first"] = np.where(full, offsets[:-1], 0)
        bags["cells"] = np.maximum(lengths, 1)
        bags["entries"] = inner
        for name, place in zip(("nulls", "indices", "offsets", "data"), buffers_of(column), strict=True):
            bags[name] = array.places[place]
        if column.dictionary is not None:
            self._point_to_entries(bags, self._entries(batch, column), column)
        elif column.values.code == TEXT_VIEWS:
            self._point_to_views(bags, array, column.view)

    def _point_to_entries(self, records: NDArray[np.void], entries: ArrowArray, column: ArrowColumn) -> None:
        records["entries"] = entries.length
        if column.values.buffers:
            records["entry_nulls"] = entries.places[0]
            records["offsets"] = entries.places[1]
            records["data"] = entries.places[column.values.buffers - 1]
        if column.values.code == TEXT_VIEWS:
            self._point_to_views(records, entries, 0)

    def _point_to_views(self, records: NDArray[np.void], array: ArrowArray, view: int) -> None:
        """Set where the buffers are that column number `view` of those with views has in `array`."""
        start = self._views_start.get(id(array))
        if start is None:
            start = self._views_start[id(array)] = sum(map(len, self._views))
            self._views.append(array.view_places)
        records["views_start"] = start + array.view_starts[view]
        records["views"] = array.view_starts[view + 1] - array.view_starts[view]

    def _view_places(self) -> NDArray[np.int64]:
        return np.concatenate([NO_PLACES, *self._views]) if self._views else NO_PLACES

    def _encode_numbers(self, out: NDArray[np.int32], counts: NDArray[np.int64]) -> None:
        singles = {position: column for column, position in enumerate(self._schema.single)}
        groups: dict[Bucketing, Numbers] = {}
        for position, column in self._plan.numbers:
            field = self._schema.fields[position]
            assert field.bucketing is not None, "numeric fields have one"
            values = np.concatenate([self._numbers(field, column, *batch) for batch in self._batches()])
            run = position, len(values), singles[position], len(singles), 0, 0
            groups.setdefault(field.bucketing, Numbers(field.bucketing)).add(field, values, run, log=True)
        for group in groups.values():
            runs = np.array(group.runs, RUN)
            encode_integers(self._vocabulary.key_table, group.buckets(), runs, out)
            counts[0, runs["field"]] = runs["missing"]
            counts[1, runs["field"]] = runs["unlisted"]

    def _numbers(
        self, field: Field, column: ArrowColumn, batch: ArrowBatch, start: int
    ) -> NDArray[np.float64]:
        """Return the cells of a numeric column, NaN where missing. Raises BadValue for NaN and infinity."""
        array, rows = batch.array, batch.array.length
        missing = self._nulls(column, array.places[column.buffer], rows)
        if column.dictionary is None:
            values = self._read(column, array.places[column.buffer + 1], column.values.dtype, rows)
        else:
            entries = self._entries(batch, column)
            indices = self._read(column, array.places[column.buffer + 1], _dtype(column.index_type), rows)
            indices = np.where(missing, 0, indices)
            inside = (indices >= 0) & (indices < entries.length)
            if not (inside | missing).all():
                raise ArrowError(f"column '{column.name}': {_BROKEN[cells.BAD_INDEX]}")
            if entries.length == 0:
                return np.full(rows, np.nan)
            missing = (
                missing | self._nulls(column, entries.places[0], entries.length)[indices.astype(np.int64)]
            )
            dictionary = self._read(column, entries.places[1], column.values.dtype, entries.length)
            values = dictionary[indices.astype(np.int64)]
        numbers = values.astype(np.float64)
        bad = ~np.isfinite(numbers) & ~missing
        if bad.any():
            row = int(np.argmax(bad))
            raise BadValue(
                field.name, "a numeric field takes a finite number", start + row, float(numbers[row])
            )
        numbers[missing] = np.nan
        return numbers

    def _entries(self, batch: ArrowBatch, column: ArrowColumn) -> ArrowArray:
        entries = batch.dictionaries.get(column.dictionary or 0)
        if entries is None:
            raise ArrowError(
                f"column '{column.name}': its dictionary {column.dictionary} is not in the stream"
            )
        is_views = column.values.code == TEXT_VIEWS
        places = len(entries.places) - (len(entries.view_places) if is_views else 0)
        if len(entries.nodes) != 1 or places != column.values.buffers + 1:
            raise ArrowError(f"column '{column.name}': its dictionary is no array of {column.values.name}")
        if entries.nodes[0, 0] != entries.length:
            raise ArrowError(
                f"column '{column.name}': the length of its dictionary is given twice and differs"
            )
        return entries

    def _nulls(self, column: ArrowColumn, place: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
        if place[1] == 0:
            return np.zeros(count, np.bool_)
        bits = np.unpackbits(
            self._read(column, place, "u1", (count + 7) // 8), count=count, bitorder="little"
        )
        return np.equal(bits, 0)

    def _read(self, column: ArrowColumn, place: NDArray[np.int64], dtype: str, count: int) -> NDArray[Any]:
        """Return the first `count` values of a buffer. Raises ArrowError when it has fewer."""
        at, size = int(place[0]), int(place[1])
        if count * np.dtype(dtype).itemsize > size:
            raise ArrowError(f"column '{column.name}': {_BROKEN[cells.OUTSIDE]}")
        return np.frombuffer(self._stream.data, dtype, count, at)

    def _refused(self, record: np.void, why: Refusal) -> ArrowError | FeatureError:
        field = self._schema.fields[int(record["field"])]
        row = int(record["row"]) if field.multivalued else int(record["row"]) + why.cell
        if why.reason == cells.NO_VALUE:
            return missing_field(field, row)
        if why.reason == cells.NOT_UTF8:
            return BadValue(field.name, "the text is not valid UTF-8", row)
        if why.reason == cells.TOO_LARGE:
            return BadValue(field.name, TOO_LARGE, row)
        if why.reason == cells.FRACTION:
            return BadValue(field.name, f"a categorical value is {CATEGORY}, not {FRACTION}", row)
        if why.reason == cells.TOO_MUCH:
            detail = f"the text of all cells, dictionaries multiplied out, is above {MAX_TEXT_BYTES} bytes"
            return BadValue(field.name, detail, row)
        return ArrowError(f"column '{field.name}': {_BROKEN.get(why.reason, 'it cannot be read')}")


def _dtype(code: int) -> str:
    return f"<i{code}" if code > 0 else f"<u{-code}"
