"""`frequency_rule`: the most frequent rows at one width, the others dropped; the control of `mpe`."""

from typing import Annotated, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from slimctr.compression.data import CompressionData
from slimctr.compression.low_precision.start import (
    LowPrecisionSettings,
    low_precision_objection,
    with_tables,
)
from slimctr.compression.method import Outcome, Rate, method
from slimctr.compression.mixed_precision.groups import rows_within
from slimctr.compression.mixed_precision.quantizers import ScaleScope, offset_columns, start_quantizers
from slimctr.compression.mixed_precision.retraining import Widths, retrain_at, start_rows
from slimctr.networks import CtrModel, FloatTable, ModelSpec, ZeroRows


class FrequencyRuleSettings(LowPrecisionSettings):
    """How many rows stay: by the mean bits over all rows, or as a share of the rows."""

    bits: Annotated[int, Field(ge=1, le=8)] = 6
    mean_bits: Rate | None = None
    kept_share: Annotated[float, Field(gt=0, le=1)] | None = None
    scale_scope: ScaleScope = "all"
    zero_rows: ZeroRows = "keyed"

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.mean_bits is None) == (self.kept_share is None):
            raise ValueError("give mean_bits (over all rows) or kept_share (of the rows), and not both")
        if self.mean_bits is not None and self.mean_bits > self.bits:
            raise ValueError(f"mean_bits {self.mean_bits} is above the {self.bits} bits of a row")
        return self


def frequency_rule_objection(spec: ModelSpec, config: FrequencyRuleSettings) -> str | None:
    """Say why rows of a model may not be dropped."""
    return low_precision_objection(spec, config.model_copy(update={"start": "trained"}))


@method("frequency_rule", FrequencyRuleSettings, frequency_rule_objection)
def frequency_rule(model: CtrModel, data: CompressionData, config: FrequencyRuleSettings) -> Outcome:
    """Keep the rows of highest training count over all fields at one width, drop the rest, and train at that.

    With `start=fresh` the rows are rewound to new initial values while the network goes on from the run, so that
    the run is the float pass in place of a search: what `mpe` does, without its search. With `start=trained` the
    rows go on from the run too. Out-of-vocabulary rows always stay. Source: control of arXiv 2409.20305.
    """
    total = sum(len(counts) for counts in data.counts)
    share = config.kept_share if config.mean_bits is None else config.mean_bits / config.bits
    kept = rows_within(data.counts, max(1, int(share * total)))
    for field in kept:
        field[0] = True
    bits = [np.where(field, config.bits, 0).astype(np.int64) for field in kept]
    torch.manual_seed(data.training.seed)
    rows = start_rows(model, data, config)
    quantizers = start_quantizers(model.spec, rows, config.bits, config.scale_scope)
    tables = []
    for weight in rows:
        tables.append(FloatTable(*weight.shape))
        tables[-1].weight.data.copy_(weight)
    widths = Widths.decided(bits, model, data, config.zero_rows)
    stored, history, statistics = retrain_at(
        widths, with_tables(model, tables, None), quantizers, offset_columns(model.spec), data, config
    )
    every = np.concatenate(widths.bits)
    told = {
        **statistics,
        "mean_bits": float(every.mean()),
        "kept_rows": int((every > 0).sum()),
        "rows": len(every),
    }
    return Outcome(stored, told, history)
