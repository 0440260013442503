"""Request bodies of every form, distinct ones in turn, as files that wrk reads."""

from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

DISTINCT = {1: 64, 100: 16, 1000: 8}
"""Bodies that the load cycles through, by rows of a request."""
JSON = "application/json"
BINARY = "application/octet-stream"
ARROW = "application/vnd.apache.arrow.stream"
JSON_LENGTH = "Inference-Header-Content-Length"

SCRIPT = """
local requests = {}
function init()
  local file = io.open(%(bodies)s, "rb")
  local headers = {["Content-Type"] = %(content_type)s%(json_length)s}
  for name, value in pairs(wrk.headers) do headers[name] = value end
  while true do
    local size = file:read(10)
    if not size then break end
    requests[#requests + 1] = wrk.format("POST", nil, headers, file:read(tonumber(size)))
  end
end
local at = 0
function request()
  at = at %% #requests + 1
  return requests[at]
end
function done(summary, latency, requests)
  io.write(string.format('{"requests": %%d, "seconds": %%f, "p50_ms": %%f, "p99_ms": %%f, "failed": %%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write
    + summary.errors.timeout))
end
"""


def write_script(folder: Path, form: str, ids: NDArray[np.int32], names: tuple[str, ...], rows: int) -> Path:
    """Write bodies of `rows` rows of `ids` and the wrk script that sends them in turn; return the script."""
    script = folder / f"{form}_{rows}.lua"
    data = folder / f"{form}_{rows}.bin"
    json_bytes = None
    with data.open("wb") as file:
        for start in range(0, DISTINCT[rows] * rows, rows):
            body, json_bytes = encode(form, ids[start : start + rows], names)
            file.write(b"%010d" % len(body) + body)
    length = "" if json_bytes is None else f', ["{JSON_LENGTH}"] = "{json_bytes}"'
    content_type = content_type_of(form)
    script.write_text(
        SCRIPT % {"bodies": f'"{data}"', "content_type": f'"{content_type}"', "json_length": length}
    )
    return script


def content_type_of(form: str) -> str:
    """Return the media type of a body."""
    return {"binary": BINARY, "arrow": ARROW}.get(form, JSON)


def encode(form: str, ids: NDArray[np.int32], names: tuple[str, ...]) -> tuple[bytes, int | None]:
    """Return a body and, for a binary one, the bytes of its JSON part."""
    match form:
        case "columns":
            columns = {name: column.astype(str).tolist() for name, column in zip(names, ids.T, strict=True)}
            return orjson.dumps({"columns": columns}), None
        case "rows":
            values = ids.astype(str).tolist()
            return orjson.dumps({"instances": [dict(zip(names, row, strict=True)) for row in values]}), None
        case "arrow":
            table = pa.table({name: column.astype(str) for name, column in zip(names, ids.T, strict=True)})
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            return sink.getvalue().to_pybytes(), None
        case "ids":
            return orjson.dumps({"rows": ids.tolist()}), None
        case "oip_json":
            tensor = {
                "name": "ids",
                "shape": list(ids.shape),
                "datatype": "INT64",
                "data": ids.ravel().tolist(),
            }
            return orjson.dumps({"inputs": [tensor]}), None
        case "binary":
            blob = ids.astype("<i8").tobytes()
            tensor = {
                "name": "sparse_ids",
                "shape": list(ids.shape),
                "datatype": "INT64",
                "parameters": {"binary_data_size": len(blob)},
            }
            output = {"name": "pctr", "parameters": {"binary_data": True}}
            header = orjson.dumps({"inputs": [tensor], "outputs": [output]})
            return header + blob, len(header)
    raise ValueError(f"unknown form '{form}'")


def scores_of(answer: bytes, json_bytes: str | None) -> NDArray[np.float32]:
    """Return the scores in an answer of any form."""
    if json_bytes is not None:
        return np.frombuffer(answer[int(json_bytes) :], "<f4")
    document = orjson.loads(answer)
    scores = document["outputs"][0]["data"] if "outputs" in document else document["scores"]
    return np.asarray(scores, np.float32)
