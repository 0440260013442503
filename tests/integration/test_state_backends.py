"""One contract for both state backends: a SQLite file and a real Redis server."""

import multiprocessing
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from redis_server import redis_server
from rounding import SUMS64

from service.experiments import outcomes as rules
from service.experiments import sqlite
from service.experiments.errors import StateUnavailable
from service.experiments.outcomes import Ledger, Status, Written
from service.experiments.record import Exposure, Kind, Outcome
from service.experiments.state import EARLY_OUTCOME_KEPT_S, GRACE_S, State, open_state
from service.experiments.sums import ALL_TIME, SLICE_S, CellSums, SliceProgress, slice_of
from slimctr.errors import ConfigError
from slimctr.quality import QualitySums

# Redis expires keys by its own clock, so exposures are given times around the real present.
NOW = float(slice_of(4_000_000_000.0) * SLICE_S)
LOGITS = np.array([-1.0, 0.5, -3.0, 20.0], dtype=np.float32)

OpenState = Callable[[], State]


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty backend."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'deep' / 'state.sqlite3'}"
    import redis

    found: str = request.getfixturevalue("redis_url")
    with redis.Redis.from_url(found) as client:
        client.flushdb()
    return found


@pytest.fixture
def another(url: str) -> Iterator[OpenState]:
    """Opens the same backend again, as another worker would."""
    opened: list[State] = []

    def open_another() -> State:
        state = open_state(url)
        state.open()
        opened.append(state)
        return state

    yield open_another
    for state in opened:
        state.close()


@pytest.fixture
def state(another: OpenState) -> State:
    return another()


def exposure(request_id: str, variant: str = "a", exposed_at: float = NOW) -> Exposure:
    return Exposure(Kind.LIVE, "e1", request_id, variant, exposed_at, 1800, 2700, LOGITS)


def shadow(request_id: str, exposed_at: float = NOW) -> Exposure:
    live = exposure(request_id, exposed_at=exposed_at)
    return replace(live, kind=Kind.SHADOW, shadow_variant="b", shadow_logits=LOGITS - np.float32(0.5))


def click(request_id: str, index: int, clicked: bool = True, name: str = "", at: float = NOW + 1) -> Outcome:
    return Outcome(name or f"{request_id}-{index}", request_id, index, clicked, at)


def expose(state: State, *exposures: Exposure, now: float = NOW) -> list[Written]:
    ids = {found.request_id for found in exposures}
    return state.transact(ids, [], lambda ledger: [ledger.expose(found) for found in exposures], now)


def report(state: State, *outcomes: Outcome, now: float = NOW) -> list[Status]:
    requests = {found.request_id for found in outcomes}
    ids = {found.outcome_id for found in outcomes}
    return state.transact(
        requests, ids, lambda ledger: [ledger.report(found).status for found in outcomes], now
    )


def mature(state: State, now: float) -> int:
    due = state.due(now, 1000)
    return state.transact(due, [], lambda ledger: sum(ledger.mature(name, now) for name in due), now)


def test_exposures_and_outcomes_of_one_worker_are_seen_by_another(state: State, another: OpenState) -> None:
    other = another()
    assert expose(state, exposure("r1"), exposure("r2", "b")) == [Written.FIRST, Written.FIRST]
    assert expose(other, exposure("r1")) == [Written.REPEAT]
    assert report(other, click("r1", 0), click("r2", 3)) == [Status.JOINED, Status.JOINED]
    assert report(state, click("r1", 0), click("r1", 1, False)) == [Status.DUPLICATE, Status.JOINED]


def test_sums_are_those_of_the_decided_rows(state: State, another: OpenState) -> None:
    expose(state, exposure("r1"), exposure("r2"), exposure("r3", "b"))
    report(another(), click("r1", 0), click("r1", 1, False), click("r2", 3, False), click("r3", 2))
    for span in ((ALL_TIME, ALL_TIME + 1), (slice_of(NOW), slice_of(NOW) + 1)):
        found = state.sums("e1", *span)
        assert found.keys() == {(Kind.LIVE, "a"), (Kind.LIVE, "b")}
        one = found[Kind.LIVE, "a"]
        expected = QualitySums.of([1, 0, 0], LOGITS[[0, 1, 3]])
        assert (one.exposed, one.declined) == (8, 2)
        assert (one.quality.count, one.quality.clicks) == (3, 1)
        assert np.array_equal(one.quality.histogram, expected.histogram)
        assert one.quality.sum_p == pytest.approx(expected.sum_p, rel=SUMS64)
        assert one.quality.sum_loss == pytest.approx(expected.sum_loss, rel=SUMS64)
    assert state.sums("e1", slice_of(NOW) + 1, slice_of(NOW) + 9) == {}
    assert state.sums("other", ALL_TIME, ALL_TIME + 1) == {}


