"""`alpt`: training with integer codes as the only table, and a learned step for every row."""

from slimctr.compression.data import CompressionData
from slimctr.compression.low_precision.integer_method import (
    IntegerSettings,
    StepPlan,
    train_integer_tables,
)
from slimctr.compression.low_precision.start import low_precision_objection
from slimctr.compression.method import Outcome, Rate, method
from slimctr.compression.whitening import whitened
from slimctr.networks import CtrModel


class AlptSettings(IntegerSettings):
    """Adds where the steps start (None: 2 mean|w| / sqrt(2^(bits-1)) of their table) and how fast they learn."""

    initial_step: Rate | None = None
    step_learning_rate: Rate = 2e-5


@method("alpt", AlptSettings, low_precision_objection)
def alpt(model: CtrModel, data: CompressionData, config: AlptSettings) -> Outcome:
    """Train as `lpt` does, and learn the steps of the rows of each batch in a second pass over it.

    Source: arXiv 2212.05735. Start and floor of the steps are not stated there and are ours, as is the learning
    rate of the steps falling with that of the network. Low-rank codes are whitened first, so that the one step of a
    row fits all its columns.
    """
    plan = StepPlan("row", config.initial_step, config.step_learning_rate)
    return train_integer_tables(whitened(model, data.counts), data, config, plan)
