"""The one scoring core: every encoding of a request ends here, on its way from a batch to scores."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from service.batching import Scored
from service.context import RequestContext
from service.errors import (
    BadTensor,
    ClientGone,
    DeadlineExceeded,
    InvalidInput,
    NonFiniteScore,
    NotReady,
    QueueFull,
)
from service.experiments import Assignment, Experiments, ScoredRequest
from service.instruments import VariantInstruments, failure_reason
from service.intake import LARGE_BODY_BYTES
from service.pool import Pool
from service.telemetry.metrics import Metrics
from service.versions import Serving, Version
from service.wire.decoder import Decoder
from slimctr.features import EncodedBatch, Encoder, FeatureSchema
from slimctr.scoring import probabilities

Api = Literal["v1", "v2"]
R = TypeVar("R")


class Target(NamedTuple):
    """Which version a request asks for; nothing set means: the experiment decides, else the label `stable`."""

    model: str | None = None
    version: int | None = None
    label: str | None = None
    unit_id: str | None = None


class Choice(NamedTuple):
    """The version that answers, under which variant, and the metrics of both."""

    version: Version
    serving: Serving
    assignment: Assignment
    instruments: VariantInstruments
    target: Target
    context: RequestContext
    failed: Callable[["Choice", BaseException], None]

    def __enter__(self) -> "Choice":
        """Keep the version loaded."""
        self.version.lease()
        self.instruments.in_flight.add(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Count a failure; let go of the version."""
        try:
            if error is not None:
                self.failed(self, error)
        finally:
            self.version.release()
            self.instruments.in_flight.add(-1)

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.version.model

    @property
    def schema(self) -> FeatureSchema:
        """Fields of the version."""
        return self.serving.scorer.encoder.schema


class Answer(NamedTuple):
    """Scores of a request: logits and probabilities, float32 (B,), and the stages behind them in seconds."""

    batch: EncodedBatch
    logits: npt.NDArray[np.float32]
    pctr: npt.NDArray[np.float32]
    input_s: float
    stages: Scored


class RequestValues(NamedTuple):
    """What a request said, ready to be encoded for any version of its vocabulary, and its bytes."""

    encode: Callable[[Encoder], EncodedBatch]
    size_bytes: int


