"""The scoring paths (POST only) without the layers of the framework: only the context wraps the handler."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from service.context import ContextMiddleware
from service.lifecycle import Lifecycle
from service.telemetry.metrics import Metrics

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class DirectRequest(Request):
    """A request whose headers are a dictionary by lower-case name; of a header given twice the first counts."""

    @property
    def headers(self) -> Mapping[str, str]:  # type: ignore[override]
        """Headers by lower-case name."""
        if not hasattr(self, "_by_name"):
            pairs = reversed(self.scope["headers"])
            self._by_name = {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}
        return self._by_name


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
        self.add_middleware(ContextMiddleware, metrics=metrics, lifecycle=lifecycle)
        self._direct = ContextMiddleware(_call_endpoint, metrics, lifecycle)

    def keep_direct_routes(self) -> None:
        """Take the direct routes that were added so far off the framework's path."""
        self._direct_routes = [route for route in self.router.routes if isinstance(route, DirectRoute)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or the lifespan."""
        if scope["type"] == "http":
            for route in self._direct_routes:
                found = route.path_regex.match(scope["path"])
                if found is not None and scope["method"] == "POST":
                    scope["app"], scope["route"] = self, route
                    scope["path_params"] = found.groupdict()
                    await self._direct(scope, receive, send)
                    return
        await super().__call__(scope, receive, send)


async def _call_endpoint(scope: Scope, receive: Receive, send: Send) -> None:
    response = await scope["route"].endpoint(DirectRequest(scope, receive, send))
    await response(scope, receive, send)
