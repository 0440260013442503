"""`small_dim`: the same network with narrower embeddings, trained from scratch; the control of every table method."""

from typing import Annotated

from pydantic import Field

from slimctr.compression.data import CompressionData
from slimctr.compression.method import Count, FromScratchSettings, Outcome, method
from slimctr.errors import CompressionError
from slimctr.networks import CtrModel, ModelSpec
from slimctr.training import initial_model


class SmallDimSettings(FromScratchSettings):
    """One width for all fields: `dim`, or None for the largest that takes `budget_ratio` of the table bytes."""

    dim: Count | None = None
    budget_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5


def small_dim_objection(spec: ModelSpec, config: SmallDimSettings) -> str | None:
    """It starts over, so anything done before would be lost."""
    parts = (*spec.tables, *spec.wide, *spec.expands, *spec.layers)
    if any(part.kind not in ("float", "identity", "linear") for part in parts):
        return (
            "it trains a narrower network from scratch, and what was done before would be lost; start with it"
        )
    if config.dim is not None and config.dim >= spec.dim:
        return f"dim {config.dim} is not below the embedding width {spec.dim}"
    return None


@method("small_dim", SmallDimSettings, small_dim_objection)
def small_dim(model: CtrModel, data: CompressionData, config: SmallDimSettings) -> Outcome:
    """Return the network with narrower embeddings and initial weights drawn from the seed of the run."""
    whole = model.spec.dim
    dim = config.dim or int(config.budget_ratio * whole * (1 + 1e-12))
    if dim < 1:
        raise CompressionError(
            f"'small_dim' is not available: {config.budget_ratio} of {whole} columns is less than one"
        )
    smaller = initial_model(data.training.changed(dim=dim), data.dataset)
    return Outcome(smaller, {"dim": dim, "bytes_kept": dim / whole, "dims_kept": dim / whole})
