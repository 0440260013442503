"""What is known of one request: its exposures, the state of every row, and outcomes that came before it."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimctr.features import EncodedBatch

Logits = NDArray[np.float32]
_NO_LOGITS = np.empty(0, np.float32)


class Kind(StrEnum):
    """What an exposure stands for: a response, or two variants on the same rows for comparison.

    UNEXPOSED is a response that counts nowhere. It has no rows here and only says that its id is taken: the caller
    chose the id, and a click that means this response must not join another one of the same id.
    """

    LIVE = "live"
    SHADOW = "shadow"
    UNEXPOSED = "unexposed"


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
    maturity are those of the experiment when it was exposed. `digest` tells answers of one id apart
    (`answer_digest`); it is empty for an id that the service drew, which no other answer has.
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
    digest: str = ""

    @property
    def rows(self) -> int:
        """Number of rows scored."""
        return len(self.logits)

    @property
    def nbytes(self) -> int:
        """Bytes that the exposure holds while it waits, its Python objects estimated at 512."""
        shadow = 0 if self.shadow_logits is None else self.shadow_logits.nbytes
        return self.logits.nbytes + shadow + 512

    def same_answer(self, other: "Exposure") -> bool:
        """Return whether both stand for one answer or its repeat: the same unit, variant, version and rows."""
        return (self.digest, self.variant, self.experiment) == (other.digest, other.variant, other.experiment)

    def without_scores(self) -> "Exposure":
        """Return the exposure as one that only says that its id is taken."""
        return replace(self, kind=Kind.UNEXPOSED, logits=_NO_LOGITS, shadow_variant=None, shadow_logits=None)


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
    """All of one request. `states` has a byte per row (RowState); `early` are outcomes that came first.

    An `ambiguous` record had two different answers: it has no rows, and nothing joins it any more.
    """

    live: Exposure | None = None
    shadow: Exposure | None = None
    states: bytes = b""
    early: tuple[Outcome, ...] = ()
    unexposed: Exposure | None = None
    ambiguous: bool = False

    @property
    def exposure(self) -> Exposure | None:
        """Either exposure with rows: both are of the same rows at the same time."""
        return self.live or self.shadow

    @property
    def answer(self) -> Exposure | None:
        """What is known under the id, with rows or without."""
        return self.live or self.shadow or self.unexposed

    @property
    def due_at(self) -> float | None:
        """When the open rows become non-clicks; None when no row is open."""
        exposure = self.exposure
        if exposure is None or RowState.OPEN not in self.states:
            return None
        return exposure.exposed_at + exposure.maturity_s


def answer_digest(unit_id: str | None, version: int, batch: EncodedBatch) -> str:
    """Return 16 hex digits that tell unit, version and encoded rows of an answer from those of another."""
    digest = hashlib.blake2b(f"{version}/{unit_id}".encode(), digest_size=8)
    for array in (batch.ids, *(part for bag in batch.bags for part in (bag.offsets, bag.values))):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def encode_record(record: Record) -> bytes:
    """Write a record: a JSON line, then the float32 logits of each exposure and the row states."""
    header: dict[str, Any] = {
        "rows": len(record.states),
        "early": [asdict(outcome) for outcome in record.early],
        "ambiguous": record.ambiguous,
    }
    arrays = b""
    for exposure in (record.live, record.shadow, record.unexposed):
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
            "digest": exposure.digest,
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
        unexposed=exposures.get(Kind.UNEXPOSED),
        ambiguous=header.get("ambiguous", False),
    )
