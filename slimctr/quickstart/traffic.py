"""HTTP traffic of the demo: the test rows scored by every variant, then live traffic with delayed outcomes."""

import http.client
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from slimctr.errors import EngineError

Row = dict[str, Any]


class Client:
    """One keep-alive connection that posts JSON and raises EngineError on anything but 200."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=30)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST `body` and return the decoded answer."""
        return self._send("POST", path, json.dumps(body).encode())

    def get(self, path: str) -> dict[str, Any]:
        """GET `path` and return the decoded answer."""
        return self._send("GET", path, None)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _send(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        self._connection.request(method, path, body, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        payload = response.read()
        if response.status != 200:
            raise EngineError(
                f"{method} {path} answered {response.status}: {payload[:500].decode(errors='replace')}"
            )
        decoded: dict[str, Any] = json.loads(payload)
        return decoded


@dataclass(frozen=True)
class Served:
    """What one variant answered over HTTP: scores float64 (B,), and the latency of its requests in milliseconds."""

    scores: np.ndarray
    latencies_ms: np.ndarray
    seconds: float

    @property
    def rows_per_second(self) -> float:
        """Rows over the wall time of the whole pass, one connection."""
        return len(self.scores) / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """Latency percentile of the requests."""
        return float(np.percentile(self.latencies_ms, percent))


def score_all(
    client: Client,
    model: str,
    label: str,
    rows: Sequence[Row],
    rows_per_request: int,
    progress: Callable[[int], None],
) -> Served:
    """Score `rows` with the version under `label`, in order, one request after the other."""
    for start in range(0, min(len(rows), 20 * rows_per_request), rows_per_request):
        client.post(
            "/v1/predict",
            {"model": model, "label": label, "instances": rows[start : start + rows_per_request]},
        )
    scores: list[float] = []
    latencies: list[float] = []
    begin = time.perf_counter()
    for start in range(0, len(rows), rows_per_request):
        body = {"model": model, "label": label, "instances": rows[start : start + rows_per_request]}
        sent = time.perf_counter()
        answer = client.post("/v1/predict", body)
        latencies.append((time.perf_counter() - sent) * 1e3)
        scores.extend(answer["scores"])
        progress(len(answer["scores"]))
    return Served(np.array(scores), np.array(latencies), time.perf_counter() - begin)


def live_traffic(
    client: Client,
    model: str,
    unit_field: str,
    rows: Sequence[Row],
    labels: np.ndarray,
    progress: Callable[[int], None],
) -> dict[str, int]:
    """Send every unit's rows as one request with its `unit_id`, then the clicks as outcomes; return rows per variant."""
    rows_of_unit: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        rows_of_unit[str(row[unit_field])].append(index)
    served: dict[str, int] = defaultdict(int)
    outcomes: list[dict[str, Any]] = []
    for unit, members in rows_of_unit.items():
        answer = client.post(
            "/v1/predict", {"model": model, "unit_id": unit, "instances": [rows[index] for index in members]}
        )
        served[answer["variant"]] += len(members)
        now = time.time()
        outcomes.extend(
            {
                "outcome_id": f"{answer['request_id']}-{position}",
                "request_id": answer["request_id"],
                "index": position,
                "clicked": int(labels[index]),
                "occurred_at": now,
            }
            for position, index in enumerate(members)
        )
        progress(len(members))
    for start in range(0, len(outcomes), 5000):
        client.post("/v1/outcomes", {"outcomes": outcomes[start : start + 5000]})
    return dict(served)
