"""Where low-precision training starts: settings all its methods have, values of the rows, the network around."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from slimctr.compression.data import CompressionData
from slimctr.compression.factors import with_parts
from slimctr.compression.low_precision.integer_training import step_floor
from slimctr.compression.low_precision.rounding import Rounder
from slimctr.compression.method import Rate, Settings, not_float
from slimctr.networks import (
    CtrModel,
    FloatTable,
    HalfTable,
    ModelSpec,
    QuantizedTable,
    TableSpec,
    build_model,
)
from slimctr.networks.integer_table import IntegerTable, StepScope
from slimctr.networks.tables import build_table
from slimctr.training import TrainConfig, set_start_bias
from slimctr.training.config import Epochs

BLOCK_ROWS = 65_536

Blocks = Callable[[], Iterator[Tensor]]


class LowPrecisionSettings(Settings):
    """Settings of the methods that train tables of low precision themselves.

    `start=fresh` draws new weights and trains as the run was trained; `start=trained` goes on from its weights,
    like the fine-tuning of other methods. `epochs` and `learning_rate_factor` follow from it when not given.
    """

    epochs: Epochs | None = None
    learning_rate_factor: Rate | None = None
    train_codes: Literal[True] = True
    start: Literal["fresh", "trained"] = "fresh"
    initial_deviation: Rate = 0.003
    wide_bits: Literal[8, 32] = 8

    def retraining(self, config: TrainConfig) -> None:
        """Return None: these methods train by themselves."""

    def own_training(self, config: TrainConfig) -> TrainConfig:
        """Return how the method trains a model of a run that was trained by `config`."""
        if self.start == "fresh":
            rate = config.learning_rate * (self.learning_rate_factor or 1.0)
            return config.changed(epochs=self.epochs or config.epochs, learning_rate=rate)
        rate = config.learning_rate * (self.learning_rate_factor or 0.1)
        return config.changed(epochs=self.epochs or 2, learning_rate=rate, schedule="plateau")


def low_precision_objection(spec: ModelSpec, config: LowPrecisionSettings) -> str | None:
    """Say why the tables of a model may not be trained in low precision."""
    if reason := not_float(spec, ", and a second grid would only add error", wide=True):
        return reason
    if config.start == "fresh" and any(layer.kind != "linear" for layer in spec.layers):
        return "its MLP is factored, and new weights would lose that; set start=trained"
    if config.start == "fresh" and any(expand.kind in ("affine", "projection") for expand in spec.expands):
        return "its tables have trained bases, and new weights would lose them; set start=trained"
    return None


def row_blocks(model: CtrModel, field: int, config: LowPrecisionSettings, seed: int) -> Blocks:
    """Return a function that iterates over the first values of a table, a block of rows at a time.

    New values are drawn again by each call from `seed` and `field`, so that the float table never exists.
    """
    if config.start == "trained":
        return lambda: iter(model.tables[field].weight.detach().split(BLOCK_ROWS))
    rows, dim = model.spec.rows[field], model.spec.tables[field].dim

    def draw() -> Iterator[Tensor]:
        generator = torch.Generator()
        generator.manual_seed(int(np.random.SeedSequence([seed, field]).generate_state(1)[0]))
        for begin in range(0, rows, BLOCK_ROWS):
            block = torch.empty(min(BLOCK_ROWS, rows - begin), dim)
            yield block.normal_(std=config.initial_deviation, generator=generator)

    return draw


def mean_step(blocks: Sequence[Blocks], bits: int) -> float:
    """Return 2 mean|w| / sqrt(2^(bits-1)) over the values of some tables (arXiv 2409.20305; LSQ)."""
    total, values = 0.0, 0
    for table in blocks:
        for block in table():
            total += float(block.abs().sum(dtype=torch.float64))
            values += block.numel()
    return 2 * total / values / 2 ** ((bits - 1) / 2)


def start_integer_table(
    blocks: Blocks,
    shape: tuple[int, int],
    bits: int,
    scope: StepScope,
    step: float | None,
    rounder: Rounder,
    index: int,
) -> IntegerTable:
    """Return an integer table (N, d) of the values of `blocks`; `step` None takes `mean_step`."""
    table = IntegerTable(*shape, bits, scope)
    table.steps.fill_(max(mean_step([blocks], bits) if step is None else step, step_floor(bits)))
    begin = 0
    for block in blocks():
        rows = torch.arange(begin, begin + len(block))
        positions = block / table.steps_of(rows)
        table.write(rows, rounder.codes(positions, bits, step=0, table=index, rows=rows))
        begin += len(block)
    return table


def with_tables(
    model: CtrModel,
    tables: Sequence[nn.Module],
    wide: Sequence[nn.Module] | None,
    *,
    fresh: CompressionData | None = None,
) -> CtrModel:
    """Return a model like `model` around other tables; its own first-order tables stay when `wide` is None.

    The rest has the weights of `model`; with `fresh` those that a training on these data starts from, drawn from
    torch's global generator.
    """
    if wide is None and model.wide is not None:
        wide = [build_table(spec, n) for spec, n in zip(model.spec.wide, model.spec.rows, strict=True)]
        if fresh is None:
            nn.ModuleList(wide).load_state_dict(model.wide.state_dict())
    kinds = {"tables": [table_spec(table) for table in tables], "wide": [table_spec(t) for t in wide or ()]}
    one_row = with_parts(model.spec, **kinds, rows=[1] * len(tables))  # the tables it builds are thrown away
    other = build_model(one_row)
    if fresh is None:
        other.expands.load_state_dict(model.expands.state_dict())
        other.backbone.load_state_dict(model.backbone.state_dict())
    else:
        set_start_bias(other, fresh.training, fresh.dataset)
    other.spec = with_parts(one_row, rows=model.spec.rows)
    other.tables = nn.ModuleList(tables)
    other.wide = nn.ModuleList(wide) if wide else None
    return other.eval()


def table_spec(table: nn.Module) -> TableSpec:
    """Say what a table stores; an integer table what it is stored as."""
    if isinstance(table, QuantizedTable):
        return TableSpec(kind="quantized", dim=table.codes.shape[1], bits=table.bits, scale=table.scale)
    if isinstance(table, IntegerTable):
        if table.bits == 16:
            return TableSpec(kind="half", dim=table.dim)
        scale = "row" if table.scope == "row" else "column"
        return TableSpec(kind="quantized", dim=table.dim, bits=table.bits, scale=scale)
    if not isinstance(table, FloatTable | HalfTable):
        raise TypeError(f"no specification for a {type(table).__name__}")
    return TableSpec(kind="half" if isinstance(table, HalfTable) else "float", dim=table.weight.shape[1])
