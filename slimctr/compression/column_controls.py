"""`magnitude` and `random_columns`: the controls that any search of columns has to beat at equal bytes."""

from typing import Annotated

import numpy as np
from pydantic import Field

from slimctr.compression.column_masks import Array, keep_columns
from slimctr.compression.columns import (
    ColumnSettings,
    column_budget,
    column_statistics,
    columns_objection,
    compact,
)
from slimctr.compression.data import CompressionData
from slimctr.compression.method import Outcome, method
from slimctr.networks import CtrModel
from slimctr.training import estimate_batch_norm


class MagnitudeSettings(ColumnSettings):
    """Nothing of its own."""


class RandomColumnsSettings(ColumnSettings):
    """Adds which of the random draws to take."""

    draw: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0


@method("magnitude", MagnitudeSettings, columns_objection)
def magnitude(model: CtrModel, data: CompressionData, config: MagnitudeSettings) -> Outcome:
    """Keep the columns of largest root mean square over the rows that training reads, within a budget."""
    tables = [table.weight.detach().numpy() for table in model.tables]
    scores = np.stack(
        [column_magnitudes(table, counts) for table, counts in zip(tables, data.counts, strict=True)]
    )
    return _keep(model, data, config, scores)


@method("random_columns", RandomColumnsSettings, columns_objection)
def random_columns(model: CtrModel, data: CompressionData, config: RandomColumnsSettings) -> Outcome:
    """Keep columns at random within a budget; take several draws."""
    scores = np.random.default_rng(config.draw).random((len(model.spec.rows), model.spec.dim))
    return _keep(model, data, config, scores)


def column_magnitudes(table: np.ndarray, counts: np.ndarray) -> Array:
    """Return sqrt(sum_i p_i V_ij^2) for each column j of V (N, D), p_i the share of training reads of row i."""
    return np.sqrt(counts @ np.square(table.astype(np.float64)) / max(int(counts.sum()), 1))


def _keep(model: CtrModel, data: CompressionData, config: ColumnSettings, scores: Array) -> Outcome:
    mask = keep_columns(scores, column_budget(model.spec, config.budget_ratio, config.cost))
    smaller = compact(model, mask)
    batches = estimate_batch_norm(smaller, data.split("train"), data.training)
    return Outcome(smaller, {**column_statistics(model.spec, mask), "batch_norm_batches": batches})
