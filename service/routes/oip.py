"""The Open Inference Protocol under `/v2`: health, metadata, inference, statistics and the model repository.

Every success is 200, every error an object with a string `error`; framing follows Inference-Header-Content-Length
alone, whatever the content type says.
"""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response

from model_store.names import LABEL, REQUEST_ID, UNIT_ID, VERSION, ModelName, VersionText
from service.auth import authorize, requires
from service.context import context_of
from service.errors import (
    BadJson,
    BadRequest,
    ModelControlDisabled,
    NotOffered,
    NotReady,
    TooLarge,
    UnknownName,
)
from service.inference import Inference, Target, answer_parameters
from service.intake import LARGE_BODY_BYTES, deadline_s, read_body
from service.pool import Pool
from service.routes.direct import DirectResponse, DirectRoute
from service.settings import Settings
from service.versions import PROTOCOL_STATES, State, Version
from service.wire import oip, oip_models
from service.wire.json_body import load_json

MAX_REPOSITORY_SECONDS = 10.0
JSON_LENGTH = "inference-header-content-length"

Model = Annotated[ModelName, Path()]
VersionNumber = Annotated[VersionText, Path()]
Document = dict[str, Any]

INFER_BODY = {
    "required": True,
    "content": {"application/json": {"schema": {"type": "object"}}, "application/octet-stream": {}},
}
PATH_PARAMETERS = [
    {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
    for name in ("model", "version")
]

health = APIRouter(tags=["open inference protocol"])
models = APIRouter(tags=["open inference protocol"], dependencies=[Depends(requires("infer"))])
repository = APIRouter(tags=["open inference protocol"], dependencies=[Depends(requires("admin"))])


@health.get("/v2")
async def server() -> Document:
    """Return name, version and extensions of the server."""
    return oip_models.server_metadata()


@health.get("/v2/health/live")
async def live() -> Document:
    """Return 200 while the process answers."""
    return {"live": True}


@health.get("/v2/health/ready")
async def ready(request: Request) -> Document:
    """Return 200 when every required label leads to a version that passed its gates, else 503."""
    request.app.state.readiness.check()
    return {"ready": True, "live": True}


def add_infer_routes(router: APIRouter) -> None:
    """Add the two scoring paths to the application's own router, as `/v1/predict` is."""
    for path, endpoint, parameters in (
        ("/v2/models/{model}/infer", infer_model, PATH_PARAMETERS[:1]),
        ("/v2/models/{model}/versions/{version}/infer", infer_version, PATH_PARAMETERS),
    ):
        router.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            tags=["open inference protocol"],
            openapi_extra={"requestBody": INFER_BODY, "parameters": parameters},
            route_class_override=DirectRoute,
        )


async def infer_model(request: Request) -> Response:
    """Score encoded ids; the experiment or the label `stable` names the version."""
    return await _infer(request, None)


async def infer_version(request: Request) -> Response:
    """Score encoded ids with one version."""
    return await _infer(request, request.path_params["version"])


async def _infer(request: Request, version: str | None) -> Response:
    authorize(request, "infer")
    settings: Settings = request.app.state.settings
    inference: Inference = request.app.state.inference
    context = context_of(request)
    header_deadline = request.headers.get("x-request-deadline-ms")
    received_s = time.monotonic()
    latest_s = received_s + settings.max_deadline_ms / 1000
    body = await read_body(request, settings, latest_s)
    json_length = request.headers.get(JSON_LENGTH)
    weight_bytes = oip.weight_bytes(len(body), json_length)
    # What the deadline is the body may say itself; one that does not is not decoded beyond the default.
    if weight_bytes > LARGE_BODY_BYTES and (header_deadline is not None or b'"timeout"' not in body):
        latest_s = deadline_s(header_deadline, None, received_s, settings)
    asked = await inference.decode(
        weight_bytes, lambda: oip.read_infer(body, json_length, latest_s), latest_s
    )
    due_s = deadline_s(header_deadline, asked.timeout_us, received_s, settings)
    # The protocol allows any text as `id`; one that no outcome could name stays the client's own business.
    if asked.id is not None and REQUEST_ID.fits(asked.id):
        context.name_exposure(asked.id)
    target = Target(
        request.path_params["model"],
        None if version is None else _number(version),
        asked.text("label", LABEL),
        asked.text("unit_id", UNIT_ID),
    )
    with inference.chosen(context, target, "v2") as choice:
        inference.require_one_encoding(choice)
        asked = oip.fitted(asked, choice.schema, settings.max_request_rows)
        answer = await inference.score(
            choice, asked.rows, weight_bytes, due_s, lambda encoder: oip.encode(asked, encoder)
        )
        parameters = {**answer_parameters(choice), "oov_ids": sum(answer.batch.oov.tolist())}
        scores = {"pctr": answer.pctr, "logit": answer.logits}
        content, json_bytes = oip.write_infer(asked, choice.model, choice.version.number, parameters, scores)
    if json_bytes is None:
        return DirectResponse(content, b"application/json")
    return DirectResponse(content, b"application/octet-stream", ((JSON_LENGTH.encode(), b"%d" % json_bytes),))


def _number(version: str) -> int:
    if not VERSION.fits(version):
        raise UnknownName(f"'{version[:40]}' is no version: versions are positive integers")
    return int(version)


@models.get("/v2/models/stats")
async def all_statistics(request: Request) -> Document:
    """Return the statistics of every READY version."""
    pool: Pool = request.app.state.pool
    return _statistics([version for name in pool.models() for version in pool.known_versions(name)])


