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
    ns: int = 0

    def add(self, seconds: float) -> None:
        """Count one run."""
        self.count += 1
        self.ns += round(seconds * NS)

    def document(self) -> dict[str, int]:
        """Return the pair as the extension writes it."""
        return {"count": self.count, "ns": self.ns}


@dataclass
class Statistics:
    """What happened to one version since it was loaded; changed on the event loop only."""

    last_inference_ms: int = 0
    rows: int = 0
    executions: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    batches: dict[int, Duration] = field(default_factory=dict)

    def executed(self, rows: int, infer_s: float) -> None:
        """Count one batch: lookup and network together are `compute_infer`."""
        self.executions += 1
        self.batches.setdefault(rows, Duration()).add(infer_s)

    def succeeded(self, rows: int, *, total_s: float, queue_s: float, input_s: float, infer_s: float) -> None:
        """Count one answered request; what is left of `total_s` is `compute_output`."""
        self.last_inference_ms = time.time_ns() // 1_000_000
        self.rows += rows
        self.success.add(total_s)
        self.queue.add(queue_s)
        self.compute_input.add(input_s)
        self.compute_infer.add(infer_s)
        self.compute_output.add(max(0.0, total_s - queue_s - input_s - infer_s))

    def document(self, model: str, version: int, memory_bytes: Mapping[str, int]) -> dict[str, Any]:
        """Return the entry of `model_stats`; `memory_bytes` by kind, of which resident is reported."""
        nothing = Duration().document()
        return {
            "name": model,
            "version": str(version),
            "last_inference": self.last_inference_ms,
            "inference_count": self.rows,
            "execution_count": self.executions,
            "inference_stats": {
                "success": self.success.document(),
                "fail": self.fail.document(),
                "queue": self.queue.document(),
                "compute_input": self.compute_input.document(),
                "compute_infer": self.compute_infer.document(),
                "compute_output": self.compute_output.document(),
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
