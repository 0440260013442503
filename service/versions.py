"""One loaded model version: its states, its gates, its leases and what it reports about itself."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from model_store.errors import IntegrityError, ManifestError
from model_store.manifest import Manifest
from model_store.store import ModelStore
from service.batching import BatchQueue
from service.errors import NotReady
from service.instruments import VersionInstruments
from service.resident import anonymous_bytes, mapped_files
from service.statistics import Statistics
from slimctr.errors import ParityError
from slimctr.features import EncodedBatch, FeatureSchema
from slimctr.scoring import Scorer


class State(StrEnum):
    """Where a version is on its way to serving and back."""

    WAITING = "waiting"
    VERIFYING = "verifying"
    WARMING = "warming"
    CHECKING = "checking"
    READY = "ready"
    UNLOADING = "unloading"
    UNAVAILABLE = "unavailable"


# The states of the Open Inference Protocol's repository index.
PROTOCOL_STATES = {
    State.WAITING: "LOADING",
    State.VERIFYING: "LOADING",
    State.WARMING: "LOADING",
    State.CHECKING: "LOADING",
    State.READY: "READY",
    State.UNLOADING: "UNLOADING",
    State.UNAVAILABLE: "UNAVAILABLE",
}


# Scoring on the event loop may take this long at most: about what handing a batch to a thread and back costs.
INLINE_SECONDS = 0.0003
INLINE_CANDIDATES = (1, 2, 4, 8, 16, 32, 64)
INLINE_REPEATS = 5


@dataclass(frozen=True)
class Serving:
    """What a READY version scores with."""

    manifest: Manifest
    scorer: Scorer
    queue: BatchQueue
    path: Path
    anonymous_bytes: int
    parity_max_abs_logit_diff: float
    load_s: float

    def memory_bytes(self) -> dict[str, int]:
        """Return bytes by kind: payload and artifact as published, mapped, resident and shared as they are now."""
        files = mapped_files(self.path)
        return {
            "payload": self.manifest.bytes.payload,
            "artifact": self.manifest.artifact_bytes,
            "mapped": files.mapped,
            "resident": files.resident + self.anonymous_bytes,
            "shared": files.shared,
        }


@dataclass
class FieldCounts:
    """Values looked up per field (F) since the last flush; adding them up here keeps metrics off the request path."""

    values: npt.NDArray[np.int64]
    oov: npt.NDArray[np.int64]
    missing: npt.NDArray[np.int64]

    @classmethod
    def of(cls, fields: int) -> "FieldCounts":
        """Return zeros for so many fields."""
        return cls(*np.zeros((3, fields), np.int64))

    def add(self, batch: EncodedBatch, schema: FeatureSchema) -> None:
        """Count the values of a scored batch."""
        self.values += len(batch)
        for position, bag in zip(schema.multi, batch.bags, strict=True):
            self.values[position] += len(bag.values) - len(batch)
        self.oov += batch.oov
        self.missing += batch.missing


@dataclass(eq=False)
class Version:
    """A version that the pool knows; `serving` is set while it is READY or finishing its last requests."""

    model: str
    number: int
    statistics: Statistics
    instruments: VersionInstruments
    state: State = State.WAITING
    reason: str = ""
    serving: Serving | None = None
    counts: FieldCounts | None = None
    memory_bytes: dict[str, int] = field(default_factory=dict)
    leases: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.idle.set()

    def ready(self) -> Serving:
        """Return what the version scores with; raise NotReady when it does not serve."""
        if self.state is not State.READY or self.serving is None:
            reason = f": {self.reason}" if self.reason else ""
            raise NotReady(f"model '{self.model}' version {self.number} is {self.state}{reason}")
        return self.serving

    @contextmanager
    def leased(self) -> Iterator[None]:
        """Keep the version loaded for the length of one request."""
        self.leases += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.leases -= 1
            if self.leases == 0:
                self.idle.set()


@dataclass(frozen=True)
class Opened:
    """An artifact that passed every gate."""

    scorer: Scorer
    path: Path
    inline_rows: int
    anonymous_bytes: int
    parity_max_abs_logit_diff: float
    load_s: float


def open_version(
    store: ModelStore, version: Version, *, threads: int, unknown_fields: Literal["error", "ignore"]
) -> Opened:
    """Take one version through verify, map, warm up and golden rows; runs in the loader's thread.

    Raises StoreError, EngineError, or anything a damaged artifact provokes; nothing stays open then.
    """
    begin = time.perf_counter()
    anonymous_before = anonymous_bytes()
    version.state = State.VERIFYING
    path = store.path(version.model, version.number).resolve()
    scorer = Scorer.open(path, threads, unknown_fields)
    try:
        version.state = State.WARMING
        scorer.warm_up()
        inline_rows = measure_inline_rows(scorer)
        version.state = State.CHECKING
        difference = scorer.check_golden()
    except BaseException:
        scorer.close()
        raise
    return Opened(
        scorer,
        path,
        inline_rows,
        max(0, anonymous_bytes() - anonymous_before),
        difference,
        time.perf_counter() - begin,
    )


def measure_inline_rows(scorer: Scorer) -> int:
    """Return the largest measured batch that is scored within INLINE_SECONDS, 0 when one row takes longer."""
    fitting = 0
    for rows in INLINE_CANDIDATES:
        batch = scorer.golden.batch.slice(0, rows)
        fastest_s = min(_seconds(scorer, batch) for _ in range(INLINE_REPEATS))
        if len(batch) < rows or fastest_s > INLINE_SECONDS:
            break
        fitting = rows
    return fitting


def _seconds(scorer: Scorer, batch: EncodedBatch) -> float:
    begin = time.perf_counter()
    scorer.logits(batch)
    return time.perf_counter() - begin


def load_result(error: Exception | None) -> str:
    """Return the `result` under which a load is counted."""
    if error is None:
        return "ok"
    for family, result in ((IntegrityError, "integrity"), (ManifestError, "schema"), (ParityError, "parity")):
        if isinstance(error, family):
            return result
    return "memory" if isinstance(error, MemoryError) else "error"
