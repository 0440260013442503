"""A Redis server that evicts keys costs rows, never the estimates: whatever it drops, the rest counts and is shown."""

import logging
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import redis
from redis_server import redis_server

from service.experiments.errors import StateUnavailable
from service.experiments.estimates import Estimates, describe, read_estimates
from service.experiments.outcomes import Status, Written
from service.experiments.record import Exposure, Kind, Outcome
from service.experiments.redis import RedisState
from service.experiments.spec import ExperimentSpec
from service.experiments.sums import SLICE_S, slice_of

# Redis expires keys by its own clock, so the present of these tests lies in its future.
NOW = float(slice_of(4_000_000_000.0) * SLICE_S)
MATURITY_S = 2700.0
ROWS = 4
KINDS = ("request:*", "outcome:*", "sums:*", "bins:*", "cells", "due", "early", "experiments")
SPEC = ExperimentSpec.model_validate(
    {
        "key": "e1",
        "model": "ctr",
        "variants": [{"name": "a", "version": 1, "weight": 0.5}, {"name": "b", "version": 2, "weight": 0.5}],
        "default": "a",
    }
)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as found:
        yield found


@pytest.fixture
def client(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url) as found:
        found.flushall()
        found.config_set("maxmemory", 0)
        found.config_set("maxmemory-policy", "noeviction")
        yield found


@pytest.fixture
def state(url: str, client: redis.Redis) -> Iterator[RedisState]:
    found = RedisState(url)
    found.open()
    yield found
    found.close()


def traffic(state: RedisState, names: list[str], at: float) -> list[Written]:
    """Expose a request of four rows for each name, click on its first row, and let an orphan wait."""
    logits = np.linspace(-3, 1, ROWS).astype(np.float32)
    written = state.transact(
        names,
        [],
        lambda ledger: [
            ledger.expose(Exposure(Kind.LIVE, "e1", name, "ab"[index % 2], at, 1800, MATURITY_S, logits))
            for index, name in enumerate(names)
        ],
        NOW,
    )
    clicks(state, names, at)
    return written


def clicks(state: RedisState, names: list[str], at: float) -> list[Status]:
    outcomes = [Outcome(f"{name}/0", name, 0, True, at + 1) for name in [*names, "unknown"]]
    return state.transact(
        [*names, "unknown"],
        [found.outcome_id for found in outcomes],
        lambda ledger: [ledger.report(found).status for found in outcomes][:-1],
        NOW,
    )


def ripen(state: RedisState) -> int:
    """Mature all that is due, as the journal does; that it ends is a part of the test."""
    ripened = 0
    for _ in range(100):
        due = state.due(NOW, 50)
        if not due:
            return ripened
        ripened += state.transact(
            due, [], lambda ledger, due=due: sum(ledger.mature(name, NOW) for name in due), NOW
        )
    raise AssertionError("what is due never ends")


def checked(state: RedisState) -> tuple[Estimates, int]:
    """The estimates, after checking that none of their numbers is impossible; and the rows of 24 hours."""
    estimates = read_estimates(state, SPEC, NOW)
    assert estimates.cut_at == NOW - MATURITY_S, "nothing that is lost holds the estimates back"
    assert estimates.label_coverage is None or 0 <= estimates.label_coverage <= 1
    for window in describe(estimates, SPEC)["windows"].values():
        for shown in window["variants"].values():
            assert 0 <= shown["clicks"] <= shown["rows"]
            assert shown["auc"] is None or 0 <= shown["auc"] <= 1
            assert shown["logloss"] is None or 0 <= shown["logloss"] < 10
            assert shown["label_coverage_ratio"] is None or 0 <= shown["label_coverage_ratio"] <= 1
    found = describe(estimates, SPEC)["windows"]["24h"]["variants"].values()
    return estimates, sum(shown["rows"] for shown in found)


def names(start: int, count: int = 20) -> list[str]:
    return [f"r{number}" for number in range(start, start + count)]


def test_one_lost_exposure_costs_its_rows_and_no_others(state: RedisState, client: redis.Redis) -> None:
    traffic(state, names(0), NOW - 4000)
    client.delete("slimctr:request:r7")
    assert ripen(state) == 19 * (ROWS - 1)
    estimates, rows = checked(state)
    assert rows == 20 * ROWS - (ROWS - 1), "the click of the lost exposure had been counted"
    assert estimates.label_coverage == rows / (20 * ROWS)