class Inference:
    """Chooses the version, encodes, queues, checks and accounts for every request."""

    def __init__(self, pool: Pool, experiments: Experiments, metrics: Metrics, decoder: Decoder) -> None:
        self.pool = pool
        self._experiments = experiments
        self._metrics = metrics
        self._decoder = decoder

    async def decode(self, size_bytes: int, work: Callable[[], R], deadline_s: float) -> R:
        """Return `work()`: done here when the body is small, in a thread when it would hold up the event loop.

        Raises what `work` does, and DeadlineExceeded when `deadline_s` passes before the thread is done.
        """
        if size_bytes <= LARGE_BODY_BYTES:
            return work()
        try:
            return await self._decoder.run("decode", work, deadline_s)
        except DeadlineExceeded:
            self._metrics.shed_total.labels("deadline").inc()
            raise

    def chosen(self, context: RequestContext, target: Target, api: Api) -> Choice:
        """Assign the request to a version; a block with the choice keeps that loaded and counts a failure.

        Raises UnknownName, NotReady.
        """
        try:
            model = target.model or self.pool.default_model()
            assignment = self._experiments.assign(
                model,
                unit_id=target.unit_id,
                version=target.version,
                label=target.label,
            )
            version = self.pool.version(model, assignment.version)
            serving = version.ready()
        except NotReady:
            self._metrics.shed_total.labels("not_ready").inc()
            raise
        instruments = version.instruments.variant(assignment.variant)
        instruments.requests[api].add(1)
        context.log.update(
            model=model,
            version=assignment.version,
            variant=assignment.variant,
            experiment=assignment.experiment,
        )
        if context.exposure_id != context.trace_id:
            context.log["exposure_id"] = context.exposure_id
        return Choice(version, serving, assignment, instruments, target, context, self._failed)

    async def score(
        self,
        choice: Choice,
        rows: int,
        size_bytes: int,
        deadline_s: float,
        encode: Callable[[Encoder], EncodedBatch],
    ) -> Answer:
        """Return the scores of one request; `deadline_s` is on the monotonic clock.

        Raises QueueFull, DeadlineExceeded, ClientGone, InvalidInput, NonFiniteScore.
        """
        context, serving, instruments = choice.context, choice.serving, choice.instruments
        serving.queue.check_room(rows)
        encoder = serving.scorer.encoder
        if size_bytes <= LARGE_BODY_BYTES:
            batch = encode(encoder)
        else:
            if context.connection is not None and context.connection.gone:
                raise ClientGone("the client left before its rows were encoded")
            batch = await self._decoder.run("encode", lambda: encode(encoder), deadline_s)
        input_s = time.perf_counter() - context.received_s
        stages = await serving.queue.score(
            batch, variant=choice.assignment.variant, deadline_s=deadline_s, client=context.connection
        )
        pctr, is_finite = probabilities(stages.logits)
        if not is_finite:
            self._metrics.input_issues_total.labels(choice.model, "nonfinite_score").inc()
            raise NonFiniteScore(
                f"model '{choice.model}' version {choice.version.number} gave a score that is not finite"
            )
        instruments.input_s.observe(input_s)
        instruments.queue_s.observe(stages.queue_s)
        instruments.lookup_s.observe(stages.lookup_s)
        instruments.infer_s.observe(stages.infer_s)
        if choice.version.counts is not None:
            choice.version.counts.add(batch, choice.schema)
        context.log.update(
            rows=rows,
            queue_ms=stages.queue_s * 1e3,
            compute_ms=(stages.lookup_s + stages.infer_s) * 1e3,
        )
        answer = Answer(batch, stages.logits, pctr, input_s, stages)
        request = RequestValues(encode, size_bytes)
        context.answered = lambda total_s, reached: self._answered(choice, answer, request, total_s, reached)
        return answer

    def require_one_encoding(self, choice: Choice) -> None:
        """Raise BadTensor when encoded ids meet an experiment whose variants read a value as different rows."""
        if choice.assignment.experiment is None or choice.assignment.reason == "pinned":
            return
        if not self._experiments.encodes_alike:
            raise BadTensor(
                f"the variants of experiment '{choice.assignment.experiment}' number their rows differently, so "
                "encoded ids fit one of them only: name a version, or send values to /v1/predict"
            )

    def _answered(
        self, choice: Choice, answer: Answer, request: RequestValues, total_s: float, reached: bool
    ) -> None:
        """Account for a response; the experiment hears of it only now, and not of one that reached nobody."""
        if not reached:
            choice.instruments.failed("canceled")
            choice.version.statistics.fail.add(total_s)
            return
        stages = answer.stages
        choice.instruments.request_rows.observe(len(answer.batch))
        choice.instruments.rows.add(len(answer.batch))
        compute_s = stages.lookup_s + stages.infer_s
        choice.instruments.total_s.observe(total_s)
        choice.instruments.output_s.observe(max(0.0, total_s - answer.input_s - stages.queue_s - compute_s))
        choice.version.statistics.succeeded(
            len(answer.batch),
            total_s=total_s,
            queue_s=stages.queue_s,
            input_s=answer.input_s,
            infer_s=compute_s,
        )
        if self._experiments.spec is None:
            return
        self._experiments.record(
            ScoredRequest(
                request_id=choice.context.exposure_id,
                unit_id=choice.target.unit_id,
                model=choice.model,
                assignment=choice.assignment,
                batch=answer.batch,
                logits=answer.logits,
                scored_at=time.time(),
                named=choice.context.named,
                encode=request.encode,
                size_bytes=request.size_bytes,
            )
        )

    def _failed(self, choice: Choice, error: BaseException) -> None:
        choice.instruments.failed(failure_reason(error))
        choice.version.statistics.fail.add(time.perf_counter() - choice.context.received_s)
        if isinstance(error, QueueFull):
            self._metrics.shed_total.labels("queue_full").inc()
        elif isinstance(error, DeadlineExceeded):
            self._metrics.shed_total.labels("deadline").inc()
        elif isinstance(error, InvalidInput):
            for fault in error.faults:
                if fault.issue is not None:
                    self._metrics.input_issues_total.labels(choice.model, fault.issue).inc()


def answer_parameters(choice: Choice) -> dict[str, str]:
    """Return the answer's name and who gave it as the string parameters of an Open Inference Protocol response."""
    assignment = choice.assignment
    parameters = {
        "request_id": choice.context.exposure_id,
        "variant": assignment.variant,
        "assignment_reason": assignment.reason,
    }
    if assignment.experiment is not None:
        parameters["experiment"] = assignment.experiment
    return parameters
