"""`POST /v1/predict`: rows, columns, a slate or Arrow in, click probabilities out."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from service.auth import authorize
from service.context import RequestContext, context_of
from service.http.headers import list_of, prefers
from service.inference import Answer, Choice, Inference, Target
from service.intake import JSON, check_content_type, deadline_s, read_body
from service.routes.direct import DirectResponse, DirectRoute
from service.settings import Settings
from service.wire import arrow, forms, v1
from service.wire.documents import PREDICT_FORMS, PredictAnswer

FORMS = [{"$ref": f"#/components/schemas/{form.__name__}"} for form in PREDICT_FORMS]
ARROW_STREAM = {arrow.MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}
REQUEST_BODY = {
    "required": True,
    "description": "Fields are those of the version; `GET /v1/models/{model}` lists them with a body to try.",
    "content": {"application/json": {"schema": {"oneOf": FORMS}}, **ARROW_STREAM},
}


def add_route(router: APIRouter) -> None:
    """Add the path to the application's own router: an included one would cost every request a second look-up."""
    router.add_api_route(
        "/v1/predict",
        predict,
        methods=["POST"],
        tags=["scoring"],
        summary="Score rows, columns, a slate or an Arrow stream",
        response_model=PredictAnswer,
        responses={200: {"content": ARROW_STREAM}},
        openapi_extra={"requestBody": REQUEST_BODY},
        route_class_override=DirectRoute,
    )


async def predict(request: Request) -> Response:
    """Return one click probability per row, in the order of the rows."""
    authorize(request, "infer")
    settings: Settings = request.app.state.settings
    inference: Inference = request.app.state.inference
    context = context_of(request)
    is_arrow = check_content_type(request, arrow.MEDIA_TYPE) == arrow.MEDIA_TYPE
    due_s = deadline_s(request.headers.get("x-request-deadline-ms"), None, time.monotonic(), settings)
    body = await read_body(request, settings, due_s)
    read = arrow.read_predict if is_arrow else v1.read_predict
    max_rows = settings.max_request_rows
    asked = await inference.decode(len(body), lambda: read(body, max_rows, due_s), due_s)
    if asked.request_id is not None:
        context.name_exposure(asked.request_id)
    target = Target(asked.model, asked.version, asked.label, asked.unit_id)
    with inference.chosen(context, target, "v1") as choice:
        answer = await inference.score(
            choice,
            asked.form.rows,
            len(body),
            due_s,
            lambda encoder: forms.encode(asked.form, encoder),
        )
        write, media_type = _answer_form(request)
        content = write(_document(context, choice, answer, asked.include))
    if "timing" in asked.include:
        return DirectResponse(content, media_type, ((b"server-timing", _server_timing(answer).encode()),))
    return DirectResponse(content, media_type)


def _answer_form(request: Request) -> tuple[Callable[[Mapping[str, Any]], bytes], bytes]:
    """Return how to write the answer and its media type: JSON, unless `Accept` prefers Arrow."""
    if "accept" in request.headers and prefers(list_of(request, b"accept"), arrow.MEDIA_TYPE, JSON):
        return arrow.write_predict, arrow.MEDIA_TYPE.encode()
    return v1.write_predict, JSON.encode()


def _document(
    context: RequestContext, choice: Choice, answer: Answer, include: frozenset[str]
) -> dict[str, Any]:
    assignment = choice.assignment
    experiment = None
    if assignment.experiment is not None:
        experiment = {
            "key": assignment.experiment,
            "revision": assignment.revision,
            "reason": assignment.reason,
        }
    document: dict[str, Any] = {
        "request_id": context.exposure_id,
        "model": choice.model,
        "version": str(choice.version.number),
        "label": choice.target.label,
        "variant": assignment.variant,
        "scores": answer.pctr,
        "experiment": experiment,
        "oov": v1.oov_report(choice.schema.names, answer.batch.oov),
        "defaulted_rows": 0,
    }
    if "logits" in include:
        document["logits"] = answer.logits
    if "oov_rows" in include:
        document["oov_rows"] = v1.oov_rows(answer.batch)
    if "timing" in include:
        document["timing"] = {f"{stage}_ms": ms for stage, ms in _stages_ms(answer).items()}
    return document


def _stages_ms(answer: Answer) -> dict[str, float]:
    stages = answer.stages
    seconds = {
        "input": answer.input_s,
        "queue": stages.queue_s,
        "lookup": stages.lookup_s,
        "infer": stages.infer_s,
    }
    return {stage: round(1000 * duration, 3) for stage, duration in seconds.items()}


def _server_timing(answer: Answer) -> str:
    return ", ".join(f"{stage};dur={ms}" for stage, ms in _stages_ms(answer).items())
