"""`magnitude_rows` and `random_rows`: rows dropped by size and use, or at random; what a search has to beat."""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from slimctr.compression.data import CompressionData
from slimctr.compression.method import ExtraEpochs, Outcome, Settings, method, not_float
from slimctr.compression.row_dropping import drop_rows, droppable_fields, stored_order
from slimctr.networks import CtrModel, ModelSpec, ZeroRows


class RowSettings(Settings):
    """Share of the rows of all tables that stay, and what the others read."""

    epochs: ExtraEpochs = 2
    kept_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    zero_rows: ZeroRows = "keyed"


class MagnitudeRowsSettings(RowSettings):
    """Settings of `magnitude_rows`."""


class RandomRowsSettings(RowSettings):
    """Adds the number of the draw."""

    draw: Annotated[int, Field(ge=0, le=2**32 - 1)] = 1


def rows_objection(spec: ModelSpec, config: RowSettings) -> str | None:
    """Rows are dropped from float tables, once."""
    if reason := not_float(
        spec, "; drop rows first and quantize after, as in 'magnitude_rows+ptq'", wide=True
    ):
        return reason
    if any(expand.kind == "affine" for expand in spec.expands):
        return "a dropped row of a low-rank table would read the mean and not zeros"
    return None


@method("magnitude_rows", MagnitudeRowsSettings, rows_objection)
def magnitude_rows(model: CtrModel, data: CompressionData, config: MagnitudeRowsSettings) -> Outcome:
    """Keep the rows of largest training count times norm, over all fields."""
    scores = [
        counts * table.weight.detach().norm(dim=1).numpy().astype(np.float64)
        for table, counts in zip(model.tables, data.counts, strict=True)
    ]
    return _with_best_rows(model, data, config, scores)


@method("random_rows", RandomRowsSettings, rows_objection)
def random_rows(model: CtrModel, data: CompressionData, config: RandomRowsSettings) -> Outcome:
    """Keep rows at random, over all fields."""
    rng = np.random.default_rng(config.draw)
    return _with_best_rows(model, data, config, [rng.random(rows) for rows in model.spec.rows])


def _with_best_rows(
    model: CtrModel, data: CompressionData, config: RowSettings, scores: list[NDArray[np.float64]]
) -> Outcome:
    every = np.concatenate(scores)
    kept = np.zeros(len(every), bool)
    kept[np.argsort(-every, kind="stable")[: max(1, int(config.kept_share * len(every)))]] = True
    fields = np.split(kept, np.cumsum([len(score) for score in scores])[:-1])
    droppable = droppable_fields(model.spec, data.dataset.schema)
    orders = [
        stored_order(alive, np.zeros(len(alive), np.int64), counts) if may_drop else None
        for alive, counts, may_drop in zip(fields, data.counts, droppable, strict=True)
    ]
    smaller = drop_rows(model, orders, config.zero_rows)
    stored = sum(smaller.spec.stored_rows)
    return Outcome(smaller, {"kept_rows": stored, "rows": len(every)})
