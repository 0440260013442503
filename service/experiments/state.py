"""The state shared by all workers and replicas: what a backend must do, and which backend a URL names."""

from collections.abc import Callable, Collection
from typing import Protocol, TypeVar

from service.experiments.outcomes import Ledger
from service.experiments.record import Kind, Record
from service.experiments.sums import CellSums, SliceProgress
from slimctr.errors import ConfigError

# Exposures outlive their maturity by this much, so that late and restated outcomes still find them.
GRACE_S = 86_400.0
# An outcome whose exposure another worker has not written yet waits this long for it.
EARLY_OUTCOME_KEPT_S = 600.0

T = TypeVar("T")
VariantSums = dict[tuple[Kind, str], CellSums]


class State(Protocol):
    """Exposures, outcomes and sums of all experiments.

    Use an instance from one thread. Every method raises StateUnavailable when the backend does not answer, its
    subclass StateTimeout when it let the caller wait for that; then the call can be made again. When a call returns,
    its effect is as durable as the backend is.
    """

    def open(self) -> None:
        """Connect, and make what does not exist yet."""

    def close(self) -> None:
        """Disconnect; closing twice is allowed."""

    def register(self, key: str, document: str) -> str:
        """Keep `document` as the definition of experiment `key` unless there is one; return the kept one."""

    def transact(
        self,
        request_ids: Collection[str],
        outcome_ids: Collection[str],
        step: Callable[[Ledger], T],
        now: float,
    ) -> T:
        """Run `step` on the ledger of these requests and outcomes; store what it changed; return its result.

        Load, step and store are atomic against all other processes. After a conflict the step runs again on a
        fresh ledger.
        """

    def due(self, now: float, limit: int) -> list[str]:
        """Return up to `limit` requests with open rows whose maturity has come, earliest first."""

    def slices(self, experiment: str) -> list[SliceProgress]:
        """Return the kept slices of an experiment in time order."""

    def sums(self, experiment: str, first_slice: int, stop_slice: int) -> VariantSums:
        """Return the sums over slices first_slice .. stop_slice-1 of every kind and variant that has any."""

    def prune(self, now: float, keep_slices_s: float) -> bool:
        """Forget expired requests and outcomes, and slices that ended more than `keep_slices_s` ago.

        One call takes a bounded time; True says that there is more to forget.
        """


def expires_at(record: Record, now: float) -> float:
    """Return when a record may be forgotten, in seconds since the epoch."""
    answer = record.answer
    if answer is None:
        return now + EARLY_OUTCOME_KEPT_S
    mature_at = answer.exposed_at + answer.maturity_s
    # An answer that is no exposure is kept as long as a click that means it could join another answer of its id.
    return mature_at if answer.kind is Kind.UNEXPOSED and not record.ambiguous else mature_at + GRACE_S


def open_state(url: str) -> State:
    """Return the backend that `url` names, to be opened in its thread: `sqlite:///PATH`, `redis://HOST:PORT/DB` or `rediss://…`."""
    if url.startswith("sqlite:///") and len(url) > len("sqlite:///"):
        from pathlib import Path

        from service.experiments.sqlite import SqliteState

        return SqliteState(Path(url.removeprefix("sqlite:///")))
    if url.startswith(("redis://", "rediss://")):
        # Imported here: the client costs a scoring process memory that it needs with Redis only.
        from redis import ConnectionPool

        from service.experiments.redis import RedisState

        try:
            ConnectionPool.from_url(url).make_connection()
        except (TypeError, ValueError) as error:
            raise ConfigError("state_url has an option after '?' that the Redis client cannot use") from error
        return RedisState(url)
    raise ConfigError(f"state_url '{url}' names no backend: use sqlite:///PATH or redis://HOST:PORT/DB")
