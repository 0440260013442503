"""`hash_qr`: rows made of a quotient and a remainder row, trained from scratch; a control of every table method."""

from typing import Annotated, Literal

import torch
from pydantic import Field

from slimctr.compression.data import CompressionData
from slimctr.compression.factors import with_parts
from slimctr.compression.method import FromScratchSettings, Outcome, method
from slimctr.networks import CtrModel, ModelSpec, TableSpec, build_model
from slimctr.training import set_start_bias


class HashQrSettings(FromScratchSettings):
    """The divisor of row numbers, and how the two rows are combined."""

    divisor: Annotated[int, Field(ge=2, le=2**31 - 1)] = 2
    combine: Literal["sum", "product"] = "sum"


def hash_qr_objection(spec: ModelSpec, config: HashQrSettings) -> str | None:
    """It starts over, so anything done before would be lost."""
    parts = (*spec.tables, *spec.wide, *spec.expands, *spec.layers)
    if any(part.kind not in ("float", "identity", "linear") for part in parts):
        return "it trains other tables from scratch, and what was done before would be lost; start with it"
    if not any(pays(rows, config.divisor) for rows in spec.rows):
        return f"no table of {max(spec.rows)} rows or fewer gets smaller by a divisor of {config.divisor}"
    return None


def pays(rows: int, divisor: int) -> bool:
    """Say whether quotients and remainders are fewer than the rows."""
    return -(-rows // divisor) + divisor < rows


@method("hash_qr", HashQrSettings, hash_qr_objection)
def hash_qr(model: CtrModel, data: CompressionData, config: HashQrSettings) -> Outcome:
    """Return the network with quotient-remainder tables and initial weights drawn from the seed of the run.

    Rows are divided within each field; a field too small to gain keeps its table, and so do first-order tables.
    """
    spec = model.spec
    divided = TableSpec(
        kind="quotient_remainder", dim=spec.dim, divisor=config.divisor, combine=config.combine
    )
    tables = [
        divided if pays(rows, config.divisor) else table
        for rows, table in zip(spec.rows, spec.tables, strict=True)
    ]
    torch.manual_seed(data.training.seed)
    smaller = build_model(with_parts(spec, tables=tables))
    set_start_bias(smaller, data.training, data.dataset)
    names = [n for n, table in zip(spec.field_names, tables, strict=True) if table.divisor is None]
    return Outcome(smaller, {"whole_fields": names})
