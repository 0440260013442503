"""`lpt`: training with integer codes as the only table, on a fixed step."""

from typing import Annotated

import numpy as np
from pydantic import Field

from slimctr.compression.data import CompressionData
from slimctr.compression.low_precision.integer_method import (
    IntegerSettings,
    StepPlan,
    train_integer_tables,
)
from slimctr.compression.low_precision.integer_training import SMALLEST_STORED_STEP
from slimctr.compression.low_precision.start import low_precision_objection
from slimctr.compression.method import Outcome, method
from slimctr.networks import CtrModel, ModelSpec


class LptSettings(IntegerSettings):
    """Adds the step of every table, rounded to float16 before training."""

    step: Annotated[float, Field(ge=SMALLEST_STORED_STEP, le=1)] = 0.01


def lpt_objection(spec: ModelSpec, config: LptSettings) -> str | None:
    """Say why the tables of a model may not be trained on one fixed step."""
    if any(expand.kind == "affine" for expand in spec.expands):
        return (
            "its tables are of low rank, and one step does not fit their codes and other tables alike; alpt takes a "
            "step per row of whitened codes, ptq and lsq_plus take a step per column"
        )
    return low_precision_objection(spec, config)


@method("lpt", LptSettings, lpt_objection)
def lpt(model: CtrModel, data: CompressionData, config: LptSettings) -> Outcome:
    """Train on with codes alone: dequantize the rows of a batch, step in float32, round back to codes.

    Source: the LPT of arXiv 2212.05735. The step is one number for all tables, to be chosen on validation rows.
    """
    step = float(np.float16(config.step))
    return train_integer_tables(model, data, config, StepPlan("table", step, None))
