"""Reads `/v1/predict` bodies (rows, columns, slate) and writes their answers; values never pass through pydantic."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from model_store.names import LABEL, MODEL, REQUEST_ID, UNIT_ID, VERSION, NameRule
from service.errors import MAX_LISTED_FAULTS, BadJson, Fault, InvalidInput, ServiceError, TooLarge
from service.wire.forms import Batches, Columns, Form, Reread, Row, Rows, Scanned, Slate
from service.wire.json_body import load_json
from service.wire.pointers import pointer_to
from slimctr.features import EncodedBatch
from slimctr.native.json_pieces import Path, discard
from slimctr.native.json_table import scan_json

INCLUDES = frozenset({"logits", "oov_rows", "timing"})
FORMS = ("instances", "columns", "context", "candidates")
SLATE = ("context", "candidates")
MEMBERS = frozenset({*FORMS, "model", "version", "label", "unit_id", "request_id", "include"})
# Members that hold values; everything else of a request is short.
LARGE = frozenset((name,) for name in FORMS)
LARGE_BODY_BYTES = 2**16
MAX_NAMES = 2**16
"""Fields of a row, or columns; only those of a schema can be scored."""


class Predict(NamedTuple):
    """A checked request: who asks, of what, and the batch still in its own form."""

    form: Form | Reread | Scanned | Batches
    model: str | None
    version: int | None
    label: str | None
    unit_id: str | None
    request_id: str | None
    include: frozenset[str]


def read_predict(body: bytes, max_rows: int, deadline_s: float = math.inf) -> Predict:
    """Return the request in `body`; `deadline_s` is on the monotonic clock.

    Raises BadJson, InvalidInput, TooLarge, DeadlineExceeded.
    """
    table = scan_json(body)
    if table is None:
        return _read_whole(body, max_rows, deadline_s)
    start, end = table.member
    if len(body) - (end - start) > LARGE_BODY_BYTES:  # a large context, or a member that should be small
        return _read_whole(body, max_rows, deadline_s)
    envelope = _read_json(body[:start] + b"0" + body[end:], max_rows, deadline_s)
    context = envelope.get("context", {})
    if not isinstance(context, dict) or (context and not context.keys().isdisjoint(table.fields())):
        return _read_whole(body, max_rows, deadline_s)

    return read_document(envelope, Scanned(table, context, partial(_read_values, body, max_rows)), max_rows)


def read_document(document: Any, found: Scanned | Batches | None, max_rows: int) -> Predict:
    """Return the request in `document`, whose values were `found` already or are still inside.

    Raises BadJson, InvalidInput, TooLarge.
    """
    if not isinstance(document, dict):
        raise BadJson("the body must be one JSON object")
    faults = list(_unknown_members(document))
    form = _read_form(document, faults) if found is None else found
    if found is not None:
        _check_alone(document, faults)
    version = _text(document, "version", VERSION, faults)
    label = _text(document, "label", LABEL, faults)
    if version is not None and label is not None:
        faults.append(Fault("#/label", "label and version exclude each other"))
    request = Predict(
        form=form or Rows([]),
        model=_text(document, "model", MODEL, faults),
        version=None if version is None else int(version),
        label=label,
        unit_id=_text(document, "unit_id", UNIT_ID, faults),
        request_id=_text(document, "request_id", REQUEST_ID, faults),
        include=_includes(document.get("include"), faults),
    )
    if faults:
        raise InvalidInput(faults)
    if request.form.rows > max_rows:
        raise TooLarge(f"{request.form.rows} rows are above max_request_rows ({max_rows})")
    return request


def write_predict(answer: Mapping[str, Any]) -> bytes:
    """Write an answer; float32 arrays become the shortest decimals that read back to the same float32."""
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def oov_report(names: tuple[str, ...], oov: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Return the total and the fields (F) that had values without a row of their own."""
    by_field = {name: count for name, count in zip(names, oov.tolist(), strict=True) if count}
    return {"total": sum(by_field.values()), "by_field": by_field}


def oov_rows(batch: EncodedBatch) -> list[int]:
    """Return the instances that read the OOV row of at least one field."""
    hit = (batch.ids == 0).any(axis=1)
    for bag in batch.bags:
        owner = np.repeat(np.arange(len(batch)), np.diff(bag.offsets))
        hit[owner[bag.values == 0]] = True
    return [int(row) for row in np.flatnonzero(hit)]


def _read_whole(body: bytes, max_rows: int, deadline_s: float) -> Predict:
    document = _read_json(body, max_rows, deadline_s)
    try:
        asked = read_document(document, None, max_rows)
    except ServiceError:
        discard(document)
        raise
    if len(body) <= LARGE_BODY_BYTES or isinstance(asked.form, Scanned | Batches | Reread):
        return asked
    return asked._replace(form=Reread(asked.form, partial(_read_values, body, max_rows)))


def _read_values(body: bytes, max_rows: int) -> Form:
    """Return the values of a body that was read before; a shadow comes back to it when no deadline counts any more."""
    return _read_form(_read_json(body, max_rows, math.inf), []) or Rows([])


