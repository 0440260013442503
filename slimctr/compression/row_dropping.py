"""Tables with fewer rows: which values keep one, what the others read, and the model that is left."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from slimctr.compression.factors import model_of, with_parts
from slimctr.features import FeatureSchema
from slimctr.networks import CtrModel, ModelSpec, RowMap, RowMapSpec, ZeroRows

Orders = Sequence[NDArray[np.int64] | None]
"""Per field the rows of the vocabulary that keep a row, row 0 first, in the order they are stored; None: all."""


def stored_order(
    kept: NDArray[np.bool_], bits: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the kept rows (N_f,) of a field as they are stored: row 0, then by bits and count descending, by id."""
    rows = np.flatnonzero(kept[1:]) + 1
    order = np.lexsort((rows, -counts[rows], -bits[rows]))
    return np.concatenate([np.zeros(1, np.int64), rows[order]])


def row_maps_of(spec: ModelSpec, orders: Orders, zero_rows: ZeroRows) -> tuple[RowMapSpec | None, ...]:
    """Return the maps of a model whose tables keep the rows of `orders`; keyed maps have one row more, of zeros."""
    return tuple(
        None
        if order is None
        else RowMapSpec(stored_rows=len(order) + (zero_rows == "keyed"), zero_rows=zero_rows)
        for order in orders
    )


def map_tensor(order: NDArray[np.int64], rows: int, zero_rows: ZeroRows) -> torch.Tensor:
    """Return the map int32 (N_f,) of a field whose rows of `order` are stored."""
    elsewhere = len(order) if zero_rows == "keyed" else 0
    stored = torch.full((rows,), elsewhere, dtype=torch.int32)
    stored[torch.from_numpy(order)] = torch.arange(len(order), dtype=torch.int32)
    return stored


def drop_rows(model: CtrModel, orders: Orders, zero_rows: ZeroRows) -> CtrModel:
    """Return `model` with float tables that store the rows of `orders` alone; the others read as `zero_rows` says."""
    spec = with_parts(model.spec, row_maps=row_maps_of(model.spec, orders, zero_rows))
    state = dict(model.state_dict())
    for field, order in enumerate(orders):
        if order is None:
            continue
        state[f"row_maps.{field}.stored"] = map_tensor(order, model.spec.rows[field], zero_rows)
        for role in ("tables", "wide"):
            if (name := f"{role}.{field}.weight") in state:
                state[name] = _kept(state[name], order, zero_rows)
    return model_of(spec, state)


def _kept(weight: torch.Tensor, order: NDArray[np.int64], zero_rows: ZeroRows) -> torch.Tensor:
    rows = weight[torch.from_numpy(order)]
    if zero_rows == "keyed":
        rows = torch.cat([rows, torch.zeros(1, rows.shape[1])])
    elif zero_rows == "zero":
        rows[0] = 0
    return rows


def table_counts(model: CtrModel, counts: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Return training occurrences per stored row, from those per row of the vocabulary."""
    if not model.spec.row_maps:
        return list(counts)
    return [
        np.bincount(row_map.stored.numpy(), weights=count, minlength=rows).astype(np.int64)
        if isinstance(row_map, RowMap)
        else count
        for row_map, count, rows in zip(model.row_maps, counts, model.spec.stored_rows, strict=True)
    ]


def droppable_fields(spec: ModelSpec, schema: FeatureSchema) -> list[bool]:
    """Say which fields may lose rows: those of a vocabulary. The rows of a hashed field come from the hash alone."""
    return [schema.fields[schema.index[name]].hash_rows is None for name in spec.field_names]
