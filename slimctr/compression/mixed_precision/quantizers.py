"""Which tables share steps and offsets, and where those start."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from slimctr.networks import ModelSpec
from slimctr.networks.mixed_training import Quantizers

ScaleScope = Literal["all", "field"]


def offset_columns(spec: ModelSpec) -> list[Tensor | None]:
    """Return per field the columns of the shared offset that its table has: the kept ones after a column search."""
    return [
        None if expand.columns is None else torch.tensor(expand.columns, dtype=torch.int64)
        for expand in spec.expands
    ]


def start_quantizers(
    spec: ModelSpec, rows: Sequence[Tensor], most: int, scope: ScaleScope
) -> list[Quantizers]:
    """Return the quantizers of every field, for rows (N_f, d_f).

    Whole embeddings share one step per width and an offset per column of the embedding, over all tables or, with
    `field`, within a field. The codes of a low-rank or projected table have both per column and field, because
    columns of different tables are unrelated. A step starts at 2 mean|w| / sqrt(2^(bits-1)).
    """
    shared = [expand.kind in ("identity", "scatter") for expand in spec.expands]
    together = [table for table, is_shared in zip(rows, shared, strict=True) if is_shared]
    one = None
    if together and scope == "all":
        one = _quantizers(
            _mean_size(together).reshape(1, 1), spec.dim, most, sum(t.numel() for t in together)
        )
    found = []
    for table, is_shared in zip(rows, shared, strict=True):
        if is_shared:
            found.append(one or _quantizers(_mean_size([table]).reshape(1, 1), spec.dim, most, table.numel()))
        else:
            sizes = table.abs().mean(dim=0, keepdim=True)
            found.append(_quantizers(sizes, table.shape[1], most, len(table)))
    return found


def _mean_size(tables: Sequence[Tensor]) -> Tensor:
    total = sum(float(table.abs().sum(dtype=torch.float64)) for table in tables)
    return torch.tensor(total / sum(table.numel() for table in tables))


def _quantizers(mean_size: Tensor, dim: int, most: int, values: int) -> Quantizers:
    widths = torch.arange(1, most + 1, dtype=torch.float32).unsqueeze(1)
    return Quantizers(2 * mean_size / 2 ** ((widths - 1) / 2), torch.zeros(dim), values)
