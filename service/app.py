"""The application: one object of each part, wired together, started and stopped in order."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

import slimctr
from model_store.store import ModelStore
from service.ahead import Ahead
from service.auth import requires
from service.batching import Compute
from service.context import context_of
from service.errors import (
    BAD_REQUEST,
    INVALID_INPUT,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    Fault,
    Problem,
    problem_response,
)
from service.experiments import Experiments, load_experiment, open_state
from service.experiments.errors import ExperimentError
from service.http.body_memory import BodyMemory
from service.inference import Inference
from service.lifecycle import Lifecycle
from service.openapi import PROBLEM_RESPONSES, build_openapi
from service.pool import Pool
from service.readiness import Readiness
from service.routes import (
    dashboard,
    experiments,
    health,
    metrics,
    models,
    oip,
    outcomes,
    predict,
    problems,
    reference,
)
from service.routes.direct import DirectApp, allowed_methods
from service.settings import Settings
from service.telemetry.loop_lag import watch_loop_lag
from service.telemetry.metrics import Metrics
from service.wire.decoder import Decoder
from slimctr.errors import ConfigError

DESCRIPTION = (
    "Scores click-through rate from compressed embedding tables and compares variants on live traffic."
)
# How long writing the last exposures may take at the end.
FLUSH_SECONDS = 5.0

logger = logging.getLogger("slimctr.app")


def create_app(
    settings: Settings,
    ahead: Ahead | None = None,
    models_wait_s: float = 0.0,
    workers_folder: Path | None = None,
) -> DirectApp:
    """Return the application; its lifespan opens state, pool and experiments, and closes them in reverse.

    Versions that `ahead` has verified or opened are not verified or opened again. The start waits for the gates of the
    labeled versions, but `models_wait_s` at most. `workers_folder` is that of `Pool`.
    """
    lifecycle = Lifecycle()
    registry = Metrics()
    app = DirectApp(
        title="slimctr",
        version=slimctr.__version__,
        description=DESCRIPTION,
        lifespan=_lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=PROBLEM_RESPONSES,
    )
    app.state = SimpleNamespace()  # type: ignore[assignment]  # the framework's own looks names up in Python
    app.openapi = partial(build_openapi, app)  # type: ignore[method-assign]
    app.state.settings = settings
    app.state.lifecycle = lifecycle
    app.state.metrics = registry
    app.state.ahead = ahead
    app.state.models_wait_s = models_wait_s
    app.state.workers_folder = workers_folder
    app.state.startup_error = None
    app.add_context(registry, lifecycle)
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(RequestValidationError, _validation_problem)
    _include_routes(app)
    return app


def _include_routes(app: DirectApp) -> None:
    predict.add_route(app.router)
    oip.add_infer_routes(app.router)
    app.keep_direct_routes()
    for router in (health.router, problems.router, oip.health):
        app.include_router(router)
    for router in (oip.models, oip.repository, models.router, models.control):
        app.include_router(router)
    app.include_router(outcomes.router, dependencies=[Depends(requires("outcomes"))])
    app.include_router(experiments.router, dependencies=[Depends(requires("admin"))])
    app.include_router(metrics.router, dependencies=[Depends(requires("metrics"))])
    app.include_router(dashboard.router)
    app.include_router(reference.router)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Serve from the first moment, or after the models' wait; `/readyz` says when the versions passed their gates."""
    settings: Settings = app.state.settings
    registry: Metrics = app.state.metrics
    store = ModelStore(settings.store)
    compute = Compute(settings.compute_threads)
    pool = Pool(settings, store, registry, compute, app.state.ahead, app.state.workers_folder)
    try:
        spec = None if settings.experiment is None else load_experiment(settings.experiment)
        running = Experiments(spec, open_state(settings.state_url), pool, registry, store)
        await running.start()
    except (ConfigError, ExperimentError) as error:
        app.state.startup_error = error
        raise
    decoder = Decoder()
    inference = Inference(pool, running, registry, decoder)
    app.state.pool = pool
    app.state.experiments = running
    app.state.inference = inference
    app.state.decoder = decoder
    app.state.body_memory = BodyMemory(settings.max_pending_body_bytes)
    app.state.readiness = Readiness(app.state.lifecycle, pool)
    pool.require(running.required_versions())
    pool.start()
    await _models_settled(pool, app.state.lifecycle, app.state.models_wait_s)
    watches = [
        asyncio.create_task(watch_loop_lag(registry.event_loop_lag_seconds)),
        asyncio.create_task(registry.tallies.flush_regularly()),
    ]
    # What was made so far lives as long as the process: the collector need not walk through it again.
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await running.stop()
        except TimeoutError:
            logger.error("the state did not take the last exposures in time; they are lost")
        await pool.stop()
        decoder.close()
        compute.close()
        registry.tallies.flush()


async def _models_settled(pool: Pool, lifecycle: Lifecycle, at_most_s: float) -> None:
    """Return once the labeled versions passed or failed their gates, or the time is up, or the process shall end."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + at_most_s
    settled = asyncio.ensure_future(pool.settled())
    while not settled.done() and not lifecycle.draining and loop.time() < end_s:
        await asyncio.wait({settled}, timeout=0.1)
    settled.cancel()


def _http_problem(request: Request, error: Exception) -> Response:
    """Answer what the framework refuses (404, 405 and the like)."""
    assert isinstance(error, HTTPException)
    kind = {404: NOT_FOUND, 405: METHOD_NOT_ALLOWED}.get(error.status_code, BAD_REQUEST)
    headers = dict(error.headers or {})
    if kind is METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(allowed_methods(request))
    problem = Problem(
        kind,
        f"{request.method} {request.scope['path']}: {str(error.detail).lower()}",
        error.status_code,
        headers=headers,
    )
    return _respond(request, problem)


def _validation_problem(request: Request, error: Exception) -> Response:
    """Answer parameters and bodies that the framework checked; under /v2 that is 400."""
    assert isinstance(error, RequestValidationError)
    faults = tuple(_fault(entry) for entry in error.errors()[:20])
    detail = "; ".join(f"{fault.pointer}: {fault.detail}" for fault in faults)
    if any(entry["loc"][0] == "path" for entry in error.errors()):
        return _respond(request, Problem(NOT_FOUND, detail, 404, faults))
    context = context_of(request)
    return _respond(request, Problem(INVALID_INPUT, detail, 400 if context.under_v2 else 422, faults))


def _fault(entry: dict[str, Any]) -> Fault:
    place = [str(part) for part in entry["loc"] if part != "body"]
    return Fault("#/" + "/".join(place), entry["msg"].removeprefix("Value error, "))


def _respond(request: Request, problem: Problem) -> Response:
    context = context_of(request)
    context.log["slug"] = problem.kind.slug
    return problem_response(problem, path=request.scope["path"], request_id=context.trace_id)
