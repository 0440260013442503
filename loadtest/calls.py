"""The calls of a profile, written ahead of the run so that the generator only sends; and the check of each answer."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from loadtest.arrow import MEDIA_TYPE, arrow_stream
from loadtest.profile import ID_ENCODINGS, Profile, ZipfIds
from loadtest.rows import Row, Rows, RowSource, Zipf
from model_store.names import UNIT_ID

if TYPE_CHECKING:
    from slimctr.features import Encoder

JSON_HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}
Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Call:
    """One scoring request: where it goes, its body, how many scores must come back, and the clicks if known."""

    path: str
    body: bytes
    rows: int
    clicks: tuple[int, ...] | None = None
    headers: Mapping[str, str] = field(default_factory=JSON_HEADERS.copy)


def write_named_calls(profile: Profile, source: RowSource, model: str | None, count: int) -> list[Call]:
    """Return `count` calls of rows from `source`; the same profile, source and seed give the same bytes."""
    random = np.random.default_rng(profile.seed)
    calls = []
    for size in _sizes(profile, count, random):
        rows = source.draw(size, random)
        unit_id = None if profile.unit_field is None else unit_of(profile.unit_field, rows.values[0])
        # Without a unit an answer is no exposure, and its outcomes would be orphans.
        reports = profile.outcomes and unit_id is not None and rows.clicks is not None
        clicks = tuple(rows.clicks) if reports and rows.clicks is not None else None
        if profile.encoding in ID_ENCODINGS:
            assert source.encoder is not None
            tensors = _encoded(source.encoder, rows.values)
            calls.append(_infer_call(profile, model, tensors, size, clicks, unit_id))
            continue
        document = {"model": model, "unit_id": unit_id}
        document = {name: value for name, value in document.items() if value is not None}
        if profile.encoding == "arrow":
            body = arrow_stream(rows.values, source.encoder and source.encoder.schema, document)
            headers = {**JSON_HEADERS, "Content-Type": MEDIA_TYPE}
            calls.append(Call("/v1/predict", body, size, clicks, headers))
        else:
            body = json_bytes({**document, **_form(profile, rows)})
            calls.append(Call("/v1/predict", body, size, clicks))
    return calls


def unit_of(name: str, row: Row) -> str | None:
    """Return the unit_id of a row, None when its field is missing; a value that no unit_id can be is hashed."""
    value = row.get(name)
    if value is None or value == "":
        return None
    unit = f"{name}:{value}"
    return unit if UNIT_ID.fits(unit) else f"{name}:{sha256(str(value).encode()).hexdigest()}"


def json_bytes(document: dict[str, Any]) -> bytes:
    """Return the document as compact JSON."""
    return json.dumps(document, separators=(",", ":")).encode()


def _form(profile: Profile, rows: Rows) -> dict[str, Any]:
    if profile.encoding == "columns":
        names = dict.fromkeys(name for row in rows.values for name in row)
        return {"columns": {name: [row.get(name) for row in rows.values] for name in names}}
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
        tensors: dict[str, np.ndarray] = {}
        for entry in inputs:
            tensors |= _drawn(entry, size, zipf, random)
        calls.append(_infer_call(profile, model, tensors, size))
    return calls


def _drawn(entry: dict[str, Any], size: int, zipf: Zipf, random: np.random.Generator) -> Tensors:
    """Return the tensors of one metadata entry; a bag's offsets come with its values."""
    name: str = entry["name"]
    if name.endswith(".offsets"):
        return {}
    if name.endswith(".values"):
        offsets = np.cumsum([0, *random.integers(1, 4, size)])
        bag = name.removesuffix(".values")
        return {name: zipf.draw(offsets[-1], random), f"{bag}.offsets": offsets}
    width = int(entry["shape"][1])
    return {name: zipf.draw(size * width, random).reshape(size, width)}


def _encoded(encoder: "Encoder", rows: Sequence[Row]) -> Tensors:
    """Return the row ids of `rows` in the vocabulary of their directory, as the tensors of an infer request."""
    schema = encoder.schema
    batch = encoder.encode_rows(rows)
    tensors: dict[str, np.ndarray] = {"sparse_ids": batch.ids} if schema.single else {}
    for position, bag in zip(schema.multi, batch.bags, strict=True):
        name = schema.names[position]
        tensors |= {f"{name}.values": bag.values, f"{name}.offsets": bag.offsets}
    return tensors


def _infer_call(
    profile: Profile,
    model: str | None,
    tensors: Tensors,
    size: int,
    clicks: tuple[int, ...] | None = None,
    unit_id: str | None = None,
) -> Call:
    """Return a call of the Open Inference Protocol, its tensors in JSON or behind it as little-endian INT64."""
    inputs: list[dict[str, Any]] = []
    blobs = []
    for name, values in tensors.items():
        entry: dict[str, Any] = {"name": name, "shape": list(values.shape), "datatype": "INT64"}
        if profile.encoding == "v2-binary":
            blobs.append(values.astype("<i8").tobytes())
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = values.ravel().tolist()
        inputs.append(entry)
    document: dict[str, Any] = {"inputs": inputs}
    if unit_id is not None:
        document["parameters"] = {"unit_id": unit_id}
    head = json_bytes(document)
    headers = dict(JSON_HEADERS)
    if profile.encoding == "v2-binary":
        headers = {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(head)),
        }
    return Call(f"/v2/models/{model}/infer", b"".join([head, *blobs]), size, clicks, headers)


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


def exposure_id(document: dict[str, Any]) -> str:
    """Return the id of an answer that outcomes name."""
    return str(document["request_id"] if "request_id" in document else document["parameters"]["request_id"])
