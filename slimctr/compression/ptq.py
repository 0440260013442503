"""`ptq`: quantization of trained tables without training."""

from typing import Any, Literal

import numpy as np
import torch

from slimctr.compression.data import CompressionData
from slimctr.compression.factors import model_of, with_parts
from slimctr.compression.method import ExtraEpochs, Outcome, Settings, method, not_float
from slimctr.compression.quantization import ColumnCodes, RowCodes, quantize_columns, quantize_rows
from slimctr.compression.row_dropping import table_counts
from slimctr.compression.whitening import whitened
from slimctr.errors import CompressionError
from slimctr.networks import CtrModel, ModelSpec, TableSpec


class PtqSettings(Settings):
    """Bits of the embedding tables and of the first-order tables (32 leaves those float), and whose steps there are.

    `low_rank_scale=row` gives low-rank codes, whitened, a step per row instead of one per column.
    """

    epochs: ExtraEpochs = 0
    bits: Literal[2, 4, 8] = 8
    wide_bits: Literal[8, 32] = 8
    low_rank_scale: Literal["column", "row"] = "column"


def ptq_objection(spec: ModelSpec, config: PtqSettings) -> str | None:
    """Tables are quantized once."""
    return not_float(spec, ", and a second grid would only add error")


@method("ptq", PtqSettings, ptq_objection, takes_mapped=True)
def ptq(model: CtrModel, data: CompressionData, config: PtqSettings) -> Outcome:
    """Replace float tables by integer codes.

    A table of whole embeddings gets a scale and minimum per row (float16); a table of low-rank codes one
    step per column, because its columns differ in variance, unless these are made equal (`low_rank_scale`); a
    first-order table one step for the whole field. Column steps are chosen for the least error weighted by training use.
    """
    counts = table_counts(model, data.counts)
    by_row = {"identity"}
    if config.low_rank_scale == "row":
        model, by_row = whitened(model, counts), {"identity", "affine"}
    state = dict(model.state_dict())
    specs, errors = [], {}
    for i, name in enumerate(model.spec.field_names):
        weight = model.tables[i].weight.detach().numpy()
        try:
            if model.spec.expands[i].kind in by_row:
                coded: RowCodes | ColumnCodes = quantize_rows(weight, config.bits)
            else:
                coded = quantize_columns(weight, config.bits, counts[i] + 1)
        except ValueError as problem:
            raise CompressionError(f"field '{name}' cannot be quantized: {problem}") from None
        specs.append(_put(state, f"tables.{i}", coded, config.bits))
        matrix, _ = model.expands[i].block()
        errors[name] = _relative_error(weight, coded, counts[i], matrix.detach().numpy())
    parts: dict[str, Any] = {"tables": specs}
    if model.wide is not None and config.wide_bits == 8:
        parts["wide"] = [
            _put(
                state,
                f"wide.{i}",
                quantize_columns(table.weight.detach().numpy(), config.wide_bits, counts[i] + 1),
                config.wide_bits,
            )
            for i, table in enumerate(model.wide)
        ]
    smaller = model_of(with_parts(model.spec, **parts), state)
    return Outcome(smaller, {"relative_squared_error": errors})


def _put(state: dict[str, torch.Tensor], prefix: str, coded: RowCodes | ColumnCodes, bits: int) -> TableSpec:
    """Replace the weight under `prefix` by codes and say what the table is now."""
    del state[f"{prefix}.weight"]
    state[f"{prefix}.codes"] = torch.from_numpy(coded.codes)
    state[f"{prefix}.scales"] = torch.from_numpy(coded.scales)
    state[f"{prefix}.minimums"] = torch.from_numpy(coded.minimums)
    scale = "row" if isinstance(coded, RowCodes) else "column"
    return TableSpec(kind="quantized", dim=coded.codes.shape[1], bits=bits, scale=scale)


def _relative_error(
    weight: np.ndarray, coded: RowCodes | ColumnCodes, counts: np.ndarray, matrix: np.ndarray
) -> float:
    """Squared error over squared norm of rows expanded by `matrix` (d, D), both weighted by training use."""
    share = counts.astype(np.float64)
    error = share @ np.square((coded.values().astype(np.float64) - weight) @ matrix).sum(axis=1)
    norm = share @ np.square(weight.astype(np.float64) @ matrix).sum(axis=1)
    return float(f"{error / norm:.6g}") if norm > 0 else 0.0
