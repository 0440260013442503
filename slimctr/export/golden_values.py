"""Chooses the golden rows that are kept as raw values: what clients send, at every place where encoding can go wrong."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from slimctr.features import EncodedBatch, Encoder, Field
from slimctr.scoring.golden import UNLISTED

MAX_VALUES = 32
_MAX_LISTED = 8
_MAX_EDGES = 8


def golden_values(raw: Sequence[dict[str, Any]], encoder: Encoder) -> dict[str, list[Any]]:
    """Return values of every field: listed ones from the head to the tail of its rows, an unlisted and a missing one.

    A numeric field has the numbers at and just below its bucket edges, too; a multi-valued one bags of one value, of
    several and of none. `raw` are rows of a log; their listed values are taken field by field, so no row of the log is
    taken as a whole. Every value is there once: the file counts as bytes of the version.
    """
    schema = encoder.schema
    encoded = encoder.encode_rows(raw)
    values = {}
    for position, field in enumerate(schema.fields):
        listed = _listed(raw, encoded, position, encoder)
        if field.multivalued:
            marks = [*_bags(raw, field), *([value] for value in listed), [UNLISTED], [*listed[:1], UNLISTED]]
            marks += [] if field.required else [[], None]
        elif field.kind == "numeric":
            marks = [*_edge_numbers(field), *listed]
        else:
            marks = [*listed, UNLISTED]
        if not (field.required or field.multivalued):
            marks.append(None)
        values[field.name] = _spread(list({repr(mark): mark for mark in marks}.values()), MAX_VALUES)
    return values


def _listed(
    raw: Sequence[dict[str, Any]], encoded: EncodedBatch, position: int, encoder: Encoder
) -> list[Any]:
    """Return values of a field in the order of their rows, at most 8, one for each row."""
    schema = encoder.schema
    field = schema.fields[position]
    by_row: dict[int, Any] = {}
    if field.multivalued:
        rows: Iterable[int] = encoded.bags[schema.multi.index(position)].values.tolist()
        cells: Iterable[Any] = (cell for row in raw for cell in row.get(field.name) or [None])
    else:
        rows = encoded.ids[:, schema.single.index(position)].tolist()
        cells = (row.get(field.name) for row in raw)
    for row, cell in zip(rows, cells, strict=True):
        if cell is not None and cell != "" and row > 0:
            by_row.setdefault(row, cell)
    return _spread([by_row[row] for row in sorted(by_row)], _MAX_LISTED)


def _bags(raw: Sequence[dict[str, Any]], field: Field) -> list[list[Any]]:
    bags = [row[field.name] for row in raw if len(row.get(field.name) or ()) > 1]
    return _spread(bags, _MAX_LISTED)


def _edge_numbers(field: Field) -> list[float]:
    if field.bucketing is None or field.bucketing.kind == "log_squared":
        # no number at an edge of the logarithm's buckets: there, the last bit of a logarithm decides
        return [-3.5, -1.0, 0.0, 1.0, 2.0, math.nextafter(2.0, 3.0), 3.0, 10.0, 1e3, 1e6]
    edges = _spread(field.bucketing.edges, _MAX_EDGES)
    return [number for edge in edges for number in (math.nextafter(edge, -math.inf), edge)]


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """Return `count` items at even distances, the first and the last among them; all where there are no more."""
    if len(items) <= count:
        return list(items)
    return [items[int(place)] for place in np.linspace(0, len(items) - 1, count)]
