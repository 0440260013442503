"""The encoder: raw values of a batch to row ids, all fields and rows in one pass over native code."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from slimctr.errors import BadValue, FeatureError, UnknownField
from slimctr.features.arrow_batch import arrow_batch
from slimctr.features.arrow_plan import ArrowPlan, make_plan
from slimctr.features.arrow_stream import ArrowSchema, ArrowStream
from slimctr.features.assembly import Assembly
from slimctr.features.batch import Bag, EncodedBatch
from slimctr.features.columns import Column, TextColumn, json_name, missing_field
from slimctr.features.schema import FeatureSchema, Field
from slimctr.features.vocabulary import Vocabulary
from slimctr.native.ids import IdLimits, known_rows
from slimctr.native.json_pieces import discard
from slimctr.native.json_table import JsonTable
from slimctr.native.keys import SpanColumns, encode_spans

Row = Mapping[str, Any]
MAX_LISTED_NAMES = 200
MAX_PLANS = 64
"""Lists of names that an encoder remembers: clients send few."""
CHECKED_CELLS = 256
"""Cells that are checked together before each of them is, where one of them is wrong."""


@dataclass(frozen=True, slots=True, eq=False)
class _JsonPlan:
    """How the columns of a JSON table go to fields: text keys in one native call, the rest as Python values."""

    keys: SpanColumns
    keyed: frozenset[int]
    valued: tuple[tuple[int, int | None], ...]


class Encoder:
    """Encodes rows, columns and slates against one schema and vocabulary; thread-safe.

    `unknown_fields`: whether a field that the schema does not have is an error or is ignored.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        vocabulary: Vocabulary,
        unknown_fields: Literal["error", "ignore"] = "error",
    ) -> None:
        if vocabulary.schema is not schema and vocabulary.schema != schema:
            raise ValueError("the vocabulary was opened with another schema")
        self.schema = schema
        self.vocabulary = vocabulary
        self._refuse_unknown = unknown_fields == "error"
        self._required = np.flatnonzero([field.required for field in schema.fields])
        self._json_plans: dict[bytes, _JsonPlan | None] = {}
        self._arrow_plans: dict[ArrowSchema, ArrowPlan] = {}
        self._id_limits = self._limits_of(schema.single)

    def encode_rows(self, rows: Sequence[Row]) -> EncodedBatch:
        """Encode B rows {field: value}; an absent field is missing.

        Raises UnknownField, MissingField, BadValue.
        """
        self._check_rows(rows)
        names = self.schema.names
        columns: list[Column] = list(zip(*[tuple(map(row.get, names)) for row in rows], strict=True))
        return self._encode(columns or [()] * len(names), len(rows))

    def encode_columns(self, columns: Mapping[str, Column]) -> EncodedBatch:
        """Encode columns of one length B; an absent one is missing everywhere.

        A column is a list, an array, or for a categorical field a TextColumn. Raises FeatureError for
        columns of different lengths, UnknownField, MissingField, BadValue.
        """
        return self._encode_columns(columns, log=False)

    def encode_log(self, columns: Mapping[str, Column]) -> EncodedBatch:
        """Encode columns of a click log: as `encode_columns`, and NaN in an array of numbers is missing."""
        return self._encode_columns(columns, log=True)

    def encode_slate(self, context: Row, candidates: Sequence[Row]) -> EncodedBatch:
        """Encode one context with B candidates: the batch of its expanded rows; the context is encoded once.

        Raises BadValue (also for a field in both), UnknownField, MissingField; their `row` is the
        candidate, None for the context.
        """
        try:
            self._check_rows([context])
        except FeatureError as error:
            error.row = None
            raise
        varying = self._check_rows(candidates)
        for name in context:
            if name in varying:
                row = next(i for i, candidate in enumerate(candidates) if name in candidate)
                raise BadValue(
                    name, "the field is in the context and in a candidate", row, candidates[row][name]
                )
        columns: list[Column] = []
        repeated = set()
        for position, name in enumerate(self.schema.names):
            if name in varying:
                columns.append([candidate.get(name) for candidate in candidates])
            else:
                columns.append([context.get(name)])
                repeated.add(position)
        return self._encode(columns, len(candidates), repeated)

    def encode_json(self, table: JsonTable, context: Row | None = None) -> EncodedBatch | None:
        """Encode a JSON table without making objects of its values; None when only the other methods can.

        The rows share what `context` has, which is encoded once; a field must not be in both. The other methods
        also word what is wrong: an unknown or missing field, a value that no key can be.
        """
        plan = self._json_plan(table.names)
        if plan is None or not table.other.isdisjoint(plan.keyed):
            return None
        context = context or {}
        if context and self._refuse_unknown and not context.keys() <= self.schema.index.keys():
            return None
        counts = np.zeros((2, len(self.schema.fields)), np.int64)
        if plan.valued:
            try:
                valued = self._encode_valued(table, plan, context)
            except FeatureError:
                return None
            if valued is None:
                return None
            ids, bags = valued.ids, valued.bags
            counts[:] = valued.missing, valued.oov
        else:
            ids, bags = np.empty((table.rows, len(self.schema.single)), np.int32), ()
        encode_spans(self.vocabulary.key_table, table, plan.keys, ids, counts)
        missing, oov = counts[0], counts[1]
        if self._required.size and missing[self._required].any():
            return None
        return EncodedBatch(ids, bags, oov, missing)

    def encode_arrow(self, stream: ArrowStream) -> EncodedBatch:
        """Encode an Arrow stream of one row or more: a column per field, an absent one is missing everywhere.

        The index of a data frame is left out unless it is a field.

        Raises UnknownField, MissingField, BadValue; ArrowError for buffers that do not fit together.
        """
        plan = self._arrow_plans.get(stream.schema)
        if plan is None:
            known = self.schema.index.keys() | stream.schema.index
            unknown = next((name for name in stream.schema.columns if name not in known), None)
            if unknown is not None and self._refuse_unknown:
                raise self._unknown_field(unknown)
            if len(self._arrow_plans) >= MAX_PLANS:
                self._arrow_plans.clear()
            plan = self._arrow_plans[stream.schema] = make_plan(self.schema, stream.schema)
        return arrow_batch(self.schema, self.vocabulary, stream, plan)

    def from_ids(
        self, ids: NDArray[Any], bags: Sequence[tuple[NDArray[Any], NDArray[Any]]] = ()
    ) -> EncodedBatch:
        """Take encoded ids as they come from outside: -1 is missing, any other id outside its table is OOV.

        `ids` integers (B, S) in the order of the single-valued fields; `bags` one pair of values (n,) and
        offsets (B+1,) per multi-valued field. Raises BadValue for shapes and offsets that do not fit,
        MissingField.
        """
        schema = self.schema
        singles = len(schema.single)
        if ids.ndim != 2 or ids.shape[1] != singles or ids.dtype.kind not in "iu":
            raise BadValue("ids", f"ids are integers (rows, {singles}), not {ids.dtype} {ids.shape}")
        if len(bags) != len(schema.multi):
            raise BadValue("bags", f"{len(bags)} bags for {len(schema.multi)} multi-valued fields")
        rows, counts = known_rows(ids, self._id_limits)
        if schema.multi:
            of_singles, counts = counts, np.zeros((2, len(schema.fields)), np.int64)
            counts[:, schema.single] = of_singles
        encoded = []
        for position, (values, offsets) in zip(schema.multi, bags, strict=True):
            values, offsets = _filled_bags(schema.names[position], values, offsets, len(ids))
            bag_rows, counts[:, [position]] = known_rows(values[:, np.newaxis], self._limits_of([position]))
            encoded.append(Bag(bag_rows[:, 0], offsets))
        missing, oov = counts
        if self._required.size and missing[self._required].any():
            first = next(position for position in self._required if missing[position])
            raise missing_field(schema.fields[first], None)
        return EncodedBatch(rows, tuple(encoded), oov, missing)

    def unknown_field(self, name: str, row: int | None = None) -> UnknownField | None:
        """Return the error of a field that the schema does not have; None when it has it or others are ignored."""
        if name in self.schema.index or not self._refuse_unknown:
            return None
        return self._unknown_field(name, row)

    def wrong_cells(self, position: int, cells: Sequence[Any]) -> Iterator[FeatureError]:
        """Yield the error of each wrong cell of field number `position`; `row` is its place among the cells.

        Each cell is looked at twice at most, however many are wrong.
        """
        for start in range(0, len(cells), CHECKED_CELLS):
            block = cells[start : start + CHECKED_CELLS]
            if self._wrong(position, block) is None:
                continue
            for row, cell in enumerate(block, start):
                error = self._wrong(position, [cell])
                if error is not None:
                    error.row = row
                    yield error

    def _wrong(self, position: int, cells: Sequence[Any]) -> FeatureError | None:
        assembly = Assembly(self.schema, len(cells), frozenset(), log=False)
        try:
            assembly.add(position, cells)
            assembly.look_up(self.vocabulary)
        except FeatureError as error:
            return error.with_traceback(None)
        return None

    def _json_plan(self, names: bytes) -> _JsonPlan | None:
        # Several threads come here: what one has looked up or added, another may clear meanwhile.
        try:
            return self._json_plans[names]
        except KeyError:
            plan = self._make_json_plan(names)
        if len(self._json_plans) >= MAX_PLANS:
            self._json_plans.clear()
        self._json_plans[names] = plan
        return plan

    def _make_json_plan(self, names: bytes) -> _JsonPlan | None:
        given = {name: column for column, name in enumerate(names.decode().split('"')[:-1])}
        if self._refuse_unknown and not given.keys() <= self.schema.index.keys():
            return None
        keyed, valued = [], []
        for position, field in enumerate(self.schema.fields):
            column = given.get(field.name)
            if column is None or field.multivalued or field.bucketing is not None:
                valued.append((position, column))
            else:
                keyed.append((position, column, self.schema.single.index(position)))
        return _JsonPlan(SpanColumns(keyed), frozenset(column for _, column, _ in keyed), tuple(valued))

    def _encode_valued(self, table: JsonTable, plan: _JsonPlan, context: Row) -> EncodedBatch | None:
        """Encode the fields that are not text keys of the table; the ids of the others stay open."""
        shared = {position for position, column in plan.valued if column is None}
        assembly = Assembly(self.schema, table.rows, shared, log=False)
        for position, column in plan.valued:
            name = self.schema.names[position]
            if column is None:
                assembly.add(position, [context.get(name)])
                continue
            values = table.values(column)
            if values is None:
                return None
            assembly.add(position, values)
            if table.is_large:
                discard(values)
        return assembly.look_up(self.vocabulary)

    def _limits_of(self, positions: Sequence[int]) -> IdLimits:
        fields = np.array(positions, np.intp)
        return IdLimits(self.vocabulary.rows_per_field[fields], self.vocabulary.missing_rows[fields])

    def _unknown_field(self, name: str, row: int | None = None) -> UnknownField:
        known = shorten(", ".join(self.schema.names), MAX_LISTED_NAMES, placeholder=" …")
        return UnknownField(name, f"the schema has no such field; it has {known}", row)

    def _check_rows(self, rows: Sequence[Row]) -> set[str]:
        """Return the fields that occur. Raises UnknownField, and BadValue for a row that is no object."""
        present: set[str] = set()
        for row, values in enumerate(rows):
            if not isinstance(values, Mapping):
                raise BadValue("", f"a row is an object of fields, not {json_name(values)}", row, values)
            if values.keys() <= present:
                continue
            for name in values:
                if name in self.schema.index:
                    present.add(name)
                elif self._refuse_unknown:
                    raise self._unknown_field(name, row)
        return present

    def _encode_columns(self, columns: Mapping[str, Column], log: bool) -> EncodedBatch:
        for name in columns:
            if name not in self.schema.index and self._refuse_unknown:
                raise self._unknown_field(name)
        given: list[Column | None] = [columns.get(name) for name in self.schema.names]
        count = 0
        first = None
        for field, column in zip(self.schema.fields, given, strict=True):
            if column is None:
                continue
            length = _instances(field, column)
            if first is None:
                first, count = field.name, length
            elif length != count:
                detail = f"{length} values where field '{first}' has {count}; all columns have one length"
                raise FeatureError(field.name, detail)
        repeated = {position for position, column in enumerate(given) if column is None}
        return self._encode([[None] if column is None else column for column in given], count, repeated, log)

    def _encode(
        self,
        columns: Sequence[Column],
        count: int,
        repeated: set[int] | frozenset[int] = frozenset(),
        log: bool = False,
    ) -> EncodedBatch:
        """Encode one column per field; those in `repeated` have one value, which every instance gets."""
        assembly = Assembly(self.schema, count, repeated, log)
        try:
            for position, column in enumerate(columns):
                assembly.add(position, column)
            return assembly.look_up(self.vocabulary)
        except FeatureError as error:
            if self.schema.index.get(error.field) in repeated:
                error.row = None
            raise


