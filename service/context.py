"""Wraps every HTTP request: its ids, its error answer, its log line and its HTTP metric."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model_store.names import REQUEST_ID
from service.errors import CLIENT_GONE_STATUS, problem_kind, problem_of, problem_response
from service.http.connections import Connection
from service.lifecycle import Lifecycle
from service.telemetry.metrics import Metrics
from service.telemetry.tally import Tally

# Probes, scrapes and the page are called every few seconds by machines; logging them would bury the requests.
UNLOGGED_ROUTES = frozenset(
    {"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready", "/dashboard"}
)

logger = logging.getLogger("slimctr.service")
_unused_ids: list[str] = []
# Two processes must not hand out the same ones.
os.register_at_fork(after_in_child=_unused_ids.clear)


@dataclass(slots=True)
class RequestContext:
    """What the layers of one request share; handlers add to `log` what its line should say.

    `trace_id` goes into the log line, the header `X-Request-ID` of the answer and error documents. Callers and proxies
    repeat theirs for retries and for every call of a page view, so outcomes name the answer by `exposure_id`: a
    random identifier, or what `name_exposure` was given (then `named`). `releases` are called at its end, `answered`
    with the seconds that the request took and whether its client was there to be answered.
    """

    trace_id: str
    exposure_id: str
    received_s: float
    under_v2: bool
    connection: Connection | None = None
    named: bool = False
    log: dict[str, Any] = field(default_factory=dict)
    answered: Callable[[float, bool], None] | None = None
    releases: list[Callable[[], None]] = field(default_factory=list)

    def name_exposure(self, given: str) -> None:
        """Take the caller's own identifier of this request; it is the trace id too when no header gave one."""
        if self.trace_id == self.exposure_id:
            self.trace_id = given
        self.exposure_id = given
        self.named = True


def context_of(request: Request) -> RequestContext:
    """Return the context of a request that passed the middleware."""
    return cast(RequestContext, request.scope["slimctr.context"])


def new_request_id() -> str:
    """Return a random identifier of 128 bits that nobody can foretell: outcomes name requests by it.

    On the event loop only; random bytes are taken for 256 at a time.
    """
    if not _unused_ids:
        drawn = os.urandom(256 * 16).hex()
        _unused_ids.extend(drawn[start : start + 32] for start in range(0, len(drawn), 32))
    return _unused_ids.pop()


class ContextMiddleware:
    """Give each request a context; turn every exception into a problem document; log and count the answer."""

    def __init__(self, app: ASGIApp, metrics: Metrics, lifecycle: Lifecycle) -> None:
        self._app = app
        self._metrics = metrics
        self._lifecycle = lifecycle
        # Few: the HTTP parser knows a fixed list of methods, and routes without a template share one word.
        self._durations = cache(self._bind_duration)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        given = None
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                given = value.decode("latin-1")
                break
        made_up = new_request_id()
        context = RequestContext(
            # Another format is some proxy's business, no reason to refuse what the client asked for.
            made_up if given is None or not REQUEST_ID.fits(given) else given,
            made_up,
            time.perf_counter(),
            path.startswith("/v2/") or path == "/v2",
            scope.get("slimctr.connection"),
        )
        scope["slimctr.context"] = context
        status = 0
        is_there: bool | None = True

        async def send_with_id(message: Message) -> None:
            nonlocal status, is_there
            if message["type"] == "http.response.start":
                status = message["status"]
                # Asked before the answer is sent: a client that has read it may leave at once.
                if context.answered is not None and context.connection is not None:
                    is_there = context.connection.begin_answer()
                message["headers"] = headers = [
                    *message.get("headers", ()),
                    (b"x-request-id", context.trace_id.encode()),
                ]
                if self._lifecycle.draining:
                    # The client opens its next connection elsewhere instead of meeting a closed one.
                    headers.append((b"connection", b"close"))
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            if status:
                logger.exception("the answer broke off", extra={"request_id": context.trace_id})
                raise
            context.answered = None
            if problem_kind(error).status == 500:
                logger.exception("internal error", extra={"request_id": context.trace_id})
            problem = problem_of(error, under_v2=context.under_v2)
            context.log["slug"] = problem.kind.slug
            if not problem.faults:  # faults quote feature values, which no log may hold
                context.log["detail"] = problem.detail
            await problem_response(problem, path=path, request_id=context.trace_id)(
                scope, receive, send_with_id
            )
            _let_go(error)
        finally:
            for release in context.releases:
                release()
        duration_s = time.perf_counter() - context.received_s
        if is_there is None and context.connection is not None:
            is_there = await context.connection.arrived()
        self._finish(scope, context, status if is_there else CLIENT_GONE_STATUS, duration_s)

    def _bind_duration(self, method: str, route: str, status: int) -> Tally:
        histogram = self._metrics.http_server_request_duration_seconds
        return self._metrics.tallies.of(histogram.labels(method, route, str(status)))

    def _finish(self, scope: Scope, context: RequestContext, status: int, duration_s: float) -> None:
        # Let go of it: servers keep requests in cycles, and this one leads to the model and the batch.
        answered, context.answered = context.answered, None
        if answered is not None:
            answered(duration_s, status != CLIENT_GONE_STATUS)
        route = route_template(scope)
        self._durations(scope["method"], route, status).observe(duration_s)
        if route not in UNLOGGED_ROUTES and logger.isEnabledFor(logging.INFO):
            logger.info(
                "request",
                extra={
                    "request_id": context.trace_id,
                    "method": scope["method"],
                    "route": route,
                    "status": status,
                    "duration_ms": round(duration_s * 1000, 3),
                    **{
                        name: round(value, 3) if isinstance(value, float) else value
                        for name, value in context.log.items()
                    },
                },
            )


def _let_go(error: BaseException | None) -> None:
    """Drop the frames behind an answered error: they hold the body, in cycles that only a collection would free."""
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


def route_template(scope: Scope) -> str:
    """Return the path template of the matched route; one fixed word for all others bounds the metric's series."""
    return getattr(scope.get("route"), "path", "unmatched")
