"""What the service says of itself before and after a run: its model, and the change of its counters."""

import json
import re
import urllib.error
import urllib.request
from collections import defaultdict
from typing import Any

from loadtest.errors import LoadTestError
from loadtest.problems import problem_of

SAMPLE = re.compile(
    r"^(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$", re.MULTILINE
)
MODEL = re.compile(r'(?:^|,)model="([^"]*)"')
STAGES = ("queue", "compute_input", "embedding_lookup", "compute_infer", "compute_output")
MILLISECONDS = 1000.0

Counters = dict[str, float]


class Server:
    """The service under load, asked over HTTP."""

    def __init__(self, host: str, key: str | None) -> None:
        self._host = host.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def only_model(self) -> str:
        """Return the name of the service's only model; raises LoadTestError when there are more, or none."""
        names = [model["model"] for model in self._json("/v1/models")["models"]]
        if len(names) != 1:
            raise LoadTestError(
                f"{self._host} has the models {', '.join(names) or 'none'}: name one with --model"
            )
        return str(names[0])

    def inputs(self, model: str) -> list[dict[str, Any]]:
        """Return the input tensors that the model's metadata lists."""
        inputs: list[dict[str, Any]] = self._json(f"/v2/models/{model}")["inputs"]
        return inputs

    def counters(self, model: str) -> Counters:
        """Return the sum over all series of `model` (and those without a model) by metric name."""
        return sum_by_name(self._get("/metrics").decode(), model)

    def _json(self, path: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self._get(path))
        return document

    def _get(self, path: str) -> bytes:
        request = urllib.request.Request(self._host + path, headers=self._headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                content: bytes = response.read()
                return content
        except urllib.error.HTTPError as error:
            detail = problem_of(error.code, error.read()).detail
            raise LoadTestError(f"GET {self._host}{path} failed: {error}: {detail}") from error
        except (urllib.error.URLError, OSError) as error:
            raise LoadTestError(f"GET {self._host}{path} failed: {error}") from error


def sum_by_name(exposition: str, model: str) -> Counters:
    """Return the samples of a Prometheus text by name, summed over the series of `model` and those of no model."""
    sums: Counters = defaultdict(float)
    for sample in SAMPLE.finditer(exposition):
        named = MODEL.search(sample["labels"] or "")
        if named is None or named[1] == model:
            sums[sample["name"]] += float(sample["value"])
    return sums


def server_side(before: Counters, after: Counters) -> dict[str, float | None]:
    """Return what the service counted during the run: rows, mean batch, and the mean time of each stage."""

    def change(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    def mean(total: str, count: str) -> float | None:
        return change(total) / change(count) if change(count) else None

    report: dict[str, float | None] = {
        "requests": change("slimctr_inference_requests_total"),
        "failures": change("slimctr_inference_failures_total"),
        "rows": change("slimctr_inference_rows_total"),
        "mean_batch_rows": mean("slimctr_inference_rows_total", "slimctr_inference_executions_total"),
        "shed": change("slimctr_shed_total"),
        "resident_bytes": after.get("process_resident_memory_bytes"),
        "cpu_seconds": change("process_cpu_seconds_total"),
    }
    for stage in (*STAGES, "request"):
        name = f"slimctr_{stage}_duration_seconds"
        seconds = mean(f"{name}_sum", f"{name}_count")
        report[f"mean_{stage}_ms"] = None if seconds is None else seconds * MILLISECONDS
    return report