def _read_json(body: bytes, max_rows: int, deadline_s: float) -> Any:
    """Return the document, of which no part may grow beyond what any request has. Raises as `read_predict` does."""

    def watch(path: Path, whole: Any) -> None:
        if path == () and isinstance(whole, dict) and len(whole) > 2 * len(MEMBERS) + MAX_LISTED_FAULTS:
            raise InvalidInput(_unknown_members(whole))
        if path[:1] not in LARGE or (isinstance(whole, dict) and len(whole) <= MAX_NAMES):
            return
        if isinstance(whole, dict):
            detail = f"has more than {MAX_NAMES} names, which no schema does"
            raise InvalidInput([Fault(pointer_to(*path), detail)])
        if len(whole) > max_rows and len(path) == (2 if path[0] == "columns" else 1):
            raise TooLarge(f"more than {max_rows} rows are above max_request_rows ({max_rows})")

    return load_json(body, deadline_s, watch)


def _unknown_members(document: Row) -> Iterator[Fault]:
    known = ", ".join(sorted(MEMBERS))
    unknown = (name for name in document if name not in MEMBERS)
    return (
        Fault(pointer_to(name), f"unknown member; known are {known}")
        for name in islice(unknown, MAX_LISTED_FAULTS)
    )


def _read_form(document: Row, faults: list[Fault]) -> Form | None:
    given = tuple(name for name in FORMS if name in document)
    readers: dict[tuple[str, ...], Callable[[Row, list[Fault]], Form | None]] = {
        ("instances",): _read_rows,
        ("columns",): _read_columns,
        SLATE: _read_slate,
    }
    reader = readers.get(given)
    if reader is None:
        faults.append(_one_form(given))
        return None
    form = reader(document, faults)
    if form is not None and not faults and form.rows == 0:
        faults.append(Fault(pointer_to(given[-1]), "the batch is empty; send at least one row"))
    return form


def _check_alone(document: Row, faults: list[Fault]) -> None:
    """Add the fault of a document that has a second form, or half of one."""
    given = tuple(name for name in FORMS if name in document)
    if given not in ((), ("instances",), ("columns",), SLATE):
        faults.append(_one_form(given))


def _one_form(given: Sequence[str]) -> Fault:
    return Fault(
        "#", f"exactly one of instances, columns, or context with candidates is needed, not {list(given)}"
    )


def _read_rows(document: Row, faults: list[Fault]) -> Form | None:
    instances = _objects(document, "instances", faults)
    return None if instances is None else Rows(instances)


def _read_columns(document: Row, faults: list[Fault]) -> Form | None:
    columns = document["columns"]
    if not isinstance(columns, dict):
        faults.append(Fault("#/columns", "must be an object of lists"))
        return None
    length: int | None = None
    for name, values in columns.items():
        if not isinstance(values, list):
            faults.append(Fault(pointer_to("columns", name), "must be a list with one value per row"))
            continue
        length = len(values) if length is None else length
        if len(values) != length:
            detail = f"has {len(values)} values where the first column has {length}"
            faults.append(Fault(pointer_to("columns", name), detail))
        if len(faults) >= MAX_LISTED_FAULTS:
            break
    return Columns(columns)


def _read_slate(document: Row, faults: list[Fault]) -> Form | None:
    context = document["context"]
    candidates = _objects(document, "candidates", faults)
    if not isinstance(context, dict):
        faults.append(Fault("#/context", "must be an object"))
        return None
    if candidates is None:
        return None
    for position, candidate in enumerate(candidates):
        if not context.keys().isdisjoint(candidate):
            twice = sorted(context.keys() & candidate.keys())
            faults.append(Fault(pointer_to("candidates", position, twice[0]), "the field is also in context"))
            if len(faults) == MAX_LISTED_FAULTS:
                break
    return Slate(context, candidates)


def _objects(document: Row, member: str, faults: list[Fault]) -> list[Row] | None:
    values = document[member]
    if not isinstance(values, list):
        faults.append(Fault(pointer_to(member), "must be a list of objects"))
        return None
    wrong = (position for position, value in enumerate(values) if not isinstance(value, dict))
    found = [
        Fault(pointer_to(member, position), "must be an object")
        for position in islice(wrong, MAX_LISTED_FAULTS)
    ]
    faults += found
    return None if found else values


def _text(document: Row, member: str, rule: NameRule, faults: list[Fault]) -> str | None:
    value = document.get(member)
    if value is None:
        return None
    if not isinstance(value, str) or rule.pattern.fullmatch(value) is None:
        faults.append(Fault(pointer_to(member), f"must be a string of {rule.meaning}"))
        return None
    return value


def _includes(value: Any, faults: list[Fault]) -> frozenset[str]:
    if value is None:
        return frozenset()
    if not isinstance(value, list) or not all(isinstance(item, str) and item in INCLUDES for item in value):
        faults.append(Fault("#/include", f"must be a list out of {', '.join(sorted(INCLUDES))}"))
        return frozenset()
    return frozenset(value)
