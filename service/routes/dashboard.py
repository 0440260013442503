"""The built-in page that compares the variants, and the JSON it reads."""

import asyncio
import importlib.util
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import orjson
from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import FileResponse, RedirectResponse
from starlette.types import Receive, Scope, Send

from service.auth import requires
from service.experiments.errors import StateUnavailable
from service.telemetry.comparison import (
    RECENT_NAMES,
    RecentReadings,
    bound_versions,
    compare_variants,
    describe_experiments,
    shed_by_reason,
)
from service.telemetry.metrics import Metrics
from service.telemetry.reading import Reading

STATIC = Path(__file__).parent.parent / "static"
ASSETS = {"dashboard.css": "text/css", "dashboard.js": "text/javascript"}
# plotly measures and colors its charts with style elements of its own; scripts come from this server alone.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "style-src 'self' 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

router = APIRouter(include_in_schema=False)


class WholeFile(FileResponse):
    """A file, always all of it, as a server may: the framework answers wrong ranges with texts of its own."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file."""
        del self.headers["accept-ranges"]
        headers = [pair for pair in scope["headers"] if pair[0] != b"range"]
        await super().__call__({**scope, "headers": headers}, receive, send)


@router.get("/")
def front() -> Response:
    """Lead a person who opens the address of the service to the page, also below the path of a proxy."""
    return RedirectResponse("dashboard")


@router.get("/dashboard")
def page() -> Response:
    """Return the page; it holds no data and asks for a key when the service wants one."""
    headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY, "Cache-Control": "no-cache"}
    return WholeFile(STATIC / "dashboard.html", media_type="text/html", headers=headers)


@router.get("/dashboard/static/plotly.min.js")
def plotly_script() -> Response:
    """Return the script inside the installed plotly package, 404 without it; the tables work either way."""
    # Finding the package does not import it: that would cost every scoring process tens of megabytes.
    package = importlib.util.find_spec("plotly")
    for folder in (package.submodule_search_locations or []) if package else []:
        script = Path(folder) / "package_data" / "plotly.min.js"
        if script.is_file():
            headers = {"Cache-Control": "max-age=86400"}
            return WholeFile(script, media_type="text/javascript", headers=headers)
    raise HTTPException(404, "plotly is not installed: pip install 'slimctr[dashboard]'")


@router.get("/dashboard/static/{asset}")
def asset(asset: str) -> Response:
    """Return one of the page's own files."""
    if asset not in ASSETS:
        raise HTTPException(404, "the page has no such file")
    return WholeFile(STATIC / asset, media_type=ASSETS[asset], headers={"Cache-Control": "no-cache"})


@router.get("/dashboard/data", dependencies=[Depends(requires("metrics"))])
async def data(request: Request) -> Response:
    """Return the comparison as JSON; the estimates are brought up to date first, as far as the state answers."""
    state = request.app.state
    try:
        results = await state.experiments.results()
    except StateUnavailable:
        results = {}
    # Collecting walks every series: milliseconds that the event loop should not lose.
    reading = await asyncio.to_thread(_read, state.metrics)
    earlier = _recent_readings(request).add(reading.only(RECENT_NAMES))
    content = {
        "generated_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "build": next((found for found, _ in reading.series("slimctr_build_info")), {}),
        "variants": compare_variants(reading, earlier, bound_versions(results)),
        "experiments": describe_experiments(reading, results),
        "shed": shed_by_reason(reading),
    }
    return Response(
        orjson.dumps(content), media_type="application/json", headers={"Cache-Control": "no-store"}
    )


def _read(metrics: Metrics) -> Reading:
    return Reading(metrics.collect(), time.monotonic())


def _recent_readings(request: Request) -> RecentReadings:
    """Return the readings of this application, shared by everyone who looks at its page."""
    state = request.app.state
    if not hasattr(state, "recent_readings"):
        state.recent_readings = RecentReadings()
    return cast(RecentReadings, state.recent_readings)