def _instances(field: Field, column: Column) -> int:
    if isinstance(column, TextColumn):
        if column.bag_offsets is None:
            return len(column)
        if not field.multivalued:
            raise BadValue(field.name, "bag_offsets belong to the text cells of a multi-valued field only")
        return len(column.bag_offsets) - 1
    if not isinstance(column, list | tuple | np.ndarray):
        detail = f"a column is a list of one value per row, not {json_name(column)}"
        raise BadValue(field.name, detail, None, column)
    return len(column)


def _filled_bags(
    name: str, values: NDArray[Any], offsets: NDArray[Any], count: int
) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Return values and int32 offsets with one missing id in every empty bag. Raises BadValue."""
    if values.ndim != 1 or values.dtype.kind not in "iu" or offsets.dtype.kind not in "iu":
        raise BadValue(name, "values and offsets are vectors of integers")
    lengths = np.diff(offsets.astype(np.int64))
    if offsets.shape != (count + 1,) or offsets[0] != 0 or (lengths < 0).any() or offsets[-1] != len(values):
        raise BadValue(name, f"{count + 1} offsets must rise from 0 to {len(values)}, the number of values")
    empty = lengths == 0
    if empty.any():
        values = np.insert(values.astype(np.int64), offsets[:-1][empty], -1)
        lengths = np.maximum(lengths, 1)
    filled = np.zeros(count + 1, np.int32)
    np.cumsum(lengths, out=filled[1:])
    return values, filled
