"""The facade: assignment reasons, what is recorded, binding to versions, behavior without a state."""

import asyncio
import json
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_store.errors import NotFound
from service.experiments import Assignment, Experiments, ExperimentSpec, Outcome, ScoredRequest, Status
from service.experiments.assignment import drawn_for_shadow
from service.experiments.errors import StateUnavailable, UnknownExperiment
from service.experiments.sqlite import SqliteState
from service.telemetry.metrics import Metrics
from slimctr.errors import ConfigError
from slimctr.features import EncodedBatch

NOW = 1_700_000_000.0
NONE = np.zeros(0, np.int64)


class ConstantScorer:
    def logits(self, batch: EncodedBatch) -> np.ndarray:
        return np.full(len(batch), -1.0, np.float32)


@dataclass
class FakePool:
    """Versions 1 and 2 are ready unless taken away; `stable` leads to 1."""

    ready: set[int] = field(default_factory=lambda: {1, 2})

    def scorer(self, model: str, version: int) -> Any:
        return ConstantScorer() if version in self.ready else None

    def label_version(self, model: str, label: str) -> int:
        return {"stable": 1, "canary": 2}[label]


@dataclass
class FakeManifest:
    base_vocabulary: str
    encoder: str
    features: str = "fields"


@dataclass
class FakeStore:
    """A store of versions 1 to 3; 3 has another vocabulary."""

    labels: dict[str, int] = field(default_factory=lambda: {"stable": 1, "canary": 2})

    def resolve(self, reference: str) -> tuple[str, int]:
        model, selector = reference.split("@")
        version = int(selector) if selector.isdigit() else self.labels.get(selector, 0)
        if version not in (1, 2, 3):
            raise NotFound(f"there is no {reference}")
        return model, version

    def manifest(self, model: str, version: int) -> FakeManifest:
        vocabulary = "other" if version == 3 else "same"
        return FakeManifest(vocabulary, vocabulary)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def spec(**changes: Any) -> ExperimentSpec:
    document = {
        "key": "e1",
        "model": "ctr",
        "variants": [
            {"name": "original", "version": 1, "weight": 0.5},
            {"name": "int4", "version": "canary", "weight": 0.5},
        ],
        "default": "original",
    }
    return ExperimentSpec.model_validate({**document, **changes})


