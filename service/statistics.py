"""Counts of one version in the shape of the Open Inference Protocol statistics extension."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NS = 1_000_000_000


@dataclass
class Duration:
    """How often a stage ran and for how long."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one run."""
        self.count += 1
        self.seconds += seconds

    def document(self) -> dict[str, int]:
        """Return the pair as the extension writes it."""
        return {"count": self.count, "ns": round(self.seconds * NS)}


@dataclass
class Statistics:
    """What happened to one version since it was loaded; changed on the event loop only."""

    last_inference_ns: int = 0
    requests: int = 0
    rows: int = 0
    executions: int = 0
    total_s: float = 0.0
    queue_s: float = 0.0
    input_s: float = 0.0
    infer_s: float = 0.0
    fail: Duration = field(default_factory=Duration)
    batches: dict[int, Duration] = field(default_factory=dict)

    def executed(self, rows: int, infer_s: float) -> None:
        """Count one batch: lookup and network together are `compute_infer`."""
        self.executions += 1
        batches = self.batches.get(rows)
        if batches is None:
            batches = self.batches[rows] = Duration()
        batches.add(infer_s)

    def succeeded(self, rows: int, *, total_s: float, queue_s: float, input_s: float, infer_s: float) -> None:
        """Count one answered request; what is left of `total_s` is `compute_output`."""
        self.last_inference_ns = time.time_ns()
        self.requests += 1
        self.rows += rows
        self.total_s += total_s
        self.queue_s += queue_s
        self.input_s += input_s
        self.infer_s += infer_s

    def document(self, model: str, version: int, memory_bytes: Mapping[str, int]) -> dict[str, Any]:
        """Return the entry of `model_stats`; `memory_bytes` by kind, of which resident is reported."""
        nothing = Duration().document()
        output_s = max(0.0, self.total_s - self.queue_s - self.input_s - self.infer_s)
        return {
            "name": model,
            "version": str(version),
            "last_inference": self.last_inference_ns // 1_000_000,
            "inference_count": self.rows,
            "execution_count": self.executions,
            "inference_stats": {
                "success": self._stage(self.total_s),
                "fail": self.fail.document(),
                "queue": self._stage(self.queue_s),
                "compute_input": self._stage(self.input_s),
                "compute_infer": self._stage(self.infer_s),
                "compute_output": self._stage(output_s),
                "cache_hit": nothing,
                "cache_miss": nothing,
            },
            "response_stats": {},
            "batch_stats": [
                {
                    "batch_size": rows,
                    "compute_input": nothing,
                    "compute_infer": infer.document(),
                    "compute_output": nothing,
                }
                for rows, infer in sorted(self.batches.items())
            ],
            "memory_usage": [{"type": "CPU", "id": 0, "byte_size": memory_bytes.get("resident", 0)}],
        }

    def _stage(self, seconds: float) -> dict[str, int]:
        """Return the sum over all answered requests of what a stage of theirs took."""
        return Duration(self.requests, seconds).document()
