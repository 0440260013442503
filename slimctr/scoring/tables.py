"""Reads the tables of an artifact: manifest and mapped tensors become what the lookup kernel takes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from model_store.codecs import (
    CODECS,
    ROW_SCALE_BYTES,
    divided_rows,
    index_bytes,
    mask_bytes,
    masked_bytes,
    packed_record_bytes,
    record_bytes,
)
from model_store.manifest import Manifest, Table
from model_store.pacing import pause
from slimctr.errors import EngineError
from slimctr.features.schema import FeatureSchema
from slimctr.native.lookup import Codec, RowSegment, StoredTable, TableLookup
from slimctr.native.masked import check_index

Array = npt.NDArray[Any]

_CHECK_BYTES = 1024 * 1024


def build_lookup(manifest: Manifest, tensors: Mapping[str, Array], schema: FeatureSchema) -> TableLookup:
    """Return the lookup over `tensors`, which stay mapped and are neither copied nor expanded.

    Raises EngineError unless every tensor belongs to exactly one table and has its shape, the columns of all
    tables cover 0..width-1 exactly once, and every float is finite. The check reads every page once, so that
    a table is in memory before the first request.
    """
    _check_columns(manifest)
    _check_names(manifest, tensors)
    try:
        stored = []
        for table in manifest.tables:
            pause()
            stored.append(_stored_table(table, tensors, schema))
        return TableLookup(stored, manifest.network.width)
    except ValueError as problem:
        raise EngineError(f"the tables of this artifact do not fit together: {problem}") from None


def payload_bytes(manifest: Manifest, tensors: Mapping[str, Array]) -> int:
    """Return the bytes of the codes of all tables, scales inside their records included."""
    return sum(tensors[table.codes].nbytes for table in manifest.tables)


def _check_columns(manifest: Manifest) -> None:
    next_column = 0
    for table in sorted(manifest.tables, key=lambda table: table.column):
        if table.column != next_column:
            fault = "left out" if table.column > next_column else "written twice"
            raise EngineError(f"table '{table.codes}': columns from {next_column} are {fault}")
        next_column += table.dim
    if next_column != manifest.network.width:
        raise EngineError(
            f"the tables fill {next_column} columns, the network reads {manifest.network.width}"
        )
    slots = [(table.field, table.role) for table in manifest.tables]
    if len(set(slots)) != len(slots):
        raise EngineError("a field has two tables of one role")


def _check_names(manifest: Manifest, tensors: Mapping[str, Array]) -> None:
    names = [name for t in manifest.tables for name in (t.codes, t.scales, t.minimums) if name is not None]
    if len(set(names)) != len(names):
        raise EngineError("two tables share a tensor")
    if set(names) != set(tensors):
        odd = ", ".join(sorted(set(names) ^ set(tensors)))
        raise EngineError(f"tensors and tables do not match each other: {odd}")


def _stored_table(table: Table, tensors: Mapping[str, Array], schema: FeatureSchema) -> StoredTable:
    if table.field not in schema.index:
        raise EngineError(f"table '{table.codes}': the schema has no field '{table.field}'")
    position = schema.index[table.field]
    field = schema.fields[position]
    codes = tensors[table.codes]
    segments = _segments(table, codes)
    scales, minimums = (_column_floats(table, tensors, name) for name in (table.scales, table.minimums))
    return StoredTable(
        codec=_kernel_codec(table),
        codes=codes.reshape(-1).view(np.uint8),
        segments=segments,
        rows=table.rows,
        dim=table.dim,
        column=table.column,
        source=schema.multi.index(position) if field.multivalued else schema.single.index(position),
        pooling=field.pooling if field.multivalued else "single",
        scales=scales,
        minimums=minimums,
        divisor=table.divisor or 0,
        multiplies=table.combine == "product",
    )


def _kernel_codec(table: Table) -> Codec:
    if table.codec != "packed":
        return table.codec
    if table.layout is None:
        raise EngineError(f"table '{table.codes}' is packed without a layout")
    return table.layout


def _segments(table: Table, codes: Array) -> tuple[RowSegment, ...]:
    """Return the segments of `table`, one for an unpacked codec, after checking its codes tensor."""
    if table.codec == "packed":
        return _packed_segments(table, codes)
    if table.kept is not None:
        return _masked_segments(table, table.kept, codes)
    if table.divisor is not None:
        rows = divided_rows(table.rows, table.divisor)
        if codes.dtype != np.float32 or codes.shape != (rows, table.dim):
            raise EngineError(
                f"tensor '{table.codes}' is {codes.dtype} {codes.shape}; quotients and remainders of {table.rows} "
                f"rows by {table.divisor} need float32 ({rows}, {table.dim})"
            )
        _check_finite(table.codes, codes, np.float32)
        return (RowSegment(0, table.rows, 0, table.dim * codes.itemsize),)
    dtype = np.dtype(CODECS[table.codec].dtype)
    columns = record_bytes(table.codec, table.dim) // dtype.itemsize
    if codes.dtype != dtype or codes.shape != (table.rows, columns):
        raise EngineError(
            f"tensor '{table.codes}' is {codes.dtype} {codes.shape}; "
            f"{table.codec} needs {dtype} {(table.rows, columns)}"
        )
    if table.codec == "int8_row":
        _check_finite(table.codes, codes[:, -ROW_SCALE_BYTES:], np.float16)
    else:
        _check_finite(table.codes, codes, dtype)
    return (RowSegment(0, table.rows, 0, columns * codes.itemsize),)


def _masked_segments(table: Table, kept: int, codes: Array) -> tuple[RowSegment, ...]:
    values = np.dtype(CODECS[table.codec].dtype)
    size = masked_bytes(table.rows, table.dim, kept, 8 * values.itemsize)
    if codes.dtype != np.uint8 or codes.shape != (size,):
        raise EngineError(
            f"tensor '{table.codes}' is {codes.dtype} {codes.shape}; {kept} {values} values behind masks of "
            f"{table.rows} rows need uint8 ({size},)"
        )
    try:
        check_index(codes, table.rows, table.dim, kept)
    except ValueError as problem:
        raise EngineError(f"tensor '{table.codes}': {problem}") from None
    floats = codes[index_bytes(table.rows, table.dim) :].reshape(kept, values.itemsize)
    _check_finite(table.codes, floats, values)
    return (RowSegment(0, table.rows, 0, mask_bytes(table.dim)),)


def _packed_segments(table: Table, codes: Array) -> tuple[RowSegment, ...]:
    if codes.dtype != np.uint8 or codes.ndim != 1 or table.layout is None:
        raise EngineError(
            f"tensor '{table.codes}' is {codes.dtype} {codes.shape}; packed needs uint8 (bytes,)"
        )
    segments = []
    next_byte = 0
    for segment in table.segments:
        record_bytes = packed_record_bytes(table.layout, segment.bits, table.dim, table.scale == "row")
        end = segment.byte_base + segment.rows * record_bytes
        if segment.byte_base != next_byte or end > codes.size:
            raise EngineError(f"tensor '{table.codes}': the segment of row {segment.start_row} is misplaced")
        segments.append(
            RowSegment(segment.start_row, segment.rows, segment.byte_base, record_bytes, segment.bits)
        )
        next_byte = end
    if next_byte != codes.size:
        raise EngineError(f"tensor '{table.codes}': {codes.size - next_byte} bytes belong to no segment")
    if table.scale == "row":
        for placed in segments:
            if placed.record_bytes:
                end = placed.byte_base + placed.rows * placed.record_bytes
                records = codes[placed.byte_base : end].reshape(placed.rows, placed.record_bytes)
                _check_finite(table.codes, records[:, -ROW_SCALE_BYTES:], np.float16)
    return tuple(segments)


def _column_floats(table: Table, tensors: Mapping[str, Array], name: str | None) -> Array | None:
    if name is None:
        return None
    floats = tensors[name]
    if floats.dtype != np.float32 or floats.shape not in ((table.dim,), (len(table.segments), table.dim)):
        raise EngineError(
            f"tensor '{name}' is {floats.dtype} {floats.shape}; float32 ({table.dim},) or "
            f"({len(table.segments)}, {table.dim}) is needed"
        )
    _check_finite(name, floats, np.float32)
    return floats.reshape(-1, table.dim)


def _check_finite(name: str, values: Array, dtype: npt.DTypeLike) -> None:
    """Raise EngineError unless `values`, read as `dtype`, are finite; goes block by block to stay small."""
    rows_per_block = max(1, _CHECK_BYTES // max(1, values[:1].nbytes))
    for start in range(0, len(values), rows_per_block):
        pause()
        block = np.ascontiguousarray(values[start : start + rows_per_block]).view(dtype)
        if not np.isfinite(block).all():
            raise EngineError(f"tensor '{name}' holds a NaN or an infinity near row {start}")
