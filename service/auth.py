"""Who may call: keys as SHA-256 digests, each with its scopes."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable

from fastapi import Request

from service.errors import Forbidden, Unauthenticated
from service.settings import ApiKey, Scope, Settings


def authorize(request: Request, scope: Scope) -> None:
    """Return when the request may use `scope`; raise Unauthenticated or Forbidden.

    Every configured digest is compared, each in constant time, so that the time tells nothing about a key.
    """
    settings: Settings = request.app.state.settings
    if settings.insecure:
        return
    digest = hashlib.sha256(_presented_key(request).encode()).hexdigest()
    matched: ApiKey | None = None
    for known in settings.api_keys:
        if hmac.compare_digest(known.sha256, digest):
            matched = known
    if matched is None:
        raise Unauthenticated("the key is not known")
    if scope not in matched.scopes:
        raise Forbidden(f"the key lacks the scope '{scope}'")


def requires(scope: Scope) -> Callable[[Request], Awaitable[None]]:
    """Return a dependency that lets a request pass when its key has `scope`."""

    async def check(request: Request) -> None:
        authorize(request, scope)

    return check


def _presented_key(request: Request) -> str:
    authorization = request.headers.get("authorization")
    if authorization is not None:
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() == "bearer" and key:
            return key.strip()
        raise Unauthenticated("the Authorization header must be 'Bearer KEY'")
    key = request.headers.get("x-api-key", "")
    if not key:
        raise Unauthenticated("a key is needed: Authorization: Bearer KEY, or X-API-Key: KEY")
    return key
