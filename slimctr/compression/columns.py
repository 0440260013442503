"""Tables with fewer columns: settings, and the model that is left."""

from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field

from slimctr.compression.column_masks import ColumnBudget, Cost, Mask
from slimctr.compression.data import CompressionData
from slimctr.compression.factors import model_of, with_parts
from slimctr.compression.method import ExtraEpochs, Settings, not_float
from slimctr.errors import CompressionError
from slimctr.networks import CtrModel, ExpandSpec, ModelSpec, TableSpec, build_model, scatter_matrix
from slimctr.training import set_start_bias

Alignment = Literal["scatter", "projection"]


class ColumnSettings(Settings):
    """Settings of every method that takes columns from tables; docs/compression.md describes each."""

    epochs: ExtraEpochs = 2
    budget_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    cost: Cost = "bytes"


def column_budget(spec: ModelSpec, ratio: float, cost: Cost) -> ColumnBudget:
    """Return the budget of the tables of `spec`. Raises CompressionError when it is below a column per field."""
    try:
        return ColumnBudget.of(spec.rows, spec.dim, ratio, cost)
    except ValueError as problem:
        raise CompressionError(f"budget_ratio is too small: {problem}") from None


def columns_objection(spec: ModelSpec, config: Settings) -> str | None:
    """Say why columns may not be taken from the tables of a model any more."""
    if reason := not_float(spec, "; prune columns first and quantize after, as in 'ham+ptq'"):
        return reason
    if any(expand.kind == "affine" for expand in spec.expands):
        return (
            "its tables are of low rank already: their columns are principal axes, ordered by what they hold, "
            "so choose a lower rank instead"
        )
    if any(expand.kind != "identity" for expand in spec.expands):
        return "columns were taken from its tables already; start from the run before that"
    return None


def compact_spec(spec: ModelSpec, mask: Mask, alignment: Alignment = "scatter") -> ModelSpec:
    """Return `spec` with the columns of `mask` (F, D) alone; a field that keeps all of them stays as it is."""
    tables, expands = list(spec.tables), list(spec.expands)
    for field, columns in kept_columns(mask):
        tables[field] = TableSpec(dim=len(columns))
        expands[field] = (
            ExpandSpec(kind="scatter", columns=columns)
            if alignment == "scatter"
            else ExpandSpec(kind="projection", rank=len(columns))
        )
    return with_parts(spec, tables=tables, expands=expands)


def compact(model: CtrModel, mask: Mask, alignment: Alignment = "scatter") -> CtrModel:
    """Return `model` with the columns of `mask` alone: the function of the model whose other columns are zero.

    A projection starts as the matrix that puts the columns back.
    """
    state = dict(model.state_dict())
    for field, columns in kept_columns(mask):
        state[f"tables.{field}.weight"] = state[f"tables.{field}.weight"][:, list(columns)].clone()
        if alignment == "projection":
            state[f"expands.{field}.weight"] = scatter_matrix(model.spec.dim, columns).T.clone()
    return model_of(compact_spec(model.spec, mask, alignment), state)


def initial(spec: ModelSpec, data: CompressionData) -> CtrModel:
    """Return a model with initial weights drawn from the seed of the run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(data.training.seed)
        model = build_model(spec)
    set_start_bias(model, data.training, data.dataset)
    return model


def kept_columns(mask: Mask) -> list[tuple[int, tuple[int, ...]]]:
    """Return position and kept columns of every field that loses some."""
    return [
        (field, tuple(np.flatnonzero(alive).tolist())) for field, alive in enumerate(mask) if not alive.all()
    ]


def column_statistics(spec: ModelSpec, mask: Mask) -> dict[str, Any]:
    """What the lineage keeps of a mask: columns by field, and the share of bytes and of dims that is left."""
    widths = mask.sum(axis=1)
    return {
        "columns": {
            name: np.flatnonzero(alive).tolist() for name, alive in zip(spec.field_names, mask, strict=True)
        },
        "bytes_kept": float(widths @ np.asarray(spec.rows) / (spec.dim * sum(spec.rows))),
        "dims_kept": float(widths.mean() / spec.dim),
    }
