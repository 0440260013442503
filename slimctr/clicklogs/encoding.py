"""Carries raw Arrow columns to the encoder and row ids back to Arrow, without Python objects in between."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from slimctr.clicklogs.rows import LABEL_COLUMN, parse_numbers
from slimctr.features import (
    MISSING,
    EncodedBatch,
    Encoder,
    FeatureSchema,
    Field,
    TextColumn,
    bucket_log_column,
)


def field_keys(values: pa.Array, field: Field) -> pa.Array:
    """Return the keys of a raw column as a string array, null for missing; lists are laid end to end."""
    if field.bucketing is not None:
        buckets = bucket_log_column(field, _numbers(values))
        return pa.array(buckets, mask=buckets == MISSING).cast(pa.string())
    return _filled_lists(values).flatten() if field.multivalued else values


def encode_batch(batch: pa.RecordBatch, encoder: Encoder) -> EncodedBatch:
    """Return the row ids of a clean batch (see `rows.clean_batch`)."""
    columns: dict[str, np.ndarray | TextColumn] = {}
    for field in encoder.schema.fields:
        values = batch.column(field.name)
        if field.kind == "numeric":
            columns[field.name] = _numbers(values)
        elif field.multivalued:
            lists = _filled_lists(values)
            text = text_column(lists.flatten())
            bag_offsets = np.concatenate([[0], pc.list_value_length(lists).to_numpy().cumsum()]).astype(
                np.int64
            )
            columns[field.name] = TextColumn(text.data, text.offsets, bag_offsets)
        else:
            columns[field.name] = text_column(values)
    return encoder.encode_log(columns)


def encoded_schema(schema: FeatureSchema) -> pa.Schema:
    """Return the Parquet schema of an encoded split."""
    kinds = [pa.list_(pa.int32()) if field.multivalued else pa.int32() for field in schema.fields]
    return pa.schema([(LABEL_COLUMN, pa.int8()), *zip(schema.names, kinds, strict=True)])


def raw_schema(schema: FeatureSchema) -> pa.Schema:
    """Return the Parquet schema of raw rows."""
    kinds = [pa.list_(pa.string()) if field.multivalued else pa.string() for field in schema.fields]
    return pa.schema([(LABEL_COLUMN, pa.int8()), *zip(schema.names, kinds, strict=True)])


def encoded_columns(labels: pa.Array, batch: EncodedBatch, schema: FeatureSchema) -> pa.RecordBatch:
    """Return labels and row ids as one Arrow batch in schema order."""
    single = dict(zip(schema.single, batch.ids.T, strict=True))
    bags = dict(zip(schema.multi, batch.bags, strict=True))
    arrays = [
        pa.ListArray.from_arrays(pa.array(bags[position].offsets), pa.array(bags[position].values))
        if position in bags
        else pa.array(np.ascontiguousarray(single[position]))
        for position in range(len(schema.fields))
    ]
    return pa.RecordBatch.from_arrays([labels, *arrays], schema=encoded_schema(schema))


def text_column(values: pa.Array) -> TextColumn:
    """View a string or binary array as the encoder's column; null becomes the empty key."""
    filled = pc.fill_null(values.cast(pa.large_binary()), b"")
    _, offsets, data = filled.buffers()
    cells = np.frombuffer(offsets, np.int64)[filled.offset : filled.offset + len(filled) + 1]
    return TextColumn(np.frombuffer(data or b"", np.uint8), cells)


def _numbers(values: pa.Array) -> np.ndarray:
    return pc.fill_null(parse_numbers(values), np.nan).to_numpy(zero_copy_only=False)


def _filled_lists(values: pa.Array) -> pa.Array:
    """Replace null and empty lists by a list of one missing value."""
    empty = pc.equal(pc.fill_null(pc.list_value_length(values), 0), 0)
    return (
        pc.if_else(empty, pa.scalar([None], pa.list_(pa.string())), values)
        if pc.any(empty).as_py()
        else values
    )
