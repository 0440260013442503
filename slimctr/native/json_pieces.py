"""Reads large JSON texts a piece at a time: other threads get their turn between two pieces."""

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from slimctr.native.library import address, library

Path = tuple[str | int, ...]
Parse = Callable[[bytes, Path, int], Any]
"""Reads a list or object of a few members, or one value: its text, the path of the whole, members before it."""
Watch = Callable[[Path, Any], None]

PIECE_BYTES = 32 * 1024
MAX_LARGE_DEPTH = 16
"""Levels of lists and objects above PIECE_BYTES, each of which is looked through once."""

_CLOSES = {ord("["): ord("]"), ord("{"): ord("}")}
_BLANKS = b" \n\r\t"
_CONTAINERS = (list, dict)
_HANDFUL = 256
_CELLS = 2**14


class NotJson(ValueError):
    """A text that is no JSON; says where it is wrong."""


@cache
def _pieces() -> Any:
    cut: Any = library().slimctr_json_pieces
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    cut.argtypes = [ctypes.c_char_p, count, count, count, pointer, count, pointer]
    cut.restype = count
    return cut


def load_in_pieces(text: bytes, parse: Parse, watch: Watch | None = None) -> Any:
    """Return the value in `text`, of which `parse` reads PIECE_BYTES at a time; strings and numbers are read whole.

    `watch` is called with the path and the members so far of each container above that size, and may raise. Raises
    NotJson, and what `parse` and `watch` raise; then nothing of the value is left.
    """
    if len(text) <= PIECE_BYTES:
        return parse(text, (), 0)
    stripped = text.lstrip(_BLANKS) if text[0] in _BLANKS else text
    start = len(text) - len(stripped)
    end = start + len(stripped.rstrip(_BLANKS))
    return _value(text, start, end, (), parse, watch)


def discard(value: Any) -> None:
    """Empty a large value a piece at a time: taking all of it down at once would hold up other threads."""
    if type(value) is dict:
        for member in value.values():
            if type(member) in _CONTAINERS and member:
                discard(member)
        while len(value) > _HANDFUL:
            value.popitem()
        value.clear()
    elif type(value) is list:
        while value:
            for member in value[-_HANDFUL:]:
                if type(member) in _CONTAINERS and member:
                    discard(member)
            del value[-_HANDFUL:]


def extend(values: list[Any], more: Sequence[Any]) -> None:
    """Append `more` a piece at a time: a list of millions takes a tenth of a second otherwise, with the lock held."""
    if len(more) <= _CELLS:
        values.extend(more)
        return
    for start in range(0, len(more), _CELLS):
        values.extend(more[start : start + _CELLS])


def release(values: list[Any]) -> None:
    """Empty a list a piece at a time; unlike `discard` it leaves its members as they are."""
    while values:
        del values[-_CELLS:]


def _value(text: bytes, start: int, end: int, path: Path, parse: Parse, watch: Watch | None) -> Any:
    closing = _CLOSES.get(text[start]) if start < end else None
    if end - start <= PIECE_BYTES or closing is None:
        return parse(text[start:end], path, 0)
    if len(path) == MAX_LARGE_DEPTH:
        raise NotJson(f"nested deeper than {MAX_LARGE_DEPTH} levels at byte {start}")
    room = 4 * ((end - start) // PIECE_BYTES) + 8
    cut = np.empty((room, 5), np.int64)
    close = ctypes.c_int64()
    count = _pieces()(text, end, start, PIECE_BYTES, address(cut), room, ctypes.addressof(close))
    if count < 0 or close.value != end - 1 or text[end - 1] != closing:
        raise NotJson(f"the list or object at byte {start} is not closed, or has an empty member")
    whole: Any = [] if closing == ord("]") else {}
    try:
        for first, behind, colon, value, is_single in cut[:count].tolist():
            if isinstance(whole, list):
                if is_single:
                    whole.append(_value(text, first, behind, (*path, len(whole)), parse, watch))
                else:
                    whole += parse(b"[" + text[first:behind] + b"]", path, len(whole))
            elif is_single and value >= 0:
                name = parse(text[first:colon], path, 0)
                if not isinstance(name, str):
                    raise NotJson(f"a name is a string, not what stands at byte {first}")
                whole[name] = _value(text, value, behind, (*path, name), parse, watch)
            else:
                whole |= parse(b"{" + text[first:behind] + b"}", path, len(whole))
            if watch is not None:
                watch(path, whole)
    except BaseException:
        discard(whole)
        raise
    return whole
