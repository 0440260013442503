"""The calls of a profile, written ahead of the run so that the generator only sends; and the check of each answer."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.profile import Profile, ZipfIds
from loadtest.rows import Row, Rows, RowSource, Zipf


@dataclass(frozen=True)
class Call:
    """One scoring request: where it goes, its body, how many scores must come back, and the clicks if known."""

    path: str
    body: bytes
    rows: int
    clicks: tuple[int, ...] | None = None


def write_named_calls(profile: Profile, source: RowSource, model: str | None, count: int) -> list[Call]:
    """Return `count` calls of `/v1/predict`; the same profile, source and seed give the same bytes."""
    random = np.random.default_rng(profile.seed)
    calls = []
    for size in _sizes(profile, count, random):
        rows = source.draw(size, random)
        document: dict[str, Any] = {} if model is None else {"model": model}
        if profile.unit_field is not None:
            document["unit_id"] = f"{profile.unit_field}:{rows.values[0][profile.unit_field]}"
        document.update(_form(profile, rows))
        clicks = tuple(rows.clicks) if profile.outcomes and rows.clicks is not None else None
        calls.append(Call("/v1/predict", json_bytes(document), size, clicks))
    return calls


def json_bytes(document: dict[str, Any]) -> bytes:
    """Return the document as compact JSON."""
    return json.dumps(document, separators=(",", ":")).encode()


def _form(profile: Profile, rows: Rows) -> dict[str, Any]:
    if profile.encoding == "columns":
        return {"columns": {name: [row.get(name) for row in rows.values] for name in rows.values[0]}}
    if profile.encoding == "slate":
        inside = set(profile.candidate_fields)
        context = {name: value for name, value in rows.values[0].items() if name not in inside}
        return {"context": context, "candidates": [_only(row, inside) for row in rows.values]}
    return {"instances": rows.values}


def _only(row: Row, names: set[str]) -> Row:
    return {name: value for name, value in row.items() if name in names}


def write_id_calls(
    profile: Profile, ids: ZipfIds, model: str, inputs: Sequence[dict[str, Any]], count: int
) -> list[Call]:
    """Return `count` calls of `/v2/models/{model}/infer` for the `inputs` that the model's metadata lists."""
    random = np.random.default_rng(profile.seed)
    zipf = Zipf(ids.ids_per_field, ids.exponent)
    calls = []
    for size in _sizes(profile, count, random):
        tensors = [tensor for entry in inputs for tensor in _tensors(entry, size, zipf, random)]
        calls.append(Call(f"/v2/models/{model}/infer", json_bytes({"inputs": tensors}), size))
    return calls


def _tensors(
    entry: dict[str, Any], size: int, zipf: Zipf, random: np.random.Generator
) -> list[dict[str, Any]]:
    """Return the tensors of one metadata entry; a bag's offsets come with its values."""
    name: str = entry["name"]
    if name.endswith(".offsets"):
        return []
    if name.endswith(".values"):
        offsets = [0, *np.cumsum(random.integers(1, 4, size)).tolist()]
        values = zipf.draw(offsets[-1], random).tolist()
        bag = name.removesuffix(".values")
        return [_tensor(name, [len(values)], values), _tensor(f"{bag}.offsets", [len(offsets)], offsets)]
    width = int(entry["shape"][1])
    return [_tensor(name, [size, width], zipf.draw(size * width, random).tolist())]


def _tensor(name: str, shape: list[int], data: list[int]) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": "INT64", "data": data}


def _sizes(profile: Profile, count: int, random: np.random.Generator) -> list[int]:
    sizes = np.array(list(profile.rows_per_request))
    shares = np.array(list(profile.rows_per_request.values()))
    return [int(size) for size in random.choice(sizes, count, p=shares / shares.sum())]


def complaint_about(call: Call, answer: bytes) -> str | None:
    """Return what is wrong with an answer, None when it has one probability per row."""
    try:
        document = json.loads(answer)
        if "outputs" in document:
            scores = next(tensor["data"] for tensor in document["outputs"] if tensor["name"] == "pctr")
        else:
            scores = document["scores"]
    except (json.JSONDecodeError, KeyError, TypeError, StopIteration) as error:
        return f"the answer has no scores: {error!r}"
    if len(scores) != call.rows:
        return f"{len(scores)} scores for {call.rows} rows"
    if not all(
        isinstance(score, int | float) and math.isfinite(score) and 0 <= score <= 1 for score in scores
    ):
        return "a score is no probability"
    return None
