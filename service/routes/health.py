"""`/livez` and `/readyz`: whether the process answers, and whether it should get traffic."""

from typing import Any

from fastapi import APIRouter, Request

router = APIRouter(tags=["operations"])


@router.get("/livez")
async def live() -> dict[str, Any]:
    """Return 200 while the event loop answers; depends on nothing else."""
    return {"live": True}


@router.get("/readyz")
async def ready(request: Request) -> dict[str, Any]:
    """Return 200 when the service should get traffic, else 503 that says what is missing."""
    request.app.state.readiness.check()
    return {"ready": True, "live": True}
