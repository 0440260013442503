"""A route class for the scoring paths: the handler gets the request itself, without parameter injection."""

from collections.abc import Callable, Coroutine
from typing import Any, cast

from fastapi import Request, Response
from fastapi.routing import APIRoute

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class DirectRoute(APIRoute):
    """Call `endpoint(request) -> Response`; dependencies do not run, so the handler authorizes the request itself."""

    def get_route_handler(self) -> Handler:
        """Return the endpoint as it is."""
        return cast(Handler, self.endpoint)
