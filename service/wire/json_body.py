"""Reads JSON bodies of any size without holding up other threads, up to a deadline and to twenty faults."""

import json
import math
import time
from collections.abc import Iterator
from typing import Any

import orjson

from service.errors import MAX_LISTED_FAULTS, BadJson, DeadlineExceeded, Fault, InvalidInput
from service.wire.pointers import pointer_to
from slimctr.native.json_pieces import NotJson, Path, Watch, discard, load_in_pieces

# Literals that JSON does not have and that some writers produce; only then is the slower reader worth its time.
NONFINITE_LITERALS = (b"NaN", b"Infinity")
# Member, row, field and place in a list: no value of a readable request lies deeper, and walking on would be endless.
DEEPEST_VALUE = 4


def load_json(text: bytes, deadline_s: float = math.inf, watch: Watch | None = None) -> Any:
    """Return the value in `text`; `watch` sees large lists and objects as they grow, and may raise.

    Raises BadJson; InvalidInput that points to NaN and infinity when they are all that is wrong, as soon as there are
    twenty; DeadlineExceeded once `deadline_s`, on the monotonic clock, has passed.
    """
    faults: list[Fault] = []

    def parse(piece: bytes, path: Path, before: int) -> Any:
        if time.monotonic() > deadline_s:
            raise DeadlineExceeded("the deadline passed while the body was decoded")
        try:
            return orjson.loads(piece)
        except orjson.JSONDecodeError as error:
            value, found = _nonfinite(piece, path, before)
            if not found:
                where = f" (in {pointer_to(*path)}, from member {before} on)" if path else ""
                raise BadJson(f"the body is not valid JSON: {error}{where}") from None
            faults.extend(found)
            if len(faults) >= MAX_LISTED_FAULTS:
                raise InvalidInput(faults) from None
            return value

    try:
        value = load_in_pieces(text, parse, watch)
    except NotJson as error:
        raise BadJson(f"the body is not valid JSON: {error}") from None
    if faults:
        discard(value)
        raise InvalidInput(faults)
    return value


def _nonfinite(piece: bytes, path: Path, before: int) -> tuple[Any, list[Fault]]:
    """Return what a lenient reader makes of a piece, and the faults of its values that are no finite numbers."""
    if not any(literal in piece for literal in NONFINITE_LITERALS):
        return None, []
    try:
        value = json.loads(piece)
    except (ValueError, RecursionError):
        return None, []
    faults = []
    for place, leaf in _leaves(value, path, before):
        if isinstance(leaf, float) and not math.isfinite(leaf):
            faults.append(Fault(pointer_to(*place), f"{leaf} is not a finite number", "bad_type"))
            if len(faults) == MAX_LISTED_FAULTS:
                break
    return value, faults


def _leaves(value: Any, path: Path, before: int = 0) -> Iterator[tuple[Path, Any]]:
    if len(path) == DEEPEST_VALUE:
        yield path, value
    elif isinstance(value, dict):
        for name, member in value.items():
            yield from _leaves(member, (*path, name))
    elif isinstance(value, list):
        for position, item in enumerate(value, before):
            yield from _leaves(item, (*path, position))
    else:
        yield path, value
