"""`mpe`: a precision per frequency group, searched and then trained at (mixed-precision embeddings)."""

from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from slimctr.compression.data import CompressionData
from slimctr.compression.low_precision.own_training import train_inside
from slimctr.compression.low_precision.start import (
    LowPrecisionSettings,
    low_precision_objection,
    with_tables,
)
from slimctr.compression.method import Outcome, Rate, Weight, method
from slimctr.compression.mixed_precision.groups import (
    FrequencyGroups,
    Selection,
    chosen_bits,
    frequency_groups,
)
from slimctr.compression.mixed_precision.quantizers import ScaleScope, offset_columns, start_quantizers
from slimctr.compression.mixed_precision.retraining import Widths, retrain_at, start_rows
from slimctr.networks import CtrModel, FloatTable, ModelSpec, ZeroRows
from slimctr.networks.mixed_training import SearchTable, WidthChoice
from slimctr.training.config import Epochs

MOST_BITS = 6


class MpeSettings(LowPrecisionSettings):
    """How precision is searched and what dropped values read; docs/compression.md describes each setting."""

    groups: Annotated[int, Field(ge=1, le=32_767)] = 128
    temperature: Rate = 3e-3
    precision_cost: Weight = 1e-5
    select: Selection = "threshold"
    rewind: bool = True
    scale_scope: ScaleScope = "all"
    zero_rows: ZeroRows = "keyed"
    search_epochs: Epochs | None = None

    def search_settings(self) -> "MpeSettings":
        """Return the settings of the search stage."""
        return self.model_copy(update={"epochs": self.search_epochs or self.epochs})


def mpe_objection(spec: ModelSpec, config: MpeSettings) -> str | None:
    """Say why precision may not be searched for the tables of a model."""
    return low_precision_objection(spec, config)


@method("mpe", MpeSettings, mpe_objection)
def mpe(model: CtrModel, data: CompressionData, config: MpeSettings) -> Outcome:
    """Search a width of 0 to 6 bits per frequency group, rewind the rows, train again at those widths, store codes.

    While searching, a row reads the mixture of its quantized copies under the learned distribution of its group,
    and the loss pays `precision_cost` times the expected bits of every group over its frequency weight. Rows of 0
    bits leave tables and vocabulary. Source: arXiv 2409.20305.
    """
    seed = data.training.seed
    groups = frequency_groups(data.counts, config.groups)
    torch.manual_seed(seed)
    searched, choice, spent, statistics = _search(model, data, config, groups)
    probabilities = choice.probabilities().detach().numpy()
    group_bits = chosen_bits(probabilities, config.select)
    bits = [group_bits[of_row] for of_row in groups.of_row]
    rows = start_rows(model, data, config) if config.rewind else [t.weight.detach() for t in searched.tables]
    rewound = with_tables(searched, [_float_table(weight) for weight in rows], None)
    widths = Widths.decided(bits, model, data, config.zero_rows)
    quantizers = [table.quantizers for table in searched.tables]
    columns = [table.columns for table in searched.tables]
    stored, history, trained = retrain_at(widths, rewound, quantizers, columns, data, config)
    every = np.concatenate(widths.bits)
    told: dict[str, Any] = {
        **trained,
        "search": statistics,
        "search_epochs": len(spent),
        "group_bits": group_bits.tolist(),
        "mean_bits": float(every.mean()),
        "kept_rows": int((every > 0).sum()),
        "rows": len(every),
        "zero_value": "mean" if any(e.kind == "affine" for e in model.spec.expands) else "zero",
    }
    return Outcome(stored, told, (*spent, *history))


def _search(
    model: CtrModel, data: CompressionData, config: MpeSettings, groups: FrequencyGroups
) -> tuple[CtrModel, WidthChoice, tuple, dict[str, Any]]:
    """Train with mixtures; return the model of the best epoch, the choice in it, the epochs and their statistics."""
    rows = start_rows(model, data, config)
    quantizers = start_quantizers(model.spec, rows, MOST_BITS, config.scale_scope)
    choice = WidthChoice(len(groups.weights), MOST_BITS, config.temperature)
    tables = [
        SearchTable(weight, torch.from_numpy(of_row), quantizer, choice, kept)
        for weight, of_row, quantizer, kept in zip(
            rows, groups.of_row, quantizers, offset_columns(model.spec), strict=True
        )
    ]
    training = with_tables(model, tables, None, fresh=data if config.start == "fresh" else None)
    price = config.precision_cost / torch.from_numpy(groups.weights).float()

    def cost(_model: CtrModel, _stored: Tensor) -> Tensor:
        return (choice.expected_bits() * price).sum()

    # The mixture scores below its start for a while, and the start has searched nothing: the best epoch is kept.
    history, statistics = train_inside(
        training, data, config.search_settings(), penalty=cost, may_keep_start=False
    )
    return training, choice, history, statistics


def _float_table(weight: Tensor) -> FloatTable:
    table = FloatTable(*weight.shape)
    table.weight.data.copy_(weight)
    return table
