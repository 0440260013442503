"""The golden rows of an artifact: rows with the logits that this version gave where it was made.

The first rows are there as raw values, too: they go through the encoder at every load, so that a value that gets
another row than at publishing is noticed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model_store.artifact import GOLDEN_FILE, GOLDEN_VALUES_FILE
from model_store.strict_json import parse_object
from model_store.tensors import write_tensors
from slimctr.errors import EngineError, FeatureError, ParityError
from slimctr.features.batch import Bag, EncodedBatch
from slimctr.features.encoder import Encoder
from slimctr.features.schema import FeatureSchema
from slimctr.scoring.digest import REPAIR

UNLISTED = "a value that no log has"
"""Stands among the golden values of every categorical field, for the out-of-vocabulary row."""


@dataclass(frozen=True)
class Golden:
    """G rows and their logits, float32 (G,)."""

    batch: EncodedBatch
    logits: npt.NDArray[np.float32]


@dataclass(frozen=True)
class GoldenValues:
    """Raw values of every field, each once, and the digest of the vocabulary of training.

    The longest list has one value for each of the first V golden rows; a shorter one begins anew at its end.
    """

    base_vocabulary: str
    values: Mapping[str, Sequence[Any]]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows as a client sends them."""
        count = max(map(len, self.values.values()))
        return [
            {name: column[row % len(column)] for name, column in self.values.items()} for row in range(count)
        ]


def save_golden(folder: Path, golden: Golden, values: GoldenValues, schema: FeatureSchema) -> None:
    """Write `golden.safetensors` and `golden.json`."""
    write_tensors(folder / GOLDEN_FILE, golden_tensors(golden, schema))
    document = {"base_vocabulary": values.base_vocabulary, "values": dict(values.values)}
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    (folder / GOLDEN_VALUES_FILE).write_text(text + "\n", encoding="utf-8")


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


def read_golden_values(data: bytes, schema: FeatureSchema) -> GoldenValues:
    """Return what `golden.json` says; raise EngineError when it does not have values of every field."""
    try:
        document = parse_object(data)
    except ValueError as problem:
        raise EngineError(f"{GOLDEN_VALUES_FILE}: {problem}") from None
    base, values = document.get("base_vocabulary"), document.get("values")
    if set(document) != {"base_vocabulary", "values"} or not isinstance(base, str):
        raise EngineError(f"{GOLDEN_VALUES_FILE}: has base_vocabulary and values, nothing else")
    if not isinstance(values, dict) or set(values) != set(schema.names):
        raise EngineError(f"{GOLDEN_VALUES_FILE}: values are a list of every field of the schema")
    if not all(isinstance(column, list) and column for column in values.values()):
        raise EngineError(f"{GOLDEN_VALUES_FILE}: every field has a list of values, at least one")
    return GoldenValues(base, {name: values[name] for name in schema.names})


def check_golden_values(values: GoldenValues, golden: Golden, encoder: Encoder) -> None:
    """Encode the raw values; raise ParityError at the first that does not get the row of `golden`."""
    schema = encoder.schema
    try:
        encoded = encoder.encode_rows(values.rows)
    except FeatureError as problem:
        raise ParityError(f"{GOLDEN_VALUES_FILE}: {problem}; {REPAIR}") from None
    if len(encoded) > len(golden.batch):
        raise ParityError(
            f"{GOLDEN_VALUES_FILE}: {len(encoded)} rows of values, {GOLDEN_FILE} has {len(golden.batch)}"
        )
    stored = golden.batch.slice(0, len(encoded))
    for column, position in enumerate(schema.single):
        differs = np.flatnonzero(encoded.ids[:, column] != stored.ids[:, column])
        if len(differs):
            row = int(differs[0])
            found, expected = int(encoded.ids[row, column]), int(stored.ids[row, column])
            raise _other_row(schema.names[position], row, found, expected)
    for position, found_bag, stored_bag in zip(schema.multi, encoded.bags, stored.bags, strict=True):
        for row in range(len(encoded)):
            found_rows, expected_rows = (_bag_rows(bag, row) for bag in (found_bag, stored_bag))
            if found_rows != expected_rows:
                raise _other_row(schema.names[position], row, found_rows, expected_rows)


def _bag_rows(bag: Bag, row: int) -> list[int]:
    rows: list[int] = bag.values[bag.offsets[row] : bag.offsets[row + 1]].tolist()
    return rows


def _other_row(field: str, row: int, found: int | list[int], expected: int | list[int]) -> ParityError:
    # the value itself is a client's, and this message goes to logs
    return ParityError(
        f"{GOLDEN_VALUES_FILE}: value {row} of field '{field}' gets row {found} of its table, at publishing it got "
        f"{expected}: vocabulary, bucketing or hashing changed; {REPAIR}"
    )
