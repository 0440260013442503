"""The error tree of the service, the one table from exception to status and slug, and problem+json (RFC 9457).

ServiceError
├── BadRequest             a body, header, tensor or parameter that cannot be read
│   ├── BadJson
│   ├── BadHeader
│   └── BadTensor
├── InvalidInput           a readable /v1 body that does not fit its schema; lists up to 20 faults
├── Unauthenticated, Forbidden, ModelControlDisabled
├── UnknownName            a model, version or label that is not served
├── VersionInUse, LoadFailed
├── TooLarge, HeadTooLarge, TargetTooLong, VersionNotSupported, ReceiveTimeout, UnsupportedMediaType, NotOffered
├── NonFiniteScore         the network gave NaN or infinity
└── Unavailable            try again later
    ├── QueueFull
    ├── NotReady
    └── DeadlineExceeded
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
from starlette.responses import Response

from model_store.errors import Conflict, InvalidName, NotFound, StoreError
from service.experiments.errors import StateUnavailable, UnknownExperiment
from slimctr.errors import ArrowError, FeatureError, SlimctrError

MAX_LISTED_FAULTS = 20


@dataclass(frozen=True)
class Fault:
    """One wrong value of a request: where it stands (JSON pointer as a URI fragment) and what is wrong.

    `issue` is its name in `slimctr_input_issues_total`, None for what is no feature value.
    """

    pointer: str
    detail: str
    issue: Literal["unknown_field", "missing_field", "bad_type"] | None = None


class ServiceError(Exception):
    """Base of every expected error of the service; its text is shown to the caller."""

    headers: Mapping[str, str] = {}


class BadRequest(ServiceError):
    """A body, header, tensor or parameter that cannot be read."""


class BadJson(BadRequest):
    """A body that is not the JSON it should be."""


class BadHeader(BadRequest):
    """A header whose value is not allowed."""


class BadTensor(BadRequest):
    """A tensor whose shape, type, size or values are wrong."""


class InvalidInput(ServiceError):
    """A readable body that does not fit its schema; `faults` says where, at most 20 of them."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)[:MAX_LISTED_FAULTS]
        first = self.faults[0]
        more = f" (and {len(self.faults) - 1} more)" if len(self.faults) > 1 else ""
        super().__init__(f"{first.pointer}: {first.detail}{more}")


class Unauthenticated(ServiceError):
    """No key, or one that is not known."""

    headers: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}


class Forbidden(ServiceError):
    """A known key without the scope that the request needs."""


class ModelControlDisabled(ServiceError):
    """Loading or unloading while `model_control` is `none`."""


class UnknownName(ServiceError):
    """A model, version or label that is not served."""


class VersionInUse(ServiceError):
    """Unloading what a label or an experiment needs."""


class LoadFailed(ServiceError):
    """A version that did not pass its gates."""


class TooLarge(ServiceError):
    """A body, or its rows, above the limit."""


class HeadTooLarge(ServiceError):
    """Request line, headers and trailers above the limit."""


class TargetTooLong(ServiceError):
    """A request target above the limit."""


class VersionNotSupported(ServiceError):
    """A version of HTTP that is not spoken here."""


class ReceiveTimeout(ServiceError):
    """A request that did not arrive in time."""


class UnsupportedMediaType(ServiceError):
    """A content type or encoding that the path does not read."""


class UnsupportedCoding(UnsupportedMediaType):
    """A content encoding that is not read."""

    headers: Mapping[str, str] = {"Accept-Encoding": "gzip, deflate"}


class NotOffered(ServiceError):
    """A protocol extension that this service does not have."""


class NonFiniteScore(ServiceError):
    """A score that is NaN or infinite; it never leaves the service."""


class Unavailable(ServiceError):
    """The request is fine; the service cannot take it now."""


class QueueFull(Unavailable):
    """More rows would wait than the bound allows."""


class NotReady(Unavailable):
    """The version or the service is not ready yet."""


class ClientGone(ServiceError):
    """The client left before its request was scored; nobody reads the answer."""


class DeadlineExceeded(ServiceError):
    """The deadline passed while the request was queued or computed."""


@dataclass(frozen=True)
class ProblemKind:
    """A kind of error answer: its status, slug, title and what the caller can do about it."""

    status: int
    slug: str
    title: str
    cure: str


# What servers in front write into their logs when a client left; nobody receives it.
CLIENT_GONE_STATUS = 499
INTERNAL = ProblemKind(
    500, "internal", "The service failed", "The log has the details under the request id; report it."
)
NOT_FOUND = ProblemKind(
    404,
    "not-found",
    "No such route",
    "Compare the path with /openapi.json; versions and models are names in the path.",
)
METHOD_NOT_ALLOWED = ProblemKind(
    405, "method-not-allowed", "The route does not know this method", "Use a method of the Allow header."
)
INVALID_INPUT = ProblemKind(
    422, "invalid-input", "The request does not fit the schema", "Correct the values that `errors` points to."
)
BAD_REQUEST = ProblemKind(
    400,
    "bad-request",
    "The request cannot be read",
    "Compare it with /openapi.json or the Open Inference Protocol.",
)
UNKNOWN_NAME = ProblemKind(
    404, "unknown-name", "No such model, version or label", "GET /v1/models lists what is served."
)

