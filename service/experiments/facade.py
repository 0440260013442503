"""`Experiments`: the one object through which requests, outcomes and readers meet the running experiment."""

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from model_store.store import ModelStore
from service.experiments.assigner import (
    REVISION,
    Assigner,
    Assignment,
    Versions,
    assign_without_experiment,
)
from service.experiments.assignment import bucket, drawn_for_shadow
from service.experiments.binding import bind, definition, encode_alike
from service.experiments.errors import StateUnavailable, UnknownExperiment
from service.experiments.estimates import describe, read_estimates
from service.experiments.exposures import ExposureQueue
from service.experiments.gauges import show_estimates, show_weights
from service.experiments.journal import Journal
from service.experiments.outcomes import Status, Verdict, Written
from service.experiments.record import Exposure, Kind, Logits, Outcome, answer_digest
from service.experiments.shadow import ShadowJob, ShadowScorer
from service.experiments.spec import ExperimentSpec, ShadowSpec
from service.experiments.state import State
from service.telemetry.metrics import Metrics
from slimctr.features import EncodedBatch, Encoder

__all__ = ["Assignment", "Experiments", "OutcomeReport", "ScoredRequest"]

FLUSH_INTERVAL_S = 0.1
MATURE_INTERVAL_S = 5.0
ESTIMATE_INTERVAL_S = 15.0
TEND_INTERVAL_S = 600.0
# Several readers within this time share one reading of the state.
RESULTS_KEPT_S = 1.0
# Slices are kept this long beyond maturity: the widest window and a day of slack.
SLICES_KEPT_S = 2 * 86_400.0
EXPOSED_REASONS = frozenset({"hash", "fallback"})
SHADOWED_REASONS = frozenset({"hash", "no_unit", "not_covered"})

logger = logging.getLogger("slimctr.experiments")


@dataclass(frozen=True, eq=False)
class ScoredRequest:
    """A request whose response was handed over: its batch, logits float32 (B,), and seconds since the epoch.

    `named` says that the caller chose `request_id`, so that another answer may have it too.
    `encode` makes the batch again for a version that reads values as other rows, out of what the request of
    `size_bytes` said.
    """

    request_id: str
    unit_id: str | None
    model: str
    assignment: Assignment
    batch: EncodedBatch
    logits: Logits
    scored_at: float
    named: bool = False
    encode: Callable[[Encoder], EncodedBatch] | None = None
    size_bytes: int = 0


@dataclass(frozen=True)
class OutcomeReport:
    """How many outcomes got which status."""

    counts: dict[Status, int]