def test_paired_differences_are_summed(state: State) -> None:
    expose(state, exposure("r1"))
    report(state, click("r1", 0), click("r1", 1, False))
    expose(state, shadow("r1"))
    found = state.sums("e1", ALL_TIME, ALL_TIME + 1)[Kind.SHADOW, "b"]
    losses = (
        QualitySums.of([1, 0], LOGITS[:2] - np.float32(0.5)).sum_loss
        - QualitySums.of([1, 0], LOGITS[:2]).sum_loss
    )
    assert found.loss_diff == pytest.approx(losses, rel=SUMS64)
    assert found.loss_diff_squared > 0


def test_a_restated_row_leaves_no_trace_of_its_first_value(state: State) -> None:
    expose(state, exposure("r1"))
    report(state, click("r1", 0))
    assert report(state, replace(click("r1", 0, False), restate=True)) == [Status.RESTATED]
    found = state.sums("e1", ALL_TIME, ALL_TIME + 1)[Kind.LIVE, "a"].quality
    assert (found.count, found.clicks) == (1, 0)
    assert np.array_equal(found.histogram, QualitySums.of([0], LOGITS[:1]).histogram)


def test_open_rows_come_due_once_and_in_order(state: State, another: OpenState) -> None:
    expose(state, exposure("late", exposed_at=NOW + 50), exposure("early"), exposure("decided"))
    report(state, *(click("decided", index) for index in range(4)))
    assert state.due(NOW + 2699, 10) == []
    assert state.due(NOW + 2750, 10) == ["early", "late"]
    assert state.due(NOW + 2750, 1) == ["early"]
    assert mature(another(), NOW + 2750) == 8
    assert mature(state, NOW + 2750) == 0
    found = state.sums("e1", ALL_TIME, ALL_TIME + 1)[Kind.LIVE, "a"].quality
    assert (found.count, found.clicks) == (12, 4)


def test_slices_tell_how_far_they_are_decided(state: State) -> None:
    expose(state, exposure("r1"), exposure("r2", "b", NOW + SLICE_S))
    report(state, click("r1", 0), click("r1", 1, False), click("r2", 0, at=NOW + SLICE_S + 5))
    assert state.slices("e1") == [
        SliceProgress(slice_of(NOW), exposed=4, decided=2, declined=1),
        SliceProgress(slice_of(NOW) + 1, exposed=4, decided=1, declined=0),
    ]
    assert state.slices("other") == []


def test_an_outcome_waits_for_an_exposure_of_another_worker(state: State, another: OpenState) -> None:
    assert report(state, click("r1", 0)) == [Status.ORPHAN]
    assert report(another(), click("r1", 0)) == [Status.DUPLICATE]
    early = another().transact(
        ["r1"], [], lambda ledger: (ledger.expose(exposure("r1")), ledger.verdicts_of_early), NOW
    )
    assert [verdict.status for verdict in early[1]] == [Status.JOINED]
    assert state.sums("e1", ALL_TIME, ALL_TIME + 1)[Kind.LIVE, "a"].quality.clicks == 1


def test_an_id_of_two_answers_is_ambiguous_whichever_worker_wrote_which(
    state: State, another: OpenState
) -> None:
    other = another()
    expose(state, exposure("r1"), exposure("r2"))
    assert report(other, click("r1", 0), click("r1", 1, False), click("r2", 0)) == 3 * [Status.JOINED]
    assert expose(other, exposure("r1", "b", NOW + SLICE_S)) == [Written.AMBIGUOUS]
    assert report(state, click("r1", 2), click("r1", 0)) == 2 * [Status.AMBIGUOUS]
    assert expose(another(), exposure("r1")) == [Written.AMBIGUOUS], "also after a restart"
    assert state.due(NOW + 1e6, 10) == ["r2"]
    found = state.sums("e1", ALL_TIME, ALL_TIME + 1)
    assert found.keys() <= {(Kind.LIVE, "a"), (Kind.LIVE, "b")}
    kept = found[Kind.LIVE, "a"]
    assert (kept.exposed, kept.declined, kept.quality.count, kept.quality.clicks) == (4, 0, 1, 1)
    assert np.array_equal(kept.quality.histogram, QualitySums.of([1], LOGITS[:1]).histogram)


