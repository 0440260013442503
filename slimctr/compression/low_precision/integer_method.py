"""What `lpt` and `alpt` share: settings, and the way from a run to trained and stored integer tables."""

from dataclasses import dataclass
from typing import Literal

import torch

from slimctr.compression.data import CompressionData
from slimctr.compression.low_precision.integer_training import IntegerTraining, RowLearning
from slimctr.compression.low_precision.own_training import train_inside
from slimctr.compression.low_precision.rounding import Rounder, Rounding
from slimctr.compression.low_precision.row_optimizers import RowOptimizerName
from slimctr.compression.low_precision.start import (
    LowPrecisionSettings,
    row_blocks,
    start_integer_table,
    with_tables,
)
from slimctr.compression.low_precision.stored import (
    set_untrained_oov_row,
    stored_integer_table,
    stored_wide_table,
)
from slimctr.compression.method import Outcome, Rate
from slimctr.networks import CtrModel
from slimctr.networks.integer_table import StepScope
from slimctr.training.job import set_untrained_oov_rows


class IntegerSettings(LowPrecisionSettings):
    """Bits of the codes, how they are rounded and what trains the rows."""

    bits: Literal[2, 4, 8, 16] = 8
    rounding: Rounding = "stochastic"
    row_optimizer: RowOptimizerName = "adam"
    row_rate_factor: Rate = 1.0


@dataclass(frozen=True)
class StepPlan:
    """Whose steps there are, where they start (None: from the values), and their learning rate (None: fixed)."""

    scope: StepScope
    initial: float | None
    rate: float | None


def train_integer_tables(
    model: CtrModel, data: CompressionData, config: IntegerSettings, plan: StepPlan
) -> Outcome:
    """Train the model of a run with tables that are integer codes all the time, and store them.

    First-order tables are float while training; with `wide_bits=8` they get one step per field afterwards.
    """
    seed, fields = data.training.seed, range(len(model.spec.rows))
    rounder = Rounder(config.rounding, seed)
    tables = [
        start_integer_table(
            row_blocks(model, field, config, seed),
            (model.spec.rows[field], model.spec.tables[field].dim),
            config.bits,
            plan.scope,
            plan.initial,
            rounder,
            field,
        )
        for field in fields
    ]
    starts = {name: float(table.steps[0]) for name, table in zip(model.spec.field_names, tables, strict=True)}
    torch.manual_seed(seed)
    training = with_tables(model, tables, None, fresh=data if config.start == "fresh" else None)
    row_trainer = IntegerTraining(
        training, RowLearning(config.row_optimizer, config.row_rate_factor, rounder), plan.rate
    )
    history, statistics = train_inside(training, data, config, row_trainer)
    for table, counts in zip(tables, data.counts, strict=True):
        set_untrained_oov_row(table, counts)
    set_untrained_oov_rows(training, data.counts)
    stored = [
        stored_integer_table(table, name) for table, name in zip(tables, model.spec.field_names, strict=True)
    ]
    wide = training.wide and [
        stored_wide_table(table, config.wide_bits, data.counts[field])
        for field, table in enumerate(training.wide)
    ]
    statistics |= {
        "initial_steps": starts,
        "training_bytes": {
            "codes": sum(table.codes.nbytes for table in tables),
            "steps": sum(table.steps.nbytes for table in tables),
            "row_optimizer": sum(tensor.nbytes for tensor in row_trainer.held()),
            "float_table_with_adam": 12 * sum(table.rows * table.dim for table in tables),
        },
    }
    return Outcome(with_tables(training, stored, wide), statistics, history)
