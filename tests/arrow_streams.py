"""Writes Arrow IPC streams with pyarrow, as clients do."""

from typing import Any

import pyarrow as pa


def stream(table: pa.Table, rows_per_batch: int | None = None, **metadata: str) -> bytes:
    """Return a table as a stream; `metadata` become the request values `slimctr.<name>`."""
    given = {f"slimctr.{name}": value for name, value in metadata.items()}
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **given})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_per_batch)
    return bytes(sink.getvalue().to_pybytes())


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    """Return rows as a table whose types pyarrow chooses."""
    return pa.Table.from_pylist(rows)