@pytest.mark.parametrize("matured", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_keys_of_any_kind_may_be_lost(
    state: RedisState, client: redis.Redis, kind: str, matured: bool
) -> None:
    state.register("e1", "definition")
    traffic(state, names(0), NOW - 4000)
    if matured:
        ripen(state)
    lost = client.keys("slimctr:" + kind)
    assert lost, "the backend does not use such keys any more"
    client.delete(*lost)
    # Another slice, the same slice again, and outcomes of what was there before.
    assert traffic(state, names(100), NOW - 5000) == 20 * [Written.FIRST]
    traffic(state, names(200), NOW - 4000)
    clicks(state, names(0), NOW - 4000)
    ripen(state)
    _, rows = checked(state)
    every_row = 60 * ROWS
    # What was written after the loss counts at least in its own slice.
    assert rows >= 20 * ROWS
    if kind in ("outcome:*", "cells", "due", "early", "experiments"):
        assert rows == every_row
    assert ripen(state) == 0
    assert state.register("e1", "definition") == "definition"


@pytest.mark.parametrize("seed", range(5))
def test_random_keys_may_be_lost_at_any_time(state: RedisState, client: redis.Redis, seed: int) -> None:
    drawn = random.Random(seed)
    for step in range(12):
        at = NOW - drawn.choice([4000, 4400, 5000])
        traffic(state, names(20 * step), at)
        keys = sorted(client.keys())
        client.delete(*drawn.sample(keys, len(keys) // 4))
        clicks(state, names(20 * drawn.randrange(step + 1)), at)
        if drawn.random() < 0.5:
            ripen(state)
        checked(state)


@pytest.mark.parametrize("policy", ["volatile-lru", "allkeys-random"])
def test_a_server_that_evicts_is_survived(state: RedisState, client: redis.Redis, policy: str) -> None:
    client.config_set("maxmemory-policy", policy)
    used = client.info("memory")["used_memory"]
    client.config_set("maxmemory", used + 200_000)
    for step in range(40):
        with suppress(
            StateUnavailable
        ):  # nothing that may go is left: the server refuses, the caller tries again
            traffic(state, names(20 * step), NOW - 4000)
    assert client.info("stats")["evicted_keys"] > 0
    with suppress(StateUnavailable):  # a full server refuses transactions, those that only read included
        ripen(state)
        checked(state)
    client.config_set("maxmemory", 0)
    ripen(state)
    checked(state)


def warnings_at_start(url: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="slimctr.experiments"):
        state = RedisState(url)
        state.open()
        state.close()
    return [f"{record.message}: {record.__dict__['detail']}" for record in caplog.records]


def test_the_start_warns_of_a_server_that_evicts(
    url: str, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    assert warnings_at_start(url, caplog) == []
    for policy in ("volatile-lru", "allkeys-lfu", "volatile-ttl"):
        client.config_set("maxmemory-policy", policy)
        (warning,) = warnings_at_start(url, caplog)
        assert "may evict keys" in warning
        assert policy in warning


@pytest.mark.parametrize("denied", [["-info"], ["-config"], ["-info", "-config"]])
def test_a_server_that_forbids_the_question_is_no_reason_to_fail(
    url: str, client: redis.Redis, caplog: pytest.LogCaptureFixture, denied: list[str]
) -> None:
    client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">secret", "~*", "+@all", *denied)
    found = warnings_at_start(url.replace("redis://", "redis://app:secret@"), caplog)
    if len(denied) == 1:
        assert found == []
    else:
        assert len(found) == 1
        assert "does not say whether it evicts keys" in found[0]


def test_a_full_server_refuses_and_loses_nothing(
    state: RedisState, client: redis.Redis, tmp_path: Path
) -> None:
    traffic(state, names(0), NOW - 4000)
    client.config_set("maxmemory", client.info("memory")["used_memory"] - 1000)
    with pytest.raises(StateUnavailable):
        traffic(state, names(100), NOW - 4000)
    client.config_set("maxmemory", 0)
    traffic(state, names(100), NOW - 4000)
    ripen(state)
    assert checked(state)[1] == 40 * ROWS
