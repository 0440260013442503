"""Low-rank codes of equal size in every column, so that one step per row fits them all."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from slimctr.compression.factors import model_of
from slimctr.networks import CtrModel


def whitened(model: CtrModel, counts: Sequence[NDArray[np.int64]]) -> CtrModel:
    """Return the same function with the codes z of every low-rank table divided by their root mean square per column.

    The basis takes the factors: e = (U s) (z / s) + mean. Rows count as often as training reads them, so s is the
    root of the eigenvalues that `feature_pca` found, and follows where fine-tuning moved the codes. A column of
    zeros stays. `counts` has one array (N_f,) per field.
    """
    state = dict(model.state_dict())
    for field, expand in enumerate(model.spec.expands):
        if expand.kind != "affine":
            continue
        codes = state[f"tables.{field}.weight"].double()
        share = torch.from_numpy(counts[field] / max(int(counts[field].sum()), 1))
        size = (share @ codes.square()).sqrt()
        size = torch.where(size > 0, size, torch.ones_like(size))
        state[f"tables.{field}.weight"] = (codes / size).float()
        state[f"expands.{field}.basis"] = (state[f"expands.{field}.basis"].double() * size).float()
    return model_of(model.spec, state)
