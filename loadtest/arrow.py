"""Rows as an Arrow stream: one column per field, of the type that its schema or its values say."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from loadtest.errors import LoadTestError

if TYPE_CHECKING:
    import pyarrow

    from slimctr.features import FeatureSchema

MEDIA_TYPE = "application/vnd.apache.arrow.stream"


def arrow_stream(
    rows: Sequence[Mapping[str, Any]], schema: "FeatureSchema | None", metadata: Mapping[str, str]
) -> bytes:
    """Return the rows as one record batch with `metadata` as request values (`slimctr.model`, …).

    Without a schema a column has the type of its values. Raises LoadTestError for a field whose values are of several
    types, and without pyarrow.
    """
    try:
        import pyarrow as pa
    except ImportError as error:
        raise LoadTestError("Arrow needs pyarrow: pip install pyarrow, or use another encoding") from error
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        columns[name] = _column(pa, name, [row.get(name) for row in rows], schema)
    table = pa.table(columns).replace_schema_metadata(
        {f"slimctr.{name}": value for name, value in metadata.items()}
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    stream: bytes = sink.getvalue().to_pybytes()
    return stream


def _column(pa: Any, name: str, values: list[Any], schema: "FeatureSchema | None") -> "pyarrow.Array":
    kind = None
    if schema is not None:
        field = schema.fields[schema.index[name]]
        kind = pa.list_(pa.string()) if field.multivalued else pa.string()
        if field.kind == "numeric":
            # by Python, which takes whole numbers of any size
            kind, values = pa.float64(), [None if value is None else float(value) for value in values]
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, OverflowError) as error:
        raise LoadTestError(
            f"field '{name}': no Arrow column holds these values ({error}): write values of one type, or use the "
            "encoding rows"
        ) from error