class Experiments:
    """Assign requests, log exposures, score shadows, join outcomes and estimate quality.

    `assign` and `record` only compute and queue; everything else waits for the state without holding up the event
    loop. Without a spec every request gets the version of its label, nothing is logged, and the state stays
    closed. `store` resolves labels and tells which versions encode alike.
    """

    def __init__(
        self,
        spec: ExperimentSpec | None,
        state: State,
        pool: Versions,
        metrics: Metrics,
        store: ModelStore,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.spec = spec
        self._state = state
        self._pool = pool
        self._metrics = metrics
        self._store = store
        self._clock = clock
        self._exposures = ExposureQueue(metrics)
        self._reading = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._journal: Journal | None = None
        self._assigner: Assigner | None = None
        self._versions: dict[str, int] = {}
        self._shadow: ShadowScorer | None = None
        self.encodes_alike = True
        self._results: tuple[float, dict[str, Any]] | None = None

    def assign(
        self,
        model: str,
        *,
        unit_id: str | None,
        version: int | None = None,
        label: str | None = None,
    ) -> Assignment:
        """Return which version answers a request; raises what the pool raises for an unknown label."""
        if self.spec is None or self._assigner is None or self.spec.model != model:
            return assign_without_experiment(self._pool, model, version, label)
        found = self._assigner.request(unit_id, version, label)
        self._metrics.assignments_total.labels(self.spec.key, found.variant, found.reason).inc()
        return found

    def default_version(self, model: str) -> int:
        """Return the version that answers requests without unit, label and version; raises as `assign` does."""
        if self.spec is None or self._assigner is None or self.spec.model != model:
            return assign_without_experiment(self._pool, model, None, None).version
        return self._assigner.unit(None).version

    def record(self, request: ScoredRequest) -> None:
        """Queue the exposure of an answered request and, when it is drawn, its shadow scoring."""
        spec, assignment = self.spec, request.assignment
        if spec is None or assignment.experiment != spec.key or len(request.logits) == 0:
            return
        exposed = assignment.reason in EXPOSED_REASONS
        shadow = self._shadow if self._draws_shadow(spec, request) else None
        if not exposed and not request.named and shadow is None:
            return
        exposure = Exposure(
            kind=Kind.LIVE,
            experiment=spec.key,
            request_id=request.request_id,
            variant=assignment.variant,
            exposed_at=request.scored_at,
            window_s=spec.window_s,
            maturity_s=spec.maturity_s,
            # A copy: the logits may be a view that keeps a whole micro-batch alive.
            logits=np.array(request.logits, dtype=np.float32),
            digest=answer_digest(request.unit_id, assignment.version, request.batch) if request.named else "",
        )
        if exposed:
            self._metrics.exposures_total.labels(spec.key, assignment.variant).inc()
            self._exposures.put(exposure)
        elif request.named:
            self._exposures.put(exposure.without_scores())
        if shadow is not None and spec.shadow is not None:
            pair = replace(exposure, kind=Kind.SHADOW, shadow_variant=spec.shadow.variant)
            again = None if self.encodes_alike else request.encode
            shadow.submit(ShadowJob(request.batch, pair, again, request.size_bytes if again else 0))

    def _draws_shadow(self, spec: ExperimentSpec, request: ScoredRequest) -> bool:
        return (
            spec.shadow is not None
            and request.assignment.reason in SHADOWED_REASONS
            and request.assignment.variant == spec.default
            and drawn_for_shadow(spec.key, request.request_id, spec.shadow.percent)
        )

    async def start(self) -> None:
        """Open the state, bind the variants to versions and begin the work beside the requests.

        Raises ConfigError for an experiment that does not fit the store or its own past, StateUnavailable when the
        state cannot be opened. Nothing keeps running then.
        """
        spec = self.spec
        if spec is None:
            return
        self._journal = journal = Journal(self._state, self._exposures, self._clock)
        try:
            await journal.open()
            self._versions = await journal.read(lambda state: bind(spec, state, self._store))
            self.encodes_alike = await asyncio.to_thread(encode_alike, spec, self._versions, self._store)
        except Exception:
            await self.stop()
            raise
        self._assigner = Assigner(spec, self._versions, self._pool)
        show_weights(self._metrics, spec)
        if spec.shadow is not None:
            self._shadow = self._start_shadow(spec, spec.shadow)
        work = (
            (self.flush, FLUSH_INTERVAL_S),
            (journal.mature, MATURE_INTERVAL_S),
            (self.results, ESTIMATE_INTERVAL_S),
            (self._tend, TEND_INTERVAL_S),
        )
        self._tasks = [asyncio.create_task(_repeat(call, interval_s)) for call, interval_s in work]

    async def stop(self) -> None:
        """Stop the work, write the exposures that wait, close the state; stopping twice is allowed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._shadow is not None:
            await asyncio.to_thread(self._shadow.stop)
            self._shadow = None
        journal, self._journal = self._journal, None
        if journal is not None:
            await journal.close()

    def required_versions(self) -> set[tuple[str, int]]:
        """Return (model, version) of every variant, to be kept loaded; known once `start` has returned."""
        return (
            set() if self.spec is None else {(self.spec.model, number) for number in self._versions.values()}
        )

    async def flush(self) -> None:
        """Write every exposure that waits; raises StateUnavailable and keeps them when the state is down."""
        flushed = await self._open_journal().flush()
        self._count(flushed.verdicts)
        for (experiment, written), count in flushed.written.items():
            if written is not Written.FIRST:
                self._metrics.exposure_repeats_total.labels(experiment, written).inc(count)

    async def outcomes(self, items: Sequence[Outcome]) -> OutcomeReport:
        """Join outcomes with their exposures; when this returns, every counted outcome is stored.

        Exposures waiting in this process are written first. An outcome whose exposure waits in another process is
        an orphan here, is kept, and joins when that exposure is written. Raises UnknownExperiment when no
        experiment runs, StateUnavailable; sending all items again is then right.
        """
        if self.spec is None:
            raise UnknownExperiment(
                "no experiment runs here, so there are no exposures to join outcomes with"
            )
        await self.flush()
        verdicts = await self._open_journal().report(items)
        self._count(verdicts)
        counts = Counter(verdict.status for verdict in verdicts)
        return OutcomeReport({status: counts[status] for status in Status})

    async def results(self) -> dict[str, Any]:
        """Return the estimates of the running experiment and refresh their gauges; empty without one."""
        spec = self.spec
        if spec is None:
            return {}
        async with self._reading:
            now = self._clock()
            if self._results is None or not 0 <= now - self._results[0] < RESULTS_KEPT_S:
                journal = self._open_journal()
                await self.flush()
                await journal.mature()
                estimates = await journal.read(lambda state: read_estimates(state, spec, now))
                show_estimates(self._metrics, spec, estimates)
                self._results = now, {**self.declaration(spec.key), **describe(estimates, spec)}
            return self._results[1]

    async def results_of(self, key: str) -> dict[str, Any]:
        """Return the estimates of experiment `key`; raises UnknownExperiment, StateUnavailable."""
        self._running(key)
        return await self.results()

    def declarations(self) -> list[dict[str, Any]]:
        """Return the declared state of every running experiment."""
        return [] if self.spec is None else [self.declaration(self.spec.key)]

    def declaration(self, key: str) -> dict[str, Any]:
        """Return the declared state of an experiment and the versions it is bound to; raises UnknownExperiment."""
        spec = self._running(key)
        document = spec.model_dump(mode="json")
        for variant in document["variants"]:
            variant["version"] = str(self._versions[variant["name"]])
        return {**document, "hash_version": 2, "revision": REVISION}

    def explain(self, key: str, unit_id: str) -> dict[str, Any]:
        """Return the bucket and assignment of a unit without counting it; raises UnknownExperiment."""
        spec = self._running(key)
        if self._assigner is None:
            raise StateUnavailable(f"experiment '{key}' has not started yet")
        found = self._assigner.unit(unit_id)
        return {
            "experiment": key,
            "revision": found.revision,
            "bucket": bucket(spec.seed, unit_id),
            "variant": found.variant,
            "version": str(found.version),
            "reason": found.reason,
        }

    def _running(self, key: str) -> ExperimentSpec:
        if self.spec is None or self.spec.key != key:
            running = "none" if self.spec is None else self.spec.key
            raise UnknownExperiment(f"experiment '{key}' does not run here; running: {running}")
        return self.spec

    def _open_journal(self) -> Journal:
        if self._journal is None:
            raise StateUnavailable("the state of the experiments is not open")
        return self._journal

    def _start_shadow(self, spec: ExperimentSpec, shadow: ShadowSpec) -> ShadowScorer:
        version = self._versions[shadow.variant]
        scorer = ShadowScorer(
            spec.key, lambda: self._pool.scorer(spec.model, version), self._exposures.put, self._metrics
        )
        scorer.start()
        return scorer

    def _count(self, verdicts: Iterable[Verdict]) -> None:
        running = "" if self.spec is None else self.spec.key
        for verdict in verdicts:
            experiment = verdict.experiment or running
            self._metrics.outcomes_total.labels(experiment, verdict.status).inc()
            if verdict.status is Status.JOINED and verdict.delay_s is not None:
                self._metrics.label_delay_seconds.labels(experiment).observe(max(0.0, verdict.delay_s))

    async def _tend(self) -> None:
        """Forget what is old; say again what the versions are, in case the state lost it."""
        spec = self.spec
        if spec is None:
            return
        journal, now = self._open_journal(), self._clock()
        while await journal.read(lambda state: state.prune(now, SLICES_KEPT_S + spec.maturity_s)):
            await asyncio.sleep(0)
        mine = definition(spec, self._versions)
        kept = await journal.read(lambda state: state.register(spec.key, mine))
        if json.loads(kept) != json.loads(mine):
            logger.error(
                "another worker bound the experiment to other versions; start all workers again",
                extra={"experiment": spec.key, "detail": f"here {mine}, in the state {kept}"},
            )


async def _repeat(work: Callable[[], Awaitable[object]], interval_s: float) -> None:
    down = False
    while True:
        await asyncio.sleep(interval_s)
        try:
            await work()
            if down:
                logger.info("the state of the experiments answers again")
            down = False
        except StateUnavailable as error:
            if not down:
                logger.warning(
                    "the state of the experiments is down; trying again", extra={"detail": str(error)}
                )
            down = True
        except Exception:
            logger.exception("work of the experiments failed; trying again")
