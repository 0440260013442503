"""Who may call: keys as SHA-256 digests, each with its scopes."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable

from fastapi import Request

from service.errors import Forbidden, Unauthenticated
from service.settings import Scope, Settings

# Members of joined lines that may be keys, besides every line as a whole; a request has few.
MAX_CREDENTIALS = 64


def authorize(request: Request, scope: Scope) -> None:
    """Return when a key of the request may use `scope`; raise Unauthenticated or Forbidden.

    The key that fits counts, whatever else the request presents to others on its way. Every configured digest is
    compared with every presented key, each in constant time, so that the time tells nothing about a key.
    """
    settings: Settings = request.app.state.settings
    if settings.insecure:
        return
    presented = _presented_keys(request)
    is_known = is_allowed = False
    for key in presented:
        digest = hashlib.sha256(key).hexdigest()
        for known in settings.api_keys:
            if hmac.compare_digest(known.sha256, digest):
                is_known = True
                is_allowed |= scope in known.scopes
    if not is_known:
        raise Unauthenticated(
            "the key is not known"
            if presented
            else "a key is needed: Authorization: Bearer KEY, or X-API-Key: KEY"
        )
    if not is_allowed:
        raise Forbidden(f"the key lacks the scope '{scope}'")


def may(request: Request, scope: Scope) -> bool:
    """Say whether a key of the request may use `scope`."""
    try:
        authorize(request, scope)
    except (Unauthenticated, Forbidden):
        return False
    return True


def requires(scope: Scope) -> Callable[[Request], Awaitable[None]]:
    """Return a dependency that lets a request pass when its key has `scope`."""

    async def check(request: Request) -> None:
        authorize(request, scope)

    return check


def _presented_keys(request: Request) -> list[bytes]:
    """Return what may be a key of ours, as UTF-8: each X-API-Key and each bearer token, alone or in a joined list."""
    lines = [
        (name, value)
        for name, value in request.scope["headers"]
        if name == b"x-api-key" or name == b"authorization"
    ]
    # Proxies and clients join lines of one name with commas; a key may have some itself, so the line comes first.
    parts = [(name, part) for name, value in lines if b"," in value for part in value.split(b",")]
    keys: dict[bytes, None] = {}
    for name, value in (*lines, *parts[:MAX_CREDENTIALS]):
        key = value.strip()
        if name == b"authorization":
            scheme, _, key = key.replace(b"\t", b" ").partition(b" ")
            key = key.strip() if scheme.lower() == b"bearer" else b""
        if key:
            # Clients write a key in UTF-8, or as Latin-1, which headers once were.
            keys.update(dict.fromkeys((key, key.decode("latin-1").encode())))
    return list(keys)
