"""`lsq_plus`: training of float tables through a quantizer with learned step and offset."""

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from slimctr.compression.data import CompressionData
from slimctr.compression.low_precision.own_training import train_inside
from slimctr.compression.low_precision.start import (
    LowPrecisionSettings,
    low_precision_objection,
    mean_step,
    row_blocks,
    with_tables,
)
from slimctr.compression.low_precision.stored import stored_learned_table
from slimctr.compression.method import Outcome, method
from slimctr.compression.quantization import quantize_columns
from slimctr.networks import CtrModel, ModelSpec
from slimctr.networks.integer_table import code_range
from slimctr.networks.learned_step import LearnedStepTable
from slimctr.training.job import set_untrained_oov_rows

WIDE_BITS = 8


class LsqPlusSettings(LowPrecisionSettings):
    """Bits of the codes, and which tables share a step and offset."""

    start: Literal["fresh", "trained"] = "trained"
    bits: Annotated[int, Field(ge=1, le=8)] = 6
    step_scope: Literal["all", "field"] = "all"


def lsq_plus_objection(spec: ModelSpec, config: LsqPlusSettings) -> str | None:
    """Say why the tables of a model may not be trained through a quantizer."""
    low_rank = [expand.kind == "affine" for expand in spec.expands]
    widths = {table.dim for table, is_low in zip(spec.tables, low_rank, strict=True) if not is_low}
    if config.step_scope == "all" and len(widths) > 1:
        return "its tables differ in width, so they cannot share one offset; set step_scope=field"
    return low_precision_objection(spec, config)


@method("lsq_plus", LsqPlusSettings, lsq_plus_objection)
def lsq_plus(model: CtrModel, data: CompressionData, config: LsqPlusSettings) -> Outcome:
    """Train float rows that are read through their quantized values, and store the codes.

    Whole embeddings share one step and an offset per column, over all tables or within a field; the codes of a
    low-rank table have a step and offset per column, which start where `ptq` would put them. Source: LSQ+ as the
    fixed-bit baseline of arXiv 2409.20305. Rows are float32 while training: this saves nothing but bytes of the
    artifact.
    """
    torch.manual_seed(data.training.seed)
    fresh = data if config.start == "fresh" else None
    training = with_tables(
        model, _tables(model, data, config), _wide_tables(model, data, config), fresh=fresh
    )
    history, statistics = train_inside(training, data, config)
    set_untrained_oov_rows(training, data.counts)
    stored = [stored_learned_table(table) for table in training.tables]
    wide = training.wide and [
        stored_learned_table(table) if isinstance(table, LearnedStepTable) else table
        for table in training.wide
    ]
    return Outcome(with_tables(training, stored, wide), statistics, history)


def _tables(model: CtrModel, data: CompressionData, config: LsqPlusSettings) -> list[LearnedStepTable]:
    spec, fields = model.spec, range(len(model.spec.rows))
    blocks = [row_blocks(model, field, config, data.training.seed) for field in fields]
    whole = [field for field in fields if spec.expands[field].kind != "affine"]
    groups = [whole] if config.step_scope == "all" and whole else [[field] for field in whole]
    tables: dict[int, LearnedStepTable] = {}
    for group in groups:
        step = nn.Parameter(torch.tensor([mean_step([blocks[field] for field in group], config.bits)]))
        offset = nn.Parameter(torch.zeros(spec.tables[group[0]].dim))
        values = sum(spec.rows[field] * spec.tables[field].dim for field in group)
        for field in group:
            weight = torch.cat(list(blocks[field]()))
            tables[field] = LearnedStepTable(weight, config.bits, step, offset, values)
    for field in set(fields) - tables.keys():
        tables[field] = _by_column(model.tables[field].weight, config.bits, data.counts[field])
    return [tables[field] for field in fields]


def _wide_tables(model: CtrModel, data: CompressionData, config: LsqPlusSettings) -> list[nn.Module] | None:
    if model.wide is None or config.wide_bits == 32:
        return None
    if config.start == "trained":
        return [_by_column(table.weight, WIDE_BITS, data.counts[i]) for i, table in enumerate(model.wide)]
    weights = [torch.empty(rows, 1).normal_(std=config.initial_deviation) for rows in model.spec.rows]
    return [_by_column(weight, WIDE_BITS, data.counts[i]) for i, weight in enumerate(weights)]


def _by_column(weight: torch.Tensor, bits: int, counts: np.ndarray) -> LearnedStepTable:
    """A table with a step and offset per column, of least error at the start, rows weighted by use."""
    coded = quantize_columns(weight.detach().numpy(), bits, counts + 1)
    lowest, _ = code_range(bits)
    step = nn.Parameter(torch.from_numpy(coded.scales))
    offset = nn.Parameter(torch.from_numpy(coded.minimums - np.float32(lowest) * coded.scales))
    return LearnedStepTable(weight.detach().clone(), bits, step, offset, len(weight))
