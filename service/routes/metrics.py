"""`GET /metrics`: the Prometheus exposition of the process, or of all its workers."""

from fastapi import APIRouter, Request, Response

from service.telemetry.metrics import Metrics

router = APIRouter(tags=["operations"])


@router.get("/metrics", response_class=Response)
def metrics(request: Request) -> Response:
    """Return all metrics in the Prometheus text format; written on a worker thread, not on the event loop."""
    source: Metrics = request.app.state.metrics
    body, content_type = source.render()
    return Response(body, media_type=content_type)
