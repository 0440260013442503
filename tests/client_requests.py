"""Requests of every kind, which real clients and proxies must get answered as a direct connection does."""

import json
import time
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import tritonclient.http as triton
from artifacts import SCHEMA, raw_rows

ROWS = raw_rows(5)
UNIT = "u1"
ARROW = "application/vnd.apache.arrow.stream"
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Ask:
    """One request; its answer is the same however often it is asked."""

    name: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


def asks() -> list[Ask]:
    """Return requests of every form, whose ids are fixed so that the answers are, and some that are refused."""
    columns = {name: [row.get(name) for row in ROWS] for name in SCHEMA.names}
    slate = {"context": {"user": "u1"}, "candidates": [{"ad": row["ad"]} for row in ROWS]}
    many = raw_rows(3000, seed=1)
    found = [
        _predict("rows", {"instances": ROWS}),
        _predict("columns", {"columns": columns}),
        _predict("slate", slate),
        _predict("many rows", {"instances": many}),
        _predict("a wrong field", {"instances": [{"none": 1}]}),
        Ask("arrow", "POST", "/v1/predict", {"Content-Type": ARROW, "Accept": ARROW}, _arrow()),
        Ask("outcomes of nothing", "POST", "/v1/outcomes", JSON, json.dumps({"outcomes": []}).encode()),
        Ask("no JSON", "POST", "/v1/predict", JSON, b"{"),
        Ask("no path", "POST", "/v1/predict/", JSON, b"{}"),
        Ask("models", "GET", "/v1/models/ctr", {}),
        Ask("index", "POST", "/v2/repository/index", JSON, b"{}"),
    ]
    found += [_infer(binary) for binary in (False, True)]
    for path in (
        "/livez",
        "/readyz",
        "/v2",
        "/v2/health/ready",
        "/docs",
        "/dashboard",
        "/openapi.json",
        "/none",
    ):
        found.append(Ask(path, "GET", path, {}))
    return found


def _predict(name: str, body: dict[str, Any]) -> Ask:
    document = {**body, "unit_id": UNIT, "request_id": name.replace(" ", "-")}
    return Ask(name, "POST", "/v1/predict", JSON, json.dumps(document).encode())


def _arrow() -> bytes:
    table = pa.table({"user": ["u1", "u2"], "ad": ["a1", "a2"], "price": [1.5, None]})
    table = table.replace_schema_metadata({"slimctr.unit_id": UNIT, "slimctr.request_id": "arrow"})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def _infer(binary: bool) -> Ask:
    tensors = {
        "sparse_ids": np.ones((2, 4), np.int64),
        "tags.values": np.ones(2, np.int64),
        "tags.offsets": np.arange(3),
    }
    inputs = []
    for name, values in tensors.items():
        inputs.append(triton.InferInput(name, list(values.shape), "INT64"))
        inputs[-1].set_data_from_numpy(values, binary_data=binary)
    outputs = [triton.InferRequestedOutput("pctr", binary_data=binary)]
    body, json_bytes = triton.InferenceServerClient.generate_request_body(
        inputs, outputs=outputs, request_id=f"infer-{binary}", parameters={"unit_id": UNIT}
    )
    headers = {"Content-Type": "application/octet-stream"}
    if json_bytes is not None:
        headers["Inference-Header-Content-Length"] = str(json_bytes)
    return Ask(f"infer, binary {binary}", "POST", "/v2/models/ctr/infer", headers, bytes(body))


Answered = tuple[int, str, bytes]


def asked(http: httpx.Client, ask: Ask, chunked: bool = False) -> Answered:
    """Send a request below the client's base URL; return status, content type and body."""
    content = iter([ask.body[:1], ask.body[1:]]) if chunked and ask.body else ask.body
    url = str(http.base_url).rstrip("/") + ask.path  # as it is: a slash at the end stays
    response = http.request(ask.method, url, headers=ask.headers, content=content)
    return response.status_code, response.headers.get("content-type", ""), response.content


def comparable(answered: Answered) -> Answered:
    """Return what does not depend on the connection: a problem names its request."""
    status, content_type, body = answered
    if content_type == "application/problem+json":
        document = json.loads(body)
        document.pop("request_id")
        body = json.dumps(document).encode()
    return status, content_type, body


def scored_and_clicked(tag: str) -> tuple[Ask, Ask]:
    """Return a request for scores under a name of its own, and the outcome of its first row."""
    occurred_at = time.time() + 60  # behind the scores, however long a client takes to start
    outcome = {"outcome_id": tag, "request_id": tag, "index": 0, "clicked": 1, "occurred_at": occurred_at}
    return _predict(tag, {"instances": ROWS}), Ask(
        f"outcome of {tag}", "POST", "/v1/outcomes", JSON, json.dumps({"outcomes": [outcome]}).encode()
    )