def test_an_answer_that_is_no_exposure_takes_its_id(state: State, another: OpenState) -> None:
    silent = exposure("r1", "pinned").without_scores()
    assert expose(state, silent) == [Written.FIRST]
    assert report(another(), click("r1", 0)) == [Status.ORPHAN]
    assert expose(another(), silent) == [Written.REPEAT]
    assert expose(another(), exposure("r1")) == [Written.AMBIGUOUS]
    assert report(state, click("r1", 0)) == [Status.AMBIGUOUS]
    assert state.sums("e1", ALL_TIME, ALL_TIME + 1).get((Kind.LIVE, "a"), CellSums()).exposed == 0


def test_the_first_definition_of_an_experiment_is_kept(state: State, another: OpenState) -> None:
    assert state.register("e1", "one") == "one"
    assert another().register("e1", "two") == "one"
    assert state.register("e2", "two") == "two"


def test_a_failing_step_changes_nothing(state: State) -> None:
    def step(ledger: Ledger) -> None:
        ledger.expose(exposure("r1"))
        raise LookupError("a fault in the step")

    with pytest.raises(LookupError):
        state.transact(["r1"], [], step, NOW)
    assert state.slices("e1") == []
    assert report(state, click("r1", 0)) == [Status.ORPHAN]


def test_what_was_committed_is_there_after_reopening(state: State, another: OpenState) -> None:
    expose(state, exposure("r1"))
    report(state, click("r1", 0))
    state.close()
    state.close()
    again = another()
    assert report(again, click("r1", 0), click("r1", 1)) == [Status.DUPLICATE, Status.JOINED]


def test_a_closed_state_is_unavailable(state: State) -> None:
    state.close()
    for call in (
        lambda: state.due(NOW, 1),
        lambda: state.slices("e1"),
        lambda: expose(state, exposure("r1")),
    ):
        with pytest.raises(StateUnavailable):
            call()


def test_old_slices_are_forgotten_and_all_time_stays(state: State) -> None:
    expose(state, exposure("r1"), exposure("r2", exposed_at=NOW + 10 * SLICE_S))
    report(state, click("r1", 0))
    state.prune(NOW + 11 * SLICE_S, keep_slices_s=5 * SLICE_S)
    assert [found.slice for found in state.slices("e1")] == [slice_of(NOW) + 10]
    assert state.sums("e1", slice_of(NOW), slice_of(NOW) + 1) == {}
    whole = state.sums("e1", ALL_TIME, ALL_TIME + 1)[Kind.LIVE, "a"]
    assert (whole.exposed, whole.quality.clicks) == (8, 1)


def _work(url: str, worker: int, requests: int, barrier: "multiprocessing.synchronize.Barrier") -> None:
    state = open_state(url)
    state.open()
    barrier.wait()
    for number in range(requests):
        mine, shared = exposure(f"w{worker}-{number}"), exposure(f"shared-{number}")
        expose(state, mine, shared)
        report(state, click(mine.request_id, 0), click(shared.request_id, 1, False))
    state.close()


