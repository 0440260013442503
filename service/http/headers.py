"""Reads header fields that are lists: their members in order, over all lines of that name."""

import re
from functools import lru_cache

from starlette.requests import Request

# A member of a list: anything without a comma, where a quoted string is one piece whatever it holds.
_MEMBER = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')
_PARAMETER = re.compile(r';[ \t]*([^=;," \t]+)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^;," \t]*)')
_WEIGHT = re.compile(r"0(\.[0-9]*)?|1(\.0*)?")


def list_of(request: Request, name: bytes) -> str:
    """Return the lines of a header as one list (RFC 9110, 5.3); `name` is lower-case."""
    return ", ".join(value.decode("latin-1") for given, value in request.scope["headers"] if given == name)


def members(value: str) -> list[str]:
    """Return the members of a list without those that are empty."""
    return [member for found in _MEMBER.findall(value) if (member := found.strip(" \t"))]


@lru_cache(maxsize=64)
def prefers(accept: str, offer: str, default: str) -> bool:
    """Tell whether `accept` wants media type `offer` rather than `default` (RFC 9110, 12.5.1).

    It does when its quality is higher, or the same and the header names it (`*/*` names nothing). Where it wants
    neither, the answer is `default` nevertheless: a client that reads neither would not read an error either.
    """
    ranges = [_media_range(member) for member in members(accept)]
    weight, is_named = _quality(ranges, offer)
    other, _ = _quality(ranges, default)
    return weight > other or (weight == other > 0 and is_named)


def _media_range(member: str) -> tuple[str, bool, float]:
    """Return the type, whether parameters narrow it, and its quality; 0 of a weight that is none."""
    media_type = member.partition(";")[0].strip(" \t").lower()
    is_narrowed = False
    for found in _PARAMETER.finditer(member, member.find(";") if ";" in member else len(member)):
        name, value = found[1].lower(), found[2].strip('"').lower()
        if name == "q":  # what follows the weight are no parameters of the type
            return media_type, is_narrowed, float(value) if _WEIGHT.fullmatch(value) else 0.0
        is_narrowed |= (name, value) != ("charset", "utf-8")  # which our JSON is
    return media_type, is_narrowed, 1.0


def _quality(ranges: list[tuple[str, bool, float]], media_type: str) -> tuple[float, bool]:
    """Return the quality that the most specific range gives a type, and whether a range names the type.

    Our types have no parameters: a range that has some counts when none without names the type.
    """
    kinds = {"*/*": 0, media_type.partition("/")[0] + "/*": 1, media_type: 3}
    best, weight = -1, 0.0
    for given, is_narrowed, quality in ranges:
        rank = kinds.get(given, -1) - is_narrowed
        if given in kinds and rank >= best:
            weight = max(weight, quality) if rank == best else quality
            best = rank
    return weight, best >= 2
