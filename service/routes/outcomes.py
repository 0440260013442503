"""`POST /v1/outcomes`: delayed clicks and non-clicks in, what became of each out."""

import json
import math
import re
import time
from datetime import datetime
from itertools import islice
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from model_store.names import OutcomeId, RequestId
from service.errors import MAX_LISTED_FAULTS, Fault, InvalidInput, TooLarge
from service.experiments import Experiments, Outcome
from service.inference import Inference
from service.intake import check_content_type, read_body
from service.settings import Settings
from service.wire.json_body import load_json
from service.wire.pointers import pointer_to
from slimctr.native.json_pieces import Path

MAX_OUTCOMES = 10_000
# Checking an outcome takes so many times as long as reading its text.
WEIGHT = 8
# Keys of an outcome, or beside the list of them, that are looked at one by one.
MAX_KEYS = 100
# What has not happened yet was written in another unit or by a wrong clock; a day of error is forgiven.
MAX_AHEAD_S = 86_400.0
NOT_A_TIME = (
    "must be seconds since the epoch (not milliseconds) or RFC 3339 with a time zone, at most a day ahead"
)


def _is_date(value: Any) -> Any:
    """Refuse what pydantic would take for a count of seconds or milliseconds, numbers within texts included."""
    if not isinstance(value, str) or re.match(r"[0-9]{4}-", value) is None:
        raise ValueError(NOT_A_TIME)
    return value


Seconds = Annotated[float, Field(ge=0, strict=True, allow_inf_nan=False)]
Date = Annotated[AwareDatetime, BeforeValidator(_is_date)]

router = APIRouter(tags=["experiments"])


class OutcomeItem(BaseModel):
    """One outcome: row `index` of request `request_id` was clicked (1) or not (0)."""

    model_config = ConfigDict(extra="forbid")

    outcome_id: OutcomeId | None = Field(
        default=None, description="Names this report of the row; default: `<request_id>/<index>`."
    )
    request_id: RequestId
    index: Annotated[int, Field(ge=0, strict=True)]
    clicked: Literal[0, 1]
    occurred_at: Seconds | Date = Field(
        description="Seconds since the epoch, or RFC 3339 with a time zone; at most a day in the future."
    )
    restate: bool = Field(
        default=False, strict=True, description="Replace an earlier, different outcome of the row."
    )


REQUEST_SCHEMA = {
    "type": "object",
    "required": ["outcomes"],
    "additionalProperties": False,
    "properties": {
        "outcomes": {"type": "array", "maxItems": MAX_OUTCOMES, "items": OutcomeItem.model_json_schema()}
    },
}


class ItemError(BaseModel):
    """An outcome that does not fit the schema."""

    pointer: str
    detail: str


class OutcomesAnswer(BaseModel):
    """How many outcomes got which status; `errors` lists those that do not fit the schema and have none."""

    joined: int
    duplicate: int
    late: int
    orphan: int
    conflict: int
    restated: int
    refused: int
    ambiguous: int
    errors: list[ItemError]


@router.post(
    "/v1/outcomes",
    summary="Report clicks and non-clicks",
    response_model=OutcomesAnswer,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": REQUEST_SCHEMA}},
        }
    },
)
async def report(request: Request) -> Response:
    """Join outcomes with their exposures; what is counted as joined is stored before the answer."""
    settings: Settings = request.app.state.settings
    experiments: Experiments = request.app.state.experiments
    inference: Inference = request.app.state.inference
    check_content_type(request)
    latest_s = time.monotonic() + settings.max_deadline_ms / 1000
    body = await read_body(request, settings, latest_s)
    items, faults = await inference.decode(
        len(body) * WEIGHT, lambda: read_outcomes(body, time.time(), latest_s), latest_s
    )
    if faults and not items:
        raise InvalidInput(faults)
    found = await experiments.outcomes(items)
    answer: dict[str, Any] = {status.value: count for status, count in found.counts.items()}
    answer["errors"] = [{"pointer": fault.pointer, "detail": fault.detail} for fault in faults]
    return Response(orjson.dumps(answer), media_type="application/json")


def read_outcomes(body: bytes, now: float, deadline_s: float = math.inf) -> tuple[list[Outcome], list[Fault]]:
    """Return the valid outcomes of a body, and one fault for each item that is not; `now` in seconds since the epoch.

    Raises BadJson, InvalidInput when it is not an object with a list of outcomes, TooLarge.
    """
    document = load_json(body, deadline_s, _watch)
    if not isinstance(document, dict) or not isinstance(document.get("outcomes"), list):
        raise InvalidInput([Fault("#/outcomes", 'the body must be {"outcomes": [...]}')])
    if len(document) > 1:
        raise InvalidInput(_unknown_keys(document))
    entries = document["outcomes"]
    if len(entries) > MAX_OUTCOMES:
        raise TooLarge(f"{len(entries)} outcomes are above the limit of {MAX_OUTCOMES} per call")
    items, faults = [], []
    for position, entry in enumerate(entries):
        if isinstance(entry, dict) and len(entry) > MAX_KEYS:
            faults.append(
                Fault(f"#/outcomes/{position}", f"has {len(entry)} keys, most of which are not known here")
            )
            continue
        try:
            outcome = _outcome(OutcomeItem.model_validate(entry))
        except ValidationError as error:
            faults.append(_fault(position, error))
            continue
        if 0 <= outcome.occurred_at <= now + MAX_AHEAD_S:
            items.append(outcome)
        else:
            faults.append(Fault(f"#/outcomes/{position}/occurred_at", NOT_A_TIME))
    return items, faults


def _watch(path: Path, whole: Any) -> None:
    if path == ("outcomes",) and len(whole) > MAX_OUTCOMES:
        raise TooLarge(f"more than {MAX_OUTCOMES} outcomes are above the limit of {MAX_OUTCOMES} per call")
    if isinstance(whole, dict) and len(whole) > MAX_KEYS:
        raise InvalidInput(
            _unknown_keys(whole) if path == () else [Fault(pointer_to(*path), "has too many keys")]
        )


def _unknown_keys(document: dict[str, Any]) -> list[Fault]:
    unknown = (name for name in document if name != "outcomes")
    return [
        Fault(pointer_to(name), "this key is not known here") for name in islice(unknown, MAX_LISTED_FAULTS)
    ]


def _outcome(item: OutcomeItem) -> Outcome:
    occurred = item.occurred_at
    return Outcome(
        outcome_id=item.outcome_id or f"{item.request_id}/{item.index}",
        request_id=item.request_id,
        index=item.index,
        clicked=item.clicked == 1,
        occurred_at=occurred.timestamp() if isinstance(occurred, datetime) else occurred,
        restate=item.restate,
    )


def _fault(position: int, error: ValidationError) -> Fault:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if name == "occurred_at":
        detail = "is required" if first["type"] == "missing" else NOT_A_TIME
    elif first["type"] == "model_type":
        detail = f"must be an object with {', '.join(OutcomeItem.model_fields)}"
    elif first["type"] in ("missing", "extra_forbidden"):
        detail = "is required" if first["type"] == "missing" else "this key is not known here"
    else:
        detail = f"{first['msg']}, not {_shown(first['input'])}"
    return Fault(f"#/outcomes/{position}" + (f"/{name}" if name else ""), detail)


def _shown(value: Any) -> str:
    if isinstance(value, str | list):
        value = value[:80]
    try:
        return json.dumps(value, ensure_ascii=False)[:80]
    except RecursionError:
        return "a deeply nested value"