def test_several_processes_write_at_once_and_every_row_counts_once(url: str, state: State) -> None:
    context = multiprocessing.get_context("spawn")
    workers, requests = 3, 20
    barrier = context.Barrier(workers)
    processes = [
        context.Process(target=_work, args=(url, worker, requests, barrier)) for worker in range(workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    found = state.sums("e1", ALL_TIME, ALL_TIME + 1)[Kind.LIVE, "a"]
    assert found.exposed == 4 * requests * (workers + 1)
    assert (found.quality.count, found.quality.clicks) == (requests * (workers + 1), requests * workers)
    assert found.declined == requests


def test_a_conflicting_writer_makes_the_step_run_again(url: str, state: State) -> None:
    """Redis runs the step again, SQLite makes the other writer wait; both end with the row counted once."""
    expose(state, exposure("r1"))
    seen: list[Status] = []
    runs: list[int] = []

    def write_from_elsewhere() -> None:
        other = open_state(url)
        other.open()
        seen.extend(report(other, click("r1", 0)))
        other.close()

    writer = threading.Thread(target=write_from_elsewhere)

    def step(ledger: Ledger) -> Status:
        runs.append(1)
        if len(runs) == 1:
            writer.start()
            # With Redis the other writer ends now; with SQLite it waits until this transaction has ended.
            writer.join(timeout=0.5)
        return ledger.report(click("r1", 0)).status

    seen.append(state.transact(["r1"], ["r1-0"], step, NOW))
    writer.join()
    assert sorted(seen) == [Status.DUPLICATE, Status.JOINED]
    assert len(runs) == (1 if url.startswith("sqlite") else 2)
    assert state.sums("e1", ALL_TIME, ALL_TIME + 1)[Kind.LIVE, "a"].quality.count == 1


@pytest.mark.parametrize("bad", ["sqlite://", "sqlite:///", "postgres://x", ""])
def test_an_unknown_url_is_refused(bad: str) -> None:
    with pytest.raises(ConfigError, match="names no backend"):
        open_state(bad)


def test_an_unreachable_server_is_unavailable() -> None:
    state = open_state("redis://127.0.0.1:1/0")
    with pytest.raises(StateUnavailable, match="does not answer"):
        state.open()
    state.close()


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    path.write_bytes(b"this is not a database" * 100)
    state = open_state(f"sqlite:///{path}")
    with pytest.raises(StateUnavailable, match="cannot be used"):
        state.open()
    state.close()


def test_outcomes_without_an_exposure_are_bounded_in_number(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "MAX_EARLY", 5)
    monkeypatch.setattr(rules, "MAX_EARLY_OF_REQUEST", 3)
    orphan, refused = Status.ORPHAN, Status.REFUSED
    of_one = [click("r1", index % 4, name=f"r1-{index}") for index in range(5)]
    assert report(state, *of_one) == [orphan, orphan, orphan, refused, refused]
    assert report(state, of_one[0]) == [Status.DUPLICATE]
    restated = replace(of_one[0], clicked=False, restate=True)
    assert report(state, restated) == [orphan], "takes the place of what it restates"
    assert report(state, *(click(f"u{number}", 0) for number in range(4))) == [
        orphan,
        orphan,
        refused,
        refused,
    ]
    # What joins makes room, and so does what is given up.
    expose(state, exposure("r1"))
    assert report(state, of_one[3]) == [Status.JOINED]
    assert report(state, *(click(f"v{number}", 0) for number in range(4))) == [
        orphan,
        orphan,
        orphan,
        refused,
    ]
    later = NOW + EARLY_OUTCOME_KEPT_S + 1
    assert report(state, *(click(f"w{number}", 0) for number in range(6)), now=later) == 5 * [orphan] + [
        refused
    ]
    found = state.sums("e1", ALL_TIME, ALL_TIME + 1)[Kind.LIVE, "a"].quality
    assert (found.count, found.clicks) == (4, 3)


def test_sqlite_forgets_expired_requests_and_outcomes(tmp_path: Path) -> None:
    state = open_state(f"sqlite:///{tmp_path / 'state.sqlite3'}")
    state.open()
    expose(state, exposure("r1"))
    report(state, click("r1", 0), click("unknown", 0))
    state.prune(NOW + EARLY_OUTCOME_KEPT_S + 1, keep_slices_s=1e9)
    assert report(state, click("unknown", 0), click("r1", 0)) == [Status.ORPHAN, Status.DUPLICATE]
    state.prune(NOW + 2700 + GRACE_S + 1, keep_slices_s=1e9)
    assert report(state, click("r1", 0)) == [Status.ORPHAN]
    state.close()


def test_sqlite_forgets_in_steps_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "PRUNED_ROWS", 10)
    state = open_state(f"sqlite:///{tmp_path / 'state.sqlite3'}")
    state.open()
    expose(state, *(exposure(f"r{number}") for number in range(25)))
    later = NOW + 2700 + GRACE_S + 1
    assert [state.prune(later, keep_slices_s=1e9) for _ in range(3)] == [True, True, False]
    assert expose(state, exposure("r24", exposed_at=later), now=later) == [Written.FIRST]
    state.close()


def test_redis_keys_of_requests_and_outcomes_expire(redis_url: str) -> None:
    import redis

    state = open_state(redis_url)
    state.open()
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
        expose(state, exposure("r1"))
        report(state, click("r1", 0), click("unknown", 0))
        assert client.expiretime("slimctr:request:r1") == int(NOW + 2700 + GRACE_S) + 1
        assert client.expiretime("slimctr:outcome:r1-0") == int(NOW + 2700 + GRACE_S) + 1
        assert client.expiretime("slimctr:request:unknown") == int(NOW + EARLY_OUTCOME_KEPT_S) + 1
        # A request that expired while its rows were open must not come due for ever.
        client.delete("slimctr:request:r1")
        assert state.due(NOW + 2700, 10) == ["r1"]
        assert mature(state, NOW + 2700) == 0
        assert state.due(NOW + 2700, 10) == []
    state.close()


def test_a_new_file_is_opened_while_another_worker_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.sqlite3"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(time, "sleep", lambda seconds: other.rollback())
    state = open_state(f"sqlite:///{path}")
    state.open()
    assert state.register("k", "first") == "first"
    state.close()
    other.close()
