"""Orthogonal regularity: a penalty on embedding columns that say the same."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from slimctr.networks import CtrModel, ModelSpec
from slimctr.training.trainer import Penalty

SMALLEST_NORM = 1e-12
DRAWN_ROWS = 8_192

Rows = Literal["batch", "uniform"]


def column_overlap(x: Tensor) -> Tensor:
    """Return R = |Xn^T Xn - I|^2 / D^2 per field: rows x (B, F, D) give (F,), each in [0, 1).

    Xn is x with every column divided by its norm over the rows; a column of zeros stays zero. R does not depend
    on the scale of a column, is 0 for orthogonal columns and near 1 when all columns are alike. Column
    orthogonality after arXiv 2208.08004; this form is ours.
    """
    columns = functional.normalize(x, dim=0, eps=SMALLEST_NORM)
    overlap = torch.einsum("bfd,bfe->fde", columns, columns)
    dim = x.shape[2]
    return (overlap - torch.eye(dim, dtype=x.dtype, device=x.device)).square().sum(dim=(1, 2)) / dim**2


def regularity(spec: ModelSpec, weight: float, rows: Rows = "batch") -> Penalty | None:
    """Return the penalty `weight` times the mean overlap over the fields, None when it is nothing.

    With `rows="batch"` a value counts as often as the batch reads it, a bag of values as the one vector that it
    is pooled to. With `rows="uniform"` every row of a table counts once; of large tables 8,192 are drawn anew
    for each step. Fields with fewer rows than columns are left out: their columns cannot be orthogonal.
    """
    fields = [field for field, count in enumerate(spec.rows) if count >= spec.dim]
    if not weight or not fields:
        return None

    def of_batch(model: CtrModel, stored: Tensor) -> Tensor:
        x = stored[:, : spec.code_width].reshape(len(stored), len(spec.rows), spec.dim)
        return weight * column_overlap(x[:, fields]).mean()

    def of_tables(model: CtrModel, stored: Tensor) -> Tensor:
        drawn = [model.tables[field](_some_rows(spec.rows[field])) for field in fields]
        return weight * torch.cat([column_overlap(x.unsqueeze(1)) for x in drawn]).mean()

    return of_batch if rows == "batch" else of_tables


def _some_rows(count: int) -> Tensor:
    return torch.arange(count) if count <= DRAWN_ROWS else torch.randint(count, (DRAWN_ROWS,))