@models.get("/v2/models/{model}/stats")
async def model_statistics(request: Request, model: Model) -> Document:
    """Return the statistics of every READY version of a model."""
    pool: Pool = request.app.state.pool
    return _statistics(pool.served_versions(model))


@models.get("/v2/models/{model}/versions/{version}/stats")
async def version_statistics(request: Request, model: Model, version: VersionNumber) -> Document:
    """Return the statistics of one version."""
    pool: Pool = request.app.state.pool
    return _statistics([pool.version(model, int(version))])


@models.get("/v2/models/{model}/ready")
async def model_ready(request: Request, model: Model) -> Document:
    """Return 200 when requests for the model are answered: 404 when it is unknown, 503 when it is not ready."""
    pool: Pool = request.app.state.pool
    if not any(version.state is State.READY for version in pool.served_versions(model)):
        raise NotReady(f"model '{model}' has no ready version")
    return {"name": model, "ready": True}


@models.get("/v2/models/{model}/versions/{version}/ready")
async def version_ready(request: Request, model: Model, version: VersionNumber) -> Document:
    """Return 200 when the version answers."""
    pool: Pool = request.app.state.pool
    pool.version(model, int(version)).ready()
    return {"name": model, "ready": True}


@models.get("/v2/models/{model}")
@models.get("/v2/models/{model}/versions/{version}")
async def metadata(request: Request, model: Model, version: VersionNumber | None = None) -> Document:
    """Return the tensors of a model and its loaded versions."""
    pool: Pool = request.app.state.pool
    schema = pool.schema(model, None if version is None else int(version))
    return oip_models.model_metadata(model, pool.ready_numbers(model), schema)


@models.get("/v2/models/{model}/config")
@models.get("/v2/models/{model}/versions/{version}/config")
async def config(request: Request, model: Model, version: VersionNumber | None = None) -> Document:
    """Return the model configuration."""
    pool: Pool = request.app.state.pool
    settings: Settings = request.app.state.settings
    schema = pool.schema(model, None if version is None else int(version))
    return oip_models.model_config(model, pool.ready_numbers(model), schema, settings.max_batch_rows)


@models.post("/v2/repository/index")
async def index(request: Request) -> list[Document]:
    """Return every version of every model in the store with its state."""
    pool: Pool = request.app.state.pool
    body = await _body(request)
    only_ready = body.get("ready", False)
    if not isinstance(only_ready, bool):
        raise BadRequest("'ready' must be a boolean")
    entries = []
    for model in await pool.catalog.models():
        known = {version.number: version for version in pool.known_versions(model)}
        for number in await pool.catalog.versions(model):
            entry = _index_entry(model, number, known.get(number))
            if not only_ready or entry["state"] == "READY":
                entries.append(entry)
    return entries


@repository.post("/v2/repository/models/{model}/load")
async def load(request: Request, model: Model) -> Document:
    """Load what labels and experiments need of a model, else its newest version; answers when it is READY."""
    _check_model_control(request)
    parameters = (await _body(request)).get("parameters", {})
    if not isinstance(parameters, dict):
        raise BadRequest("'parameters' must be an object")
    for name in parameters:
        if name == "config" or name.startswith("file:"):
            raise BadRequest(f"'{name}' is refused: a version is loaded as it was published")
    await request.app.state.pool.load_model(model)
    return {}


@repository.post("/v2/repository/models/{model}/unload")
async def unload(request: Request, model: Model) -> Document:
    """Unload every version of a model after its last request."""
    _check_model_control(request)
    await _body(request)
    await request.app.state.pool.unload_model(model)
    return {}


@health.api_route("/v2/logging", methods=["GET", "POST"], include_in_schema=False)
@health.api_route("/v2/trace/setting", methods=["GET", "POST"], include_in_schema=False)
@health.api_route("/v2/models/{rest:path}/trace/setting", methods=["GET", "POST"], include_in_schema=False)
@health.api_route("/v2/systemsharedmemory/{rest:path}", methods=["GET", "POST"], include_in_schema=False)
@health.api_route("/v2/cudasharedmemory/{rest:path}", methods=["GET", "POST"], include_in_schema=False)
async def not_offered(request: Request) -> None:
    """Refuse the extensions that a client may know from other servers."""
    raise NotOffered(
        f"{request.scope['path']} belongs to an extension that is not offered; GET /v2 lists those that are"
    )


def _check_model_control(request: Request) -> None:
    settings: Settings = request.app.state.settings
    if settings.model_control != "explicit":
        raise ModelControlDisabled("loading and unloading by request is off (model_control=none)")


async def _body(request: Request) -> Document:
    """Return the JSON object of a request that may have no body."""
    body = await read_body(request, request.app.state.settings, time.monotonic() + MAX_REPOSITORY_SECONDS)
    if not body:
        return {}
    if len(body) > LARGE_BODY_BYTES:
        raise TooLarge(
            f"the body of {len(body)} bytes is above the {LARGE_BODY_BYTES} of a repository request"
        )
    document = load_json(body)
    if not isinstance(document, dict):
        raise BadJson("the body must be one JSON object")
    return document


def _index_entry(model: str, number: int, version: Version | None) -> Document:
    state, reason = ("UNAVAILABLE", "not loaded")
    if version is not None:
        state, reason = PROTOCOL_STATES[version.state], version.reason
    return {"name": model, "version": str(number), "state": state, "reason": reason}


def _statistics(versions: list[Version]) -> Document:
    return {
        "model_stats": [
            version.statistics.document(version.model, version.number, version.memory_bytes)
            for version in versions
            if version.state is State.READY
        ]
    }
