"""What is known of one request: its exposures, the state of every row, and outcomes that came before it."""

import json
from dataclasses import asdict, dataclass
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]


class Kind(StrEnum):
    """How the rows of an exposure were scored: for a response, or by two variants for comparison."""

    LIVE = "live"
    SHADOW = "shadow"


class RowState(IntEnum):
    """What is decided about a row; MATURED is a non-click because no click came in time."""

    OPEN = 0
    CLICKED = 1
    DECLINED = 2
    MATURED = 3


@dataclass(frozen=True, eq=False)
class Exposure:
    """Scores of one request that reached a response; index i of `logits` (B,) is row or candidate i.

    A live exposure counts for `variant`. A shadow exposure pairs the logits served by `variant` with
    `shadow_logits` (B,) of `shadow_variant` on the same rows. Times are seconds since the epoch; window and
    maturity are those of the experiment when it was exposed.
    """

    kind: Kind
    experiment: str
    request_id: str
    variant: str
    exposed_at: float
    window_s: float
    maturity_s: float
    logits: Logits
    shadow_variant: str | None = None
    shadow_logits: Logits | None = None

    @property
    def rows(self) -> int:
        """Number of rows scored."""
        return len(self.logits)

    @property
    def nbytes(self) -> int:
        """Bytes that the exposure holds while it waits, its Python objects estimated at 512."""
        shadow = 0 if self.shadow_logits is None else self.shadow_logits.nbytes
        return self.logits.nbytes + shadow + 512

    def same_scoring(self, other: "Exposure") -> bool:
        """Return whether both exposures are of the same scoring, not of a request that was sent again."""
        return self.exposed_at == other.exposed_at and self.rows == other.rows


@dataclass(frozen=True)
class Outcome:
    """A reported click (or its absence) on one row; `occurred_at` in seconds since the epoch."""

    outcome_id: str
    request_id: str
    index: int
    clicked: bool
    occurred_at: float
    restate: bool = False


@dataclass(frozen=True)
class Record:
    """All of one request. `states` has a byte per row (RowState); `early` are outcomes that came first."""

    live: Exposure | None = None
    shadow: Exposure | None = None
    states: bytes = b""
    early: tuple[Outcome, ...] = ()

    @property
    def exposure(self) -> Exposure | None:
        """Either exposure: both are of the same rows at the same time."""
        return self.live or self.shadow

    @property
    def due_at(self) -> float | None:
        """When the open rows become non-clicks; None when no row is open."""
        exposure = self.exposure
        if exposure is None or RowState.OPEN not in self.states:
            return None
        return exposure.exposed_at + exposure.maturity_s


def encode_record(record: Record) -> bytes:
    """Write a record: a JSON line, then the float32 logits of each exposure and the row states."""
    header: dict[str, Any] = {
        "rows": len(record.states),
        "early": [asdict(outcome) for outcome in record.early],
    }
    arrays = b""
    for exposure in (record.live, record.shadow):
        if exposure is None:
            continue
        header[exposure.kind] = {
            "experiment": exposure.experiment,
            "request_id": exposure.request_id,
            "variant": exposure.variant,
            "exposed_at": exposure.exposed_at,
            "window_s": exposure.window_s,
            "maturity_s": exposure.maturity_s,
            "shadow_variant": exposure.shadow_variant,
        }
        arrays += exposure.logits.astype("<f4").tobytes()
        if exposure.shadow_logits is not None:
            arrays += exposure.shadow_logits.astype("<f4").tobytes()
    return json.dumps(header, separators=(",", ":")).encode() + b"\n" + arrays + record.states


def decode_record(body: bytes) -> Record:
    """Read what `encode_record` wrote."""
    line, _, arrays = body.partition(b"\n")
    header = json.loads(line)
    rows = header["rows"]
    offset = 0

    def next_logits() -> Logits:
        nonlocal offset
        logits = np.frombuffer(arrays, "<f4", rows, offset).astype(np.float32)
        offset += 4 * rows
        return logits

    exposures: dict[Kind, Exposure] = {}
    for kind in Kind:
        if kind in header:
            logits = next_logits()
            shadow_logits = next_logits() if header[kind]["shadow_variant"] is not None else None
            exposures[kind] = Exposure(kind=kind, logits=logits, shadow_logits=shadow_logits, **header[kind])
    return Record(
        live=exposures.get(Kind.LIVE),
        shadow=exposures.get(Kind.SHADOW),
        states=arrays[offset:],
        early=tuple(Outcome(**outcome) for outcome in header["early"]),
    )
