"""`magnitude_elements`: the largest single values of all tables, behind masks; a control of every table method."""

from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from model_store.codecs import index_bytes
from slimctr.compression.data import CompressionData
from slimctr.compression.factors import model_of, with_parts
from slimctr.compression.method import ExtraEpochs, Outcome, Settings, method, not_float
from slimctr.errors import CompressionError
from slimctr.networks import CtrModel, MaskedTable, ModelSpec, TableSpec
from slimctr.training import estimate_batch_norm


class MagnitudeElementsSettings(Settings):
    """Bytes of the embedding tables that may stay, masks and offsets included, and the bits of a kept value."""

    epochs: ExtraEpochs = 2
    budget_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    value_bits: Literal[16, 32] = 32


def elements_objection(spec: ModelSpec, config: MagnitudeElementsSettings) -> str | None:
    """Values are taken from whole float tables, once."""
    if reason := not_float(spec, ", and zeros would not make their codes fewer"):
        return reason
    if any(expand.kind != "identity" for expand in spec.expands):
        return "another method made its tables smaller already; start from the run before that"
    return None


@method("magnitude_elements", MagnitudeElementsSettings, elements_objection)
def magnitude_elements(model: CtrModel, data: CompressionData, config: MagnitudeElementsSettings) -> Outcome:
    """Keep the values of largest magnitude over all embedding tables, as many as the byte budget pays for.

    The others are zero and stay zero: fine-tuning has nothing but the kept values. First-order tables stay whole.
    """
    spec = model.spec
    weights = [table.weight.detach() for table in model.tables]
    whole = sum(4 * weight.numel() for weight in weights)
    index = sum(index_bytes(*weight.shape) for weight in weights)
    count = 8 * (int(config.budget_ratio * whole * (1 + 1e-12)) - index) // config.value_bits
    if count < 1:
        raise CompressionError(
            f"budget_ratio {config.budget_ratio} of {whole} bytes is too small: masks and offsets take {index}"
        )
    every = np.concatenate([weight.abs().numpy().reshape(-1) for weight in weights])
    chosen = torch.from_numpy(largest(every, count)).split([weight.numel() for weight in weights])
    kept = [part.reshape(weight.shape) for part, weight in zip(chosen, weights, strict=True)]
    state, specs = dict(model.state_dict()), []
    for field, (weight, mask) in enumerate(zip(weights, kept, strict=True)):
        table = MaskedTable.of(weight, mask, config.value_bits)
        del state[f"tables.{field}.weight"]
        state |= {f"tables.{field}.{name}": tensor for name, tensor in table.state_dict().items()}
        specs.append(
            TableSpec(kind="masked", dim=table.dim, kept=len(table.values), value_bits=config.value_bits)
        )
    smaller = model_of(with_parts(spec, tables=specs), state)
    shares = {name: float(mask.float().mean()) for name, mask in zip(spec.field_names, kept, strict=True)}
    statistics = {
        **{"kept_values": sum(table.kept for table in specs), "values": len(every), "kept_share": shares},
        "batch_norm_batches": estimate_batch_norm(smaller, data.split("train"), data.training),
    }
    return Outcome(smaller, statistics)


def largest(magnitudes: NDArray[np.float32], count: int) -> NDArray[np.bool_]:
    """Return which `count` of `magnitudes` (n,) are largest, the first of equal ones; all when there are fewer."""
    if count >= len(magnitudes):
        return np.ones(len(magnitudes), bool)
    threshold = np.partition(magnitudes, len(magnitudes) - count)[len(magnitudes) - count]
    kept = magnitudes > threshold
    kept[np.flatnonzero(magnitudes == threshold)[: count - int(kept.sum())]] = True
    return kept
