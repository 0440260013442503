"""`/v1/experiments`: what runs, what it measured, and which variant a unit gets."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response

from model_store.names import UnitId
from service.experiments import Experiments

router = APIRouter(prefix="/v1/experiments", tags=["experiments"])


def _running(request: Request) -> Experiments:
    experiments: Experiments = request.app.state.experiments
    return experiments


def _json(document: dict[str, Any]) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")


@router.get("", summary="Running experiments")
async def index(request: Request) -> Response:
    """Return the declared state of every running experiment."""
    return _json({"experiments": _running(request).declarations()})


@router.get("/{key}", summary="One experiment")
async def declaration(request: Request, key: str) -> Response:
    """Return the declared state of an experiment and the versions its variants are bound to."""
    return _json(_running(request).declaration(key))


@router.get("/{key}/results", summary="Quality per variant and window")
async def results(request: Request, key: str) -> Response:
    """Return AUC, log-loss, NE and calibration of every variant, and the paired difference of the shadow."""
    return _json(await _running(request).results_of(key))


@router.get("/{key}/assignment", summary="The variant of a unit")
async def assignment(request: Request, key: str, unit_id: Annotated[UnitId, Query()]) -> Response:
    """Return bucket, variant and version of a unit; asking is not an exposure."""
    return _json(_running(request).explain(key, unit_id))
