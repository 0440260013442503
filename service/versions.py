"""One model version in this process: its state, its leases and what it reports about itself."""

import asyncio
import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model_store.errors import Absence
from model_store.file_states import FileState
from model_store.manifest import Manifest
from service.batching import BatchQueue
from service.errors import NotReady
from service.instruments import VersionInstruments
from service.resident import mapped_files
from service.statistics import Statistics
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


# Pauses between the loads of a version that is refused again and again: they double.
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 30.0
# What a batch counted is 16 bytes a field until it is added up.
MAX_NOTED_BATCHES = 64


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


class FieldCounts:
    """Values looked up per field (F) since the last flush; a scored batch is noted, and added up with many others."""

    def __init__(self, fields: int) -> None:
        self._values, self._oov, self._missing = np.zeros((3, fields), np.int64)
        self._rows = 0
        self._noted: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []

    def add(self, batch: EncodedBatch, schema: FeatureSchema) -> None:
        """Count the values of a scored batch."""
        self._rows += len(batch)
        for position, bag in zip(schema.multi, batch.bags, strict=True):
            self._values[position] += len(bag.values) - len(batch)
        self._noted.append((batch.oov, batch.missing))
        if len(self._noted) == MAX_NOTED_BATCHES:
            self._add_up()

    def totals(self) -> npt.NDArray[np.int64]:
        """Return values, those that were OOV and those that were missing, each per field: (3, F)."""
        self._add_up()
        return np.stack([self._values + self._rows, self._oov, self._missing])

    def _add_up(self) -> None:
        if self._noted:
            oov, missing = np.sum(self._noted, axis=0)
            self._oov += oov
            self._missing += missing
            self._noted.clear()


@dataclass(eq=False)
class Version:
    """A version that the pool knows; `serving` is set while it is READY or finishing its last requests.

    `loaded_files` are the states of the files that it scores with. Of a version that was refused, `tried_files` are the
    states of its files before the load, `failures` counts loads in a row, `may_come` says that something was absent,
    and `retry_s` is the time of `time.monotonic` before which it is not tried again.
    """

    model: str
    number: int
    statistics: Statistics
    instruments: VersionInstruments
    state: State = State.WAITING
    reason: str = ""
    serving: Serving | None = None
    counts: FieldCounts | None = None
    memory_bytes: dict[str, int] = field(default_factory=dict)
    loaded_files: dict[str, FileState] = field(default_factory=dict)
    tried_files: dict[str, FileState] = field(default_factory=dict)
    failures: int = 0
    may_come: bool = False
    retry_s: float = 0.0
    leases: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.idle.set()

    def refuse(self, error: Exception) -> None:
        """Become UNAVAILABLE, and say when the next load is tried: what is absent may come, the rest may be mended."""
        self.state = State.UNAVAILABLE
        self.may_come = isinstance(error, Absence | OSError | MemoryError)
        pause_s = min(FIRST_RETRY_S * 2**self.failures, LAST_RETRY_S)
        self.failures += 1
        self.retry_s = time.monotonic() + pause_s
        when = f"in {pause_s:g} s" if self.may_come else "when its files change or a label of the model moves"
        self.reason = f"{error}; tried again {when}"

    def ready(self) -> Serving:
        """Return what the version scores with; raise NotReady when it does not serve."""
        if self.state is not State.READY or self.serving is None:
            reason = f": {self.reason}" if self.reason else ""
            raise NotReady(f"model '{self.model}' version {self.number} is {self.state}{reason}")
        return self.serving

    def lease(self) -> None:
        """Keep the version loaded until `release`: once per request, both ways."""
        self.leases += 1
        self.idle.clear()

    def release(self) -> None:
        """Give back a lease; with the last one the version may be closed."""
        self.leases -= 1
        if self.leases == 0:
            self.idle.set()
