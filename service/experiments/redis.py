"""State in one Redis server, shared by replicas on several machines."""

import json
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

import numpy as np
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.experiments.errors import StateTimeout, StateUnavailable
from service.experiments.outcomes import Ledger
from service.experiments.record import Kind, Outcome, decode_record, encode_record
from service.experiments.state import T, VariantSums, expires_at
from service.experiments.sums import ALL_TIME, SLICE_S, Cell, CellSums, SliceProgress, slice_of
from slimctr.quality import QualitySums
from slimctr.quality.streaming import BINS

# Of one round trip. A server that hangs costs the first caller this, and the others nothing (breaker.py).
TIMEOUT_S = 2.0
# Keys that one call looks at while it restores an index.
RESTORED_KEYS = 20_000
_SCANNED_AT_ONCE = 1_000
# Member of both indexes; once it is gone, the server has evicted the index.
_SENTINEL = ""
# Optimistic transactions that lose this often in a row mean a server in trouble, not bad luck.
MAX_ATTEMPTS = 50

_PREFIX = "slimctr:"
_DUE = _PREFIX + "due"
_EARLY = _PREFIX + "early"
_CELLS = _PREFIX + "cells"
_SUMS = _PREFIX + "sums:"
_COUNTS = ("exposed", "declined", "rows", "clicks")
_REALS = ("sum_p", "sum_loss", "loss_diff", "loss_diff_squared")

logger = logging.getLogger("slimctr.experiments")