PROBLEMS: dict[type[Exception], ProblemKind] = {
    BadRequest: BAD_REQUEST,
    BadJson: ProblemKind(400, "bad-json", "The body is not valid JSON", "Send one JSON object in UTF-8."),
    ArrowError: ProblemKind(
        400,
        "bad-arrow",
        "The body is not an Arrow stream that is read here",
        "Send an uncompressed Arrow IPC stream with its end marker.",
    ),
    BadHeader: ProblemKind(
        400, "bad-header", "A header has a wrong value", "Correct or leave out the header."
    ),
    BadTensor: ProblemKind(
        400, "bad-tensor", "A tensor has a wrong shape, type or size", "Compare with GET /v2/models/{model}."
    ),
    InvalidInput: INVALID_INPUT,
    FeatureError: INVALID_INPUT,
    Unauthenticated: ProblemKind(
        401,
        "unauthenticated",
        "A valid key is needed",
        "Send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
    ),
    Forbidden: ProblemKind(
        403, "forbidden", "The key lacks the scope", "Use a key with the scope named in detail."
    ),
    ModelControlDisabled: ProblemKind(
        403,
        "model-control-disabled",
        "Loading and unloading by request is off",
        "Move a label instead, or start the service with model_control=explicit.",
    ),
    UnknownName: UNKNOWN_NAME,
    NotFound: UNKNOWN_NAME,
    InvalidName: UNKNOWN_NAME,
    VersionInUse: ProblemKind(
        409,
        "version-in-use",
        "A label or an experiment needs the version",
        "Move the label or end the experiment first.",
    ),
    Conflict: ProblemKind(
        409, "conflict", "The state forbids the change", "Read the state again, then decide."
    ),
    LoadFailed: ProblemKind(
        409,
        "load-failed",
        "The version did not pass its gates",
        "Run `slimctr models verify`; publish the version again.",
    ),
    ReceiveTimeout: ProblemKind(
        408, "receive-timeout", "The request took too long to arrive", "Send it faster or smaller."
    ),
    TooLarge: ProblemKind(413, "too-large", "The body or its rows are above the limit", "Split the request."),
    TargetTooLong: ProblemKind(
        414, "target-too-long", "The target of the request is too long", "Send values in the body."
    ),
    HeadTooLarge: ProblemKind(
        431, "head-too-large", "The headers of the request are too large", "Send fewer or shorter headers."
    ),
    VersionNotSupported: ProblemKind(
        505, "version-not-supported", "This version of HTTP is not spoken here", "Send HTTP/1.1."
    ),
    UnsupportedMediaType: ProblemKind(
        415,
        "unsupported-media-type",
        "The content type or encoding is not read here",
        "Send application/json.",
    ),
    NonFiniteScore: INTERNAL,
    NotOffered: ProblemKind(
        501, "not-offered", "The extension is not offered", "GET /v2 lists the extensions."
    ),
    QueueFull: ProblemKind(
        503, "queue-full", "Too many rows are waiting", "Try again after Retry-After seconds."
    ),
    NotReady: ProblemKind(
        503, "not-ready", "The model or service is not ready", "Try again after Retry-After seconds."
    ),
    ClientGone: ProblemKind(
        CLIENT_GONE_STATUS,
        "client-gone",
        "The client left before it was answered",
        "Raise the timeout of the client, or send fewer rows.",
    ),
    DeadlineExceeded: ProblemKind(
        504,
        "deadline",
        "The deadline passed before the scores were there",
        "Raise the deadline or send fewer rows.",
    ),
    StateUnavailable: ProblemKind(
        503,
        "state-unavailable",
        "The state of the experiments cannot be reached",
        "Try again after Retry-After seconds; scoring goes on meanwhile.",
    ),
    UnknownExperiment: ProblemKind(
        404, "unknown-experiment", "No such experiment", "GET /v1/experiments names the running one."
    ),
    StoreError: INTERNAL,
    SlimctrError: INTERNAL,
}


def problem_kind(error: Exception) -> ProblemKind:
    """Return the entry of the nearest class in the error's family; an unexpected error is `internal`."""
    for family in type(error).__mro__:
        if family in PROBLEMS:
            return PROBLEMS[family]
    return INTERNAL


def problem_kinds() -> dict[str, ProblemKind]:
    """Return every kind that an answer can carry, by slug."""
    return {kind.slug: kind for kind in (*PROBLEMS.values(), NOT_FOUND, METHOD_NOT_ALLOWED, BAD_REQUEST)}


@dataclass(frozen=True)
class Problem:
    """One error answer before it is written."""

    kind: ProblemKind
    detail: str
    status: int
    faults: tuple[Fault, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


def problem_of(error: Exception, *, under_v2: bool) -> Problem:
    """Describe `error` to the caller; internal errors stay generic, under /v2 a wrong body is always 400."""
    kind = problem_kind(error)
    if kind is INTERNAL:
        detail = (
            str(error) if isinstance(error, NonFiniteScore) else "an internal error; the log has the details"
        )
        return Problem(kind, detail, kind.status)
    faults = error.faults if isinstance(error, InvalidInput) else ()
    headers = dict(error.headers) if isinstance(error, ServiceError) else {}
    if kind.status == 503:
        headers["Retry-After"] = "1"
    status = 400 if under_v2 and kind is INVALID_INPUT else kind.status
    return Problem(kind, str(error), status, faults, headers)


def problem_response(problem: Problem, *, path: str, request_id: str) -> Response:
    """Write a problem document; its `error` member repeats the detail for Open Inference Protocol clients."""
    document: dict[str, Any] = {
        "type": f"/problems/{problem.kind.slug}",
        "title": problem.kind.title,
        "status": problem.status,
        "detail": problem.detail,
        "instance": path,
        "error": problem.detail,
        "request_id": request_id,
    }
    if problem.faults:
        document["errors"] = [{"pointer": fault.pointer, "detail": fault.detail} for fault in problem.faults]
    return Response(
        orjson.dumps(document),
        status_code=problem.status,
        headers=dict(problem.headers),
        media_type="application/problem+json",
    )
