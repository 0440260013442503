"""The scoring paths (POST only) without the layers of the framework: only the context wraps the handler."""

from collections.abc import Callable, Coroutine, Mapping
from types import MappingProxyType
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from service.context import ContextMiddleware
from service.lifecycle import Lifecycle
from service.telemetry.metrics import Metrics

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


ROUTE_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class DirectRequest(Request):
    """A request whose headers are a dictionary by lower-case name; of a header given twice the first counts."""

    # In place of the framework's property, so that each request can have its own.
    headers: Mapping[str, str] = MappingProxyType({})  # type: ignore[assignment]

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self._receive = receive
        pairs = reversed(scope["headers"])
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}


class DirectResponse(Response):
    """A success; `headers` are written as they are, before those of length and type."""

    def __init__(
        self, content: bytes, media_type: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        self.status_code = 200
        self.body = content
        self.raw_headers = [
            *headers,
            (b"content-length", b"%d" % len(content)),
            (b"content-type", media_type),
        ]
        self.background = None


class DirectRoute(APIRoute):
    """Call `endpoint(request) -> Response`; dependencies do not run, so the handler authorizes the request itself."""

    def get_route_handler(self) -> Handler:
        """Return the endpoint as it is."""
        return cast(Handler, self.endpoint)


class DirectApp(FastAPI):
    """FastAPI, except that requests of a direct route reach its handler through the context alone.

    The framework's layers cost a small request more than its scores do; docs/performance.md has the measurement.
    """

    def add_context(self, metrics: Metrics, lifecycle: Lifecycle) -> None:
        """Wrap every request, of direct routes and of all others, in `ContextMiddleware`."""
        self.add_middleware(HeadAsGet)
        self.add_middleware(ContextMiddleware, metrics=metrics, lifecycle=lifecycle)
        self._direct = ContextMiddleware(_call_endpoint, metrics, lifecycle)
        self.refuse = ContextMiddleware(_refuse, metrics, lifecycle)

    def keep_direct_routes(self) -> None:
        """Take the direct routes that were added so far off the framework's path."""
        self._direct_routes = [route for route in self.router.routes if isinstance(route, DirectRoute)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or the lifespan."""
        if scope["type"] == "http" and scope["method"] == "POST":
            path = scope["path"]
            for route in self._direct_routes:
                found = route.path_regex.match(path)
                if found is not None:
                    scope["app"], scope["route"] = self, route
                    scope["path_params"] = found.groupdict()
                    await self._direct(scope, receive, send)
                    return
        await super().__call__(scope, receive, send)


def allowed_methods(request: Request) -> list[str]:
    """Return what any route answers on the path of `request`."""
    routes = request.app.router.routes
    found = [
        method
        for method in ROUTE_METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]
    return ["HEAD", *found] if "GET" in found else found


class HeadAsGet:
    """Let every GET route answer HEAD: the application sees GET, the server leaves the body out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        as_get = {**scope, "method": "GET"}
        try:
            await self._app(as_get, receive, send)
        finally:
            scope["route"] = as_get.get("route")


async def _call_endpoint(scope: Scope, receive: Receive, send: Send) -> None:
    response = await scope["route"].endpoint(DirectRequest(scope, receive))
    await response(scope, receive, send)


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request that the protocol could not read."""
    raise scope["slimctr.refusal"]