class RedisState:
    """State under keys `slimctr:…` of one database (no Redis Cluster: a step spans keys).

    Steps are optimistic transactions (WATCH, MULTI, EXEC). How durable an answer is depends on the server:
    `appendonly yes` with `appendfsync always` loses nothing, `everysec` at most the last second in a crash.

    Keys that the server evicts are missed, not fatal: an index is restored from the keys it names, counts that do
    not agree any more are left out, and an exposure that is gone leaves its rows undecided.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: redis.Redis | None = None
        self._cursor = 0

    def open(self) -> None:
        """Connect and ask for a sign of life."""
        self._client = redis.Redis.from_url(
            self._url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            # Once more over a new connection when the server closed the old one, but never after a timeout.
            retry=Retry(NoBackoff(), 1, (redis.ConnectionError,)),
        )
        with self._translated() as client:
            client.ping()
            _warn_of_eviction(client)

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def register(self, key: str, document: str) -> str:
        """Keep the first document of a key."""
        with self._translated() as client:
            client.hsetnx(_PREFIX + "experiments", key, document)
            kept: bytes | None = client.hget(_PREFIX + "experiments", key)  # type: ignore[assignment]
        return document if kept is None else kept.decode()

    def transact(
        self,
        request_ids: Collection[str],
        outcome_ids: Collection[str],
        step: Callable[[Ledger], T],
        now: float,
    ) -> T:
        """Run the step on watched keys; when another process changed one, load and run again."""
        request_ids, outcome_ids = list(request_ids), list(outcome_ids)
        keys = [_request_key(name) for name in request_ids] + [_outcome_key(name) for name in outcome_ids]
        if not keys:
            return step(Ledger({}, {}))
        with self._translated() as client, client.pipeline() as pipe:
            for _ in range(MAX_ATTEMPTS):
                try:
                    pipe.watch(*keys)  # type: ignore[no-untyped-call]
                    values: list[bytes | None] = pipe.mget(keys)  # type: ignore[assignment]
                    bodies = dict(zip(request_ids, values, strict=False))
                    reports = dict(zip(outcome_ids, values[len(request_ids) :], strict=True))
                    # Not watched: replicas that report at once may together pass the bound by a transaction each.
                    early: int = pipe.zcount(_EARLY, f"({now}", "+inf")
                    ledger = Ledger(
                        {name: decode_record(body) for name, body in bodies.items() if body is not None},
                        {
                            name: Outcome(**json.loads(body))
                            for name, body in reports.items()
                            if body is not None
                        },
                        early,
                    )
                    result = step(ledger)
                    pipe.multi()
                    _store(pipe, ledger, now)
                    pipe.zremrangebyscore(_EARLY, "-inf", now)
                    not_due = [
                        name
                        for name in request_ids
                        if name not in ledger.changed_records and ledger.record(name).due_at is None
                    ]
                    if not_due:
                        pipe.zrem(_DUE, *not_due)
                    pipe.execute()
                    return result
                except redis.WatchError:
                    continue
        raise StateUnavailable(
            f"a transaction on the state server lost {MAX_ATTEMPTS} times in a row; try again"
        )

    def due(self, now: float, limit: int) -> list[str]:
        """Read the sorted set of open requests."""
        with self._translated() as client:
            self._restore_indexes(client)
            names: list[bytes] = client.zrangebyscore(_DUE, "-inf", now, start=0, num=limit)  # type: ignore[assignment]
            return [name.decode() for name in names]

    def slices(self, experiment: str) -> list[SliceProgress]:
        """Add the cells of each slice up."""
        with self._translated() as client:
            cells = [cell for cell in _cells(client, experiment) if cell.slice != ALL_TIME]
            with client.pipeline(transaction=False) as pipe:
                for cell in cells:
                    pipe.hmget(_sums_key(cell), ["exposed", "rows", "declined"])
                counts = pipe.execute()
        totals: dict[int, list[int]] = {}
        for cell, values in zip(cells, counts, strict=True):
            total = totals.setdefault(cell.slice, [0, 0, 0])
            for position, value in enumerate(values):
                total[position] += int(value or 0)
        return [SliceProgress(number, *totals[number]) for number in sorted(totals)]

    def sums(self, experiment: str, first_slice: int, stop_slice: int) -> VariantSums:
        """Add the slices up here, a histogram being one string."""
        found: VariantSums = {}
        with self._translated() as client:
            for cell in _cells(client, experiment):
                if not first_slice <= cell.slice < stop_slice:
                    continue
                with client.pipeline(transaction=True) as pipe:
                    pipe.hgetall(_sums_key(cell))
                    pipe.get(_bins_key(cell))
                    values, bins = pipe.execute()
                key = cell.kind, cell.variant
                sums = _decode_sums(values, bins)
                if not sums.plausible:
                    sums = CellSums(exposed=max(0, sums.exposed))
                found[key] = found.get(key, CellSums()) + sums
        return found

    def prune(self, now: float, keep_slices_s: float) -> bool:
        """Delete old slices; requests and outcomes expire by themselves."""
        oldest = slice_of(now - keep_slices_s - SLICE_S)
        with self._translated() as client:
            for cell in _cells(client):
                if 0 <= cell.slice < oldest:
                    with client.pipeline(transaction=True) as pipe:
                        pipe.delete(_sums_key(cell), _bins_key(cell))
                        pipe.srem(_CELLS, _cell_name(cell))
                        pipe.execute()
        return False

    def _restore_indexes(self, client: redis.Redis) -> None:
        """Walk on through the keys, if the server has lost an index, and add what they name."""
        with client.pipeline(transaction=False) as pipe:
            pipe.zscore(_DUE, _SENTINEL)
            pipe.sismember(_CELLS, _SENTINEL)
            due, cells = pipe.execute()
        if due is not None and cells:
            return
        for _ in range(RESTORED_KEYS // _SCANNED_AT_ONCE):
            keys: list[bytes]
            self._cursor, keys = client.scan(  # type: ignore[assignment]
                self._cursor, match=_PREFIX + "*", count=_SCANNED_AT_ONCE
            )
            _add_to_indexes(client, [key.decode() for key in keys])
            if self._cursor == 0:
                client.sadd(_CELLS, _SENTINEL)
                client.zadd(_DUE, {_SENTINEL: "+inf"})
                return

    @contextmanager
    def _translated(self) -> Iterator[redis.Redis]:
        try:
            if self._client is None:
                raise redis.RedisError("it is not open")
            yield self._client
        except redis.TimeoutError as error:
            raise StateTimeout(
                f"the state server did not answer within {TIMEOUT_S:g} s; try again"
            ) from error
        except redis.RedisError as error:
            raise StateUnavailable(f"the state server does not answer: {error}") from error


def _request_key(request_id: str) -> str:
    return f"{_PREFIX}request:{request_id}"


def _outcome_key(outcome_id: str) -> str:
    return f"{_PREFIX}outcome:{outcome_id}"


def _cell_name(cell: Cell) -> str:
    # No part can hold a bar: names are letters, digits, dot, underscore and dash.
    return f"{cell.experiment}|{cell.kind}|{cell.variant}|{cell.slice}"


def _sums_key(cell: Cell) -> str:
    return _SUMS + _cell_name(cell)


def _bins_key(cell: Cell) -> str:
    return f"{_PREFIX}bins:{_cell_name(cell)}"


def _decode_cell(name: str) -> Cell:
    experiment, kind, variant, number = name.split("|")
    return Cell(experiment, Kind(kind), variant, int(number))


def _cells(client: redis.Redis, experiment: str | None = None) -> list[Cell]:
    """Return the cells of one experiment, or of all."""
    members: set[bytes] = client.smembers(_CELLS)  # type: ignore[assignment]
    cells = [_decode_cell(member.decode()) for member in members if member != _SENTINEL.encode()]
    return [cell for cell in cells if experiment in (None, cell.experiment)]


def _add_to_indexes(client: redis.Redis, keys: list[str]) -> None:
    requests = [key for key in keys if key.startswith(_request_key(""))]
    bodies: list[bytes | None] = client.mget(requests) if requests else []  # type: ignore[assignment]
    due = {
        key.removeprefix(_request_key("")): due_at
        for key, body in zip(requests, bodies, strict=True)
        if body is not None and (due_at := decode_record(body).due_at) is not None
    }
    cells = [key.removeprefix(_SUMS) for key in keys if key.startswith(_SUMS)]
    with client.pipeline(transaction=False) as pipe:
        if due:
            pipe.zadd(_DUE, due)
        if cells:
            pipe.sadd(_CELLS, *cells)
        pipe.execute()


def _warn_of_eviction(client: redis.Redis) -> None:
    """Log a warning unless the server keeps what it was given; servers may forbid the question."""
    policy = None
    with suppress(redis.ResponseError):
        policy = client.info("memory").get("maxmemory_policy")
    if policy is None:
        with suppress(redis.ResponseError):
            policy = client.config_get("maxmemory-policy").get("maxmemory-policy")
    if policy is None:
        logger.warning(
            "the state server does not say whether it evicts keys",
            extra={"detail": "make sure that its maxmemory-policy is noeviction"},
        )
    elif policy != "noeviction":
        logger.warning(
            "the state server may evict keys",
            extra={"detail": f"its maxmemory-policy is {policy}: exposures get lost; set it to noeviction"},
        )


def _store(pipe: "redis.client.Pipeline", ledger: Ledger, now: float) -> None:
    for request_id, record in ledger.changed_records.items():
        pipe.set(_request_key(request_id), encode_record(record), exat=int(expires_at(record, now)) + 1)
        if record.early:
            expiry = expires_at(record, now)
            pipe.zadd(_EARLY, {outcome.outcome_id: expiry for outcome in record.early})
        if record.due_at is None:
            pipe.zrem(_DUE, request_id)
        else:
            pipe.zadd(_DUE, {request_id: record.due_at})
    if ledger.no_longer_early:
        pipe.zrem(_EARLY, *ledger.no_longer_early)
    for outcome in ledger.new_reports.values():
        expiry = expires_at(ledger.record(outcome.request_id), now)
        pipe.set(_outcome_key(outcome.outcome_id), json.dumps(asdict(outcome)), exat=int(expiry) + 1)
    for cell, delta in ledger.deltas().items():
        _add(pipe, cell, delta)


def _add(pipe: "redis.client.Pipeline", cell: Cell, delta: CellSums) -> None:
    quality = delta.quality
    pipe.sadd(_CELLS, _cell_name(cell))
    for name, count in zip(
        _COUNTS, (delta.exposed, delta.declined, quality.count, quality.clicks), strict=True
    ):
        pipe.hincrby(_sums_key(cell), name, count)
    reals = (quality.sum_p, quality.sum_loss, delta.loss_diff, delta.loss_diff_squared)
    for name, real in zip(_REALS, reals, strict=True):
        pipe.hincrbyfloat(_sums_key(cell), name, real)
    flat = quality.histogram.reshape(-1)
    changed = np.flatnonzero(flat)
    if changed.size:
        steps: list[Any] = []
        for position in changed:
            steps += ["INCRBY", "u32", f"#{position}", int(flat[position])]
        pipe.execute_command("BITFIELD", _bins_key(cell), *steps)  # type: ignore[no-untyped-call]


def _decode_sums(values: dict[bytes, bytes], bins: bytes | None) -> CellSums:
    exposed, declined, rows, clicks = (int(values.get(name.encode(), 0)) for name in _COUNTS)
    sum_p, sum_loss, diff, squared = (float(values.get(name.encode(), 0)) for name in _REALS)
    # The server stores u32 fields big-endian and keeps the string only as long as its last field.
    flat = np.frombuffer((bins or b"").ljust(8 * BINS, b"\0"), ">u4").astype(np.int64)
    quality = QualitySums(rows, clicks, sum_p, sum_loss, flat.reshape(2, BINS))
    return CellSums(exposed, declined, quality, diff, squared)
