"""The golden rows of an artifact: rows with the logits that this version gave where it was made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from slimctr.errors import EngineError
from slimctr.features.batch import Bag, EncodedBatch
from slimctr.features.schema import FeatureSchema


@dataclass(frozen=True)
class Golden:
    """G rows and their logits, float32 (G,)."""

    batch: EncodedBatch
    logits: npt.NDArray[np.float32]


def golden_tensors(golden: Golden, schema: FeatureSchema) -> dict[str, npt.NDArray[Any]]:
    """Return the tensors of `golden.safetensors`."""
    tensors: dict[str, npt.NDArray[Any]] = {"ids": golden.batch.ids, "logits": golden.logits}
    for position, bag in zip(schema.multi, golden.batch.bags, strict=True):
        name = schema.fields[position].name
        tensors[f"bag_{name}_values"] = bag.values
        tensors[f"bag_{name}_offsets"] = bag.offsets
    return tensors


def read_golden(tensors: Mapping[str, npt.NDArray[Any]], schema: FeatureSchema) -> Golden:
    """Return the golden rows in `tensors`; raise EngineError when they are not rows of `schema`."""
    names = [schema.fields[position].name for position in schema.multi]
    expected = {"ids", "logits", *(f"bag_{name}_{part}" for name in names for part in ("values", "offsets"))}
    if set(tensors) != expected:
        odd = ", ".join(sorted(set(tensors) ^ expected))
        raise EngineError(f"golden.safetensors does not fit the schema: {odd}")
    ids, logits = tensors["ids"], tensors["logits"]
    if ids.ndim != 2 or ids.shape[1] != len(schema.single) or len(ids) == 0:
        raise EngineError(f"golden.safetensors: ids are {ids.shape}; (rows, {len(schema.single)}) is needed")
    if logits.dtype != np.float32 or logits.shape != (len(ids),) or not np.isfinite(logits).all():
        raise EngineError("golden.safetensors: the logits are not one finite float32 per row")
    try:
        bags = tuple(Bag(tensors[f"bag_{name}_values"], tensors[f"bag_{name}_offsets"]) for name in names)
        return Golden(EncodedBatch.uncounted(ids, bags), logits)
    except (TypeError, ValueError) as problem:
        raise EngineError(f"golden.safetensors: {problem}") from None