class Bench:
    """One facade on a SQLite file, with fakes of the pool and the store that a test can change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pool, self.store, self.metrics, self.clock = FakePool(), FakeStore(), Metrics(), Clock()

    def new(self, found: ExperimentSpec | None) -> Experiments:
        state = SqliteState(self.path / "state.sqlite3")
        return Experiments(found, state, self.pool, self.metrics, self.store, self.clock)  # type: ignore[arg-type]

    def run(self, found: ExperimentSpec | None, work: Callable[[Experiments], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            experiments = self.new(found)
            await experiments.start()
            try:
                return await work(experiments)
            finally:
                await experiments.stop()

        return asyncio.run(main())

    def value(self, metric: str, **labels: str) -> float:
        return sum(
            sample.value
            for family in getattr(self.metrics, metric).collect()
            for sample in family.samples
            if sample.name == f"slimctr_{metric}" and labels.items() <= sample.labels.items()
        )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def assign(
    experiments: Experiments, unit_id: str | None = None, model: str = "ctr", **target: Any
) -> Assignment:
    return experiments.assign(model, unit_id=unit_id, **target)


def scored(request_id: str, assignment: Assignment, rows: int = 2, at: float = NOW) -> ScoredRequest:
    batch = EncodedBatch(np.zeros((rows, 3), np.int32), (), NONE, NONE)
    logits = np.linspace(-2, 1, rows, dtype=np.float32)
    return ScoredRequest(request_id, "u", "ctr", assignment, batch, logits, at)


def test_every_reason_of_an_assignment(bench: Bench) -> None:
    async def work(experiments: Experiments) -> None:
        variants = {assign(experiments, f"u{n}").variant for n in range(50)}
        assert variants == {"original", "int4"}
        candidate = next(f"u{n}" for n in range(50) if assign(experiments, f"u{n}").variant == "int4")
        assert assign(experiments, candidate) == Assignment(2, "int4", "e1", 1, "hash")
        assert assign(experiments) == Assignment(1, "original", "e1", 1, "no_unit")
        assert assign(experiments, candidate, version=7) == Assignment(7, "pinned", "e1", 1, "pinned")
        assert assign(experiments, candidate, label="canary") == Assignment(2, "canary", "e1", 1, "pinned")
        assert assign(experiments, candidate, "other") == Assignment(1, "stable", None, None, "no_experiment")
        bench.pool.ready.remove(2)
        assert assign(experiments, candidate) == Assignment(1, "int4", "e1", 1, "fallback")
        assert experiments.explain("e1", candidate)["reason"] == "fallback"

    bench.run(spec(), work)
    assert bench.value("assignments_total", reason="pinned") == 2
    assert bench.value("assignments_total", reason="fallback", variant="int4") == 1


def test_units_outside_the_coverage_get_the_default(bench: Bench) -> None:
    async def work(experiments: Experiments) -> None:
        assert {assign(experiments, f"u{n}") for n in range(50)} == {
            Assignment(1, "original", "e1", 1, "not_covered")
        }

    bench.run(spec(coverage=0), work)


def test_without_an_experiment_labels_decide_and_no_state_is_made(bench: Bench) -> None:
    async def work(experiments: Experiments) -> None:
        found = assign(experiments, "u1")
        assert found == Assignment(1, "stable", None, None, "no_experiment")
        assert assign(experiments, label="canary") == Assignment(2, "canary", None, None, "pinned")
        assert assign(experiments, version=5) == Assignment(5, "pinned", None, None, "pinned")
        experiments.record(scored("r1", found))
        assert experiments.required_versions() == set()
        assert (await experiments.results(), experiments.declarations()) == ({}, [])
        with pytest.raises(UnknownExperiment, match="no experiment runs"):
            await experiments.outcomes([])
        with pytest.raises(UnknownExperiment, match="running: none"):
            experiments.declaration("e1")

    bench.run(None, work)
    assert not (bench.path / "state.sqlite3").exists()


def test_only_assigned_units_are_exposed(bench: Bench) -> None:
    async def work(experiments: Experiments) -> None:
        experiments.record(scored("r1", assign(experiments)))
        experiments.record(scored("r2", assign(experiments, "u1", version=1)))
        experiments.record(scored("r3", assign(experiments, "u1", "other")))
        experiments.record(scored("r4", assign(experiments, "u1"), rows=0))
        experiments.record(scored("r5", assign(experiments, "u1")))
        await experiments.flush()

    bench.run(spec(), work)
    assert bench.value("exposures_total") == 1
    assert bench.value("event_log_sent_total") == 1


def test_an_outcome_joins_an_exposure_that_was_not_written_yet(bench: Bench) -> None:
    async def work(experiments: Experiments) -> None:
        experiments.record(scored("r1", assign(experiments, "u1")))
        report = await experiments.outcomes(
            [Outcome("o1", "r1", 0, True, NOW + 3), Outcome("o2", "r9", 0, True, NOW)]
        )
        assert report.counts[Status.JOINED] == 1
        assert report.counts[Status.ORPHAN] == 1

    bench.run(spec(), work)
    assert bench.value("outcomes_total", experiment="e1", status="joined") == 1
    assert bench.value("outcomes_total", experiment="e1", status="orphan") == 1


def test_stopping_writes_the_exposures_that_wait(bench: Bench) -> None:
    async def expose(experiments: Experiments) -> None:
        experiments.record(scored("r1", assign(experiments, "u1")))

    async def report(experiments: Experiments) -> int:
        return (await experiments.outcomes([Outcome("o1", "r1", 1, False, NOW)])).counts[Status.JOINED]

    bench.run(spec(), expose)
    assert bench.run(spec(), report) == 1


def test_results_follow_the_clock_to_maturity(bench: Bench) -> None:
    async def work(experiments: Experiments) -> None:
        found = assign(experiments, "u1")
        experiments.record(scored("r1", found, rows=4))
        await experiments.outcomes([Outcome("o1", "r1", 0, True, NOW + 3)])
        assert (await experiments.results())["windows"]["all"]["variants"][found.variant]["rows"] == 0
        bench.clock.now += 2700 + 300
        shown = (await experiments.results_of("e1"))["windows"]["1h"]["variants"][found.variant]
        assert (shown["rows"], shown["clicks"]) == (4, 1)
        with pytest.raises(UnknownExperiment, match="running: e1"):
            await experiments.results_of("e2")

    bench.run(spec(), work)
    assert bench.value("eval_rows", window="1h") == 4


@pytest.mark.parametrize("coverage", [0.0, 1.0])
def test_the_shadow_scores_drawn_requests_of_the_default(bench: Bench, coverage: float) -> None:
    found = spec(coverage=coverage, shadow={"variant": "int4", "percent": 50})
    drawn: list[str] = []

    async def work(experiments: Experiments) -> None:
        for number in range(40):
            assignment = assign(experiments, f"u{number}")
            experiments.record(scored(f"r{number}", assignment))
            if assignment.variant == "original" and drawn_for_shadow("e1", f"r{number}", 50):
                drawn.append(f"r{number}")
        assert await asyncio.to_thread(experiments._shadow.wait_until_idle, 10)
        await experiments.outcomes(
            [
                Outcome(f"{name}-{index}", name, index, index == 0, NOW + 1)
                for name in drawn
                for index in (0, 1)
            ]
        )
        bench.clock.now += 3000
        shown = (await experiments.results())["windows"]["all"]["shadow"]
        assert shown["paired"]["rows"] == 2 * len(drawn)
        assert shown["served"]["rows"] == shown["shadow"]["rows"] == 2 * len(drawn)

    bench.run(found, work)
    assert 5 < len(drawn) < 35
    assert bench.value("shadow_selected_total") == bench.value("shadow_scored_total") == len(drawn)


def test_variants_keep_the_versions_of_the_first_start(bench: Bench) -> None:
    async def versions(experiments: Experiments) -> set[tuple[str, int]]:
        assert experiments.declaration("e1")["variants"][1]["version"] == "2"
        return experiments.required_versions()

    assert bench.run(spec(), versions) == {("ctr", 1), ("ctr", 2)}
    bench.store.labels["canary"] = 1
    assert bench.run(spec(coverage=0.2), versions) == {("ctr", 1), ("ctr", 2)}


def test_a_definition_that_the_state_lost_is_said_again(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    file = sqlite3.connect(bench.path / "state.sqlite3", isolation_level=None)
    kept: list[str] = []

    async def work(experiments: Experiments) -> None:
        for statement in ("DELETE FROM experiments", "UPDATE experiments SET document = '{}'"):
            file.execute(statement)
            await experiments._tend()
            kept.append(file.execute("SELECT document FROM experiments").fetchone()[0])

    bench.run(spec(), work)
    file.close()
    assert json.loads(kept[0])["versions"] == {"original": 1, "int4": 2}
    assert kept[1] == "{}"
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        "another worker bound the experiment to other versions; start all workers again"
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window_s": 60, "maturity_s": 2700}, "already run with another value of: window_s"),
        ({"seed": "new"}, "already run with another value of: seed"),
    ],
)
def test_a_frozen_key_that_changed_refuses_the_start(
    bench: Bench, change: dict[str, Any], message: str
) -> None:
    async def nothing(experiments: Experiments) -> None:
        pass

    bench.run(spec(), nothing)
    with pytest.raises(ConfigError, match=message):
        bench.run(spec(**change), nothing)


@pytest.mark.parametrize(
    ("version", "message"), [(9, "there is no ctr@9"), ("gone", "there is no"), (3, "encode features diff")]
)
def test_a_version_that_cannot_be_compared_refuses_the_start(
    bench: Bench, version: Any, message: str
) -> None:
    variants = [
        {"name": "original", "version": 1, "weight": 0.5},
        {"name": "new", "version": version, "weight": 0.5},
    ]
    with pytest.raises(ConfigError, match=message):
        bench.run(spec(variants=variants), lambda experiments: experiments.flush())


def test_a_state_that_fails_keeps_exposures_and_refuses_outcomes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(experiments: Experiments) -> None:
        assignment = assign(experiments, "u1")
        with monkeypatch.context() as broken:
            broken.setattr(SqliteState, "transact", _unavailable)
            experiments.record(scored("r1", assignment))
            with pytest.raises(StateUnavailable):
                await experiments.outcomes([Outcome("o1", "r1", 0, True, NOW)])
            assert bench.value("event_log_sent_total") == 0
        report = await experiments.outcomes([Outcome("o1", "r1", 0, True, NOW)])
        assert report.counts[Status.JOINED] == 1

    bench.run(spec(), work)
    assert bench.value("event_log_sent_total") == 1
    assert bench.value("event_log_failed_total") == 0


def test_exposures_that_cannot_be_written_at_the_end_are_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(experiments: Experiments) -> None:
        monkeypatch.setattr(SqliteState, "transact", _unavailable)
        experiments.record(scored("r1", assign(experiments, "u1")))

    bench.run(spec(), work)
    assert bench.value("event_log_failed_total") == 1
    assert bench.value("event_log_queue_bytes") == 0


def _unavailable(*_: Any) -> None:
    raise StateUnavailable("the disk is full")
