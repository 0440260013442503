"""One batch in the making: gathers the keys of all fields, then looks them up in a few native calls."""

from collections.abc import Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimctr.errors import BadValue
from slimctr.features.batch import Bag, EncodedBatch
from slimctr.features.cells import Cells
from slimctr.features.columns import (
    Column,
    TextColumn,
    key_integers,
    key_numbers,
    missing_field,
    row_of,
    split_bags,
)
from slimctr.features.numeric import bucket_numbers
from slimctr.features.schema import Bucketing, FeatureSchema, Field
from slimctr.features.vocabulary import Vocabulary
from slimctr.native.json_pieces import release
from slimctr.native.keys import RUN, encode_integers, encode_text

Run = tuple[int, int, int, int, int, int]
"""One record of `slimctr.native.keys.RUN`."""

MAX_REPEATED_KEYS = 2**24
"""Values that the bags of a context may become, repeated for every candidate: a small body must not fill memory."""


class Numbers:
    """The cells of all numeric fields of one bucketing."""

    def __init__(self, bucketing: Bucketing) -> None:
        self._bucketing = bucketing
        self._cells = Cells()
        self._cell_runs: list[Run] = []
        self._arrays: list[NDArray[np.float64]] = []
        self._array_runs: list[Run] = []

    def add(self, field: Field, column: Column, run: Run, log: bool) -> None:
        """Take the cells of a field, whose keys `run` places. Raises BadValue, MissingField."""
        if isinstance(column, TextColumn):
            raise BadValue(field.name, "a numeric field takes numbers, not text")
        if isinstance(column, np.ndarray):
            self._arrays.append(key_numbers(field, column, log))
            self._array_runs.append(run)
        else:
            self._cells.add(field, column)
            self._cell_runs.append(run)

    @property
    def runs(self) -> list[Run]:
        """Places of all keys."""
        return self._cell_runs + self._array_runs

    def buckets(self) -> NDArray[np.int64]:
        """Buckets in the order of `runs`. Raises BadValue."""
        return bucket_numbers(np.concatenate([self._cells.numbers(), *self._arrays]), self._bucketing)


class Assembly:
    """`add` a column for every field in schema order, then `look_up`.

    Rows go to one flat int32 array: `ids` (B, S) first, then the values of each bag. A field of `repeated`
    has one instance, whose rows every instance of the batch gets.
    """

    def __init__(self, schema: FeatureSchema, count: int, repeated: Set[int], log: bool) -> None:
        self._schema = schema
        self._count = count
        self._repeated = repeated
        self._log = log
        self._columns = {position: column for column, position in enumerate(schema.single)}
        self._size = max(count, 1) * len(schema.single)
        self._bags: list[tuple[int, int, NDArray[np.int64]]] = []
        self._repeated_keys = 0
        self._cells = Cells()
        self._cell_runs: list[Run] = []
        self._texts: list[tuple[TextColumn, Run]] = []
        self._integers: list[NDArray[np.int64]] = []
        self._integer_runs: list[Run] = []
        self._numbers: dict[tuple[str, tuple[float, ...]], Numbers] = {}

    def add(self, position: int, column: Column) -> None:
        """Take the column of field number `position`. Raises BadValue, MissingField."""
        field = self._schema.fields[position]
        bag_offsets = None
        if isinstance(column, np.ndarray):
            column = _vector(field, column)
        if field.multivalued:
            column, bag_offsets = split_bags(field, column)
            if position in self._repeated:
                self._check_repeated(field, len(column))
        run = self._run(position, len(column), bag_offsets)
        if field.bucketing is not None:
            kind = field.bucketing.kind, field.bucketing.edges
            if kind not in self._numbers:
                self._numbers[kind] = Numbers(field.bucketing)
            self._numbers[kind].add(field, column, run, self._log)
        elif isinstance(column, TextColumn):
            if field.required and (empty := column.ends == column.starts).any():
                raise missing_field(field, row_of(int(np.argmax(empty)), bag_offsets))
            self._texts.append((column, run))
        elif isinstance(column, np.ndarray):
            self._integers.append(key_integers(field, column))
            self._integer_runs.append(run)
        else:
            self._cells.add(field, column, bag_offsets)
            self._cell_runs.append(run)
            if field.multivalued and isinstance(column, list):
                release(column)  # our own, made from the bags

    def look_up(self, vocabulary: Vocabulary) -> EncodedBatch:
        """Return the batch. Raises BadValue."""
        out = np.empty(self._size, np.int32)
        table = vocabulary.key_table
        done = []
        if self._cell_runs:
            done.append(np.array(self._cell_runs, RUN))
            encode_text(table, *self._cells.texts(), done[-1], out)
        for column, run in self._texts:
            done.append(np.array([run], RUN))
            try:
                encode_text(table, column.data, column.starts, column.ends, done[-1], out)
            except (TypeError, ValueError) as error:
                raise BadValue(self._schema.names[run[0]], f"text column: {error}") from None
        for group in self._numbers.values():
            self._integers.append(group.buckets())
            self._integer_runs += group.runs
        if self._integer_runs:
            done.append(np.array(self._integer_runs, RUN))
            encode_integers(table, np.concatenate(self._integers), done[-1], out)
        return self._batch(out, done)

    def _check_repeated(self, field: Field, keys: int) -> None:
        self._repeated_keys += keys * self._count if keys > 1 else 0
        if self._repeated_keys > MAX_REPEATED_KEYS:
            detail = (
                f"repeated for {self._count} candidates, the bags of the context become {self._repeated_keys} "
                f"values, above the limit of {MAX_REPEATED_KEYS}: send fewer candidates or values"
            )
            raise BadValue(field.name, detail)

    def _run(self, position: int, keys: int, bag_offsets: NDArray[np.int64] | None) -> Run:
        if bag_offsets is None:
            return position, keys, self._columns[position], len(self._columns), 0, 0
        start = self._size
        self._size += keys
        self._bags.append((position, start, bag_offsets))
        return position, keys, start, 1, 0, 0

    def _batch(self, out: NDArray[np.int32], done: list[NDArray[np.void]]) -> EncodedBatch:
        count, singles = self._count, len(self._columns)
        ids = out[: count * singles].reshape(count, singles)
        constant = [self._columns[position] for position in self._repeated if position in self._columns]
        ids[1:, constant] = ids[:1, constant]
        bags = tuple(self._bag(out, *place) for place in self._bags)
        oov, missing = np.zeros((2, len(self._schema.fields)), np.int64)
        for runs in done:
            oov[runs["field"]] = runs["unlisted"]
            missing[runs["field"]] = runs["missing"]
        for position in self._repeated:
            oov[position] *= count
            missing[position] *= count
        return EncodedBatch(ids, bags, oov, missing)

    def _bag(self, out: NDArray[np.int32], position: int, start: int, offsets: NDArray[np.int64]) -> Bag:
        values = out[start : start + int(offsets[-1])]
        if position not in self._repeated:
            return Bag(values, offsets.astype(np.int32))
        return Bag(
            np.tile(values, self._count), np.arange(self._count + 1, dtype=np.int32) * np.int32(len(values))
        )


def _vector(field: Field, array: NDArray[np.generic]) -> Column:
    """Return numbers as the array they are, anything else as a list of Python values. Raises BadValue."""
    if array.ndim != 1:
        raise BadValue(field.name, f"a column has one dimension, not {array.ndim}")
    if field.kind == "numeric" and array.dtype.kind in "iufb":
        return array
    if array.dtype.kind in "iu":
        return array
    values: list[Any] = array.tolist()
    return values
