"""Which columns of an Arrow schema go to which fields, and what the kernel needs to know of each."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from slimctr.errors import BadValue
from slimctr.features.arrow_stream import READ_TYPES, TEXT_VIEWS, ArrowColumn, ArrowSchema
from slimctr.features.schema import FeatureSchema, Field
from slimctr.native.arrow_cells import CELLS, CellPlan


@dataclass(frozen=True, slots=True, eq=False)
class ArrowPlan:
    """How the columns of a schema go to fields.

    `cells` has a record for every field that is neither a bag nor numbers, absent ones included.
    """

    cells: CellPlan
    dictionaries: tuple[tuple[int, ArrowColumn], ...]
    views: tuple[tuple[int, ArrowColumn], ...]
    numbers: tuple[tuple[int, ArrowColumn], ...]
    bags: tuple[tuple[int, ArrowColumn | None], ...]


def make_plan(schema: FeatureSchema, arrow: ArrowSchema) -> ArrowPlan:
    """Return the plan of a schema. Raises BadValue for a column whose type its field does not take."""
    records: list[Any] = []
    buffers = []
    dictionaries, views, numbers, bags = [], [], [], []
    out = {position: column for column, position in enumerate(schema.single)}
    for position, field in enumerate(schema.fields):
        column = arrow.columns.get(field.name)
        if column is not None:
            _check_type(field, column)
        if field.multivalued:
            bags.append((position, column))
        elif column is not None and field.kind == "numeric" and column.values.dtype:
            numbers.append((position, column))
        else:
            if column is not None and column.dictionary is not None:
                dictionaries.append((len(records), column))
            elif column is not None and column.values.code == TEXT_VIEWS:
                views.append((len(records), column))
            record = record_of(position, field, column, len(out))
            record["out_start"] = out[position]
            records.append(record)
            buffers.append((-1,) * 4 if column is None else buffers_of(column))
    return ArrowPlan(
        CellPlan(np.array(records, CELLS).reshape(-1), np.array(buffers, np.int64).reshape(-1, 4)),
        tuple(dictionaries),
        tuple(views),
        tuple(numbers),
        tuple(bags),
    )


def record_of(position: int, field: Field, column: ArrowColumn | None, out_stride: int) -> Any:
    """Return the part of a record that every batch has alike."""
    record = np.zeros((), CELLS)
    record["field"] = position
    record["required"] = field.required
    record["out_stride"] = out_stride
    if column is not None:
        record["type"] = column.values.code
        record["index_type"] = column.index_type
    return record[()]


def buffers_of(column: ArrowColumn) -> tuple[int, int, int, int]:
    """Buffers of nulls, indices, offsets and data of the cells of a column; -1 is none."""
    first = column.buffer + (2 if column.list_bytes else 0)
    if column.dictionary is not None:
        return first, first + 1, -1, -1
    if column.values.code == TEXT_VIEWS:
        return first, -1, first + 1, -1
    if column.values.buffers == 3:
        return first, -1, first + 1, first + 2
    return (first, -1, -1, first + 1) if column.values.buffers else (-1,) * 4


def _check_type(field: Field, column: ArrowColumn) -> None:
    if not column.values.is_read:
        raise BadValue(field.name, f"a column of type {column.type_name} is not read: {READ_TYPES} are")
    if column.list_bytes and not field.multivalued:
        raise BadValue(
            field.name, f"the field takes one value per row, not a column of type {column.type_name}"
        )
    if field.multivalued and not column.list_bytes and column.values.name != "null":
        raise BadValue(
            field.name, f"a multi-valued field takes lists, not a column of type {column.type_name}"
        )
    if field.kind == "numeric" and not column.values.dtype and column.values.name != "null":
        raise BadValue(field.name, f"a numeric field takes numbers, not a column of type {column.type_name}")
    if field.kind == "categorical" and column.values.code == 0 and column.values.dtype:
        raise BadValue(
            field.name,
            f"a categorical field takes text, integers or booleans, not a column of {column.type_name}",
        )
