import json
from typing import Any

import pytest

from model_store.names import OUTCOME_ID
from service.routes.outcomes import read_outcomes

NOW = 1_700_000_000.0


@pytest.mark.parametrize("depth", [100, 1_000])
def test_a_deeply_nested_value_is_a_fault_of_its_item(depth: int) -> None:
    good = b'{"outcome_id":"a","request_id":"r","index":0,"clicked":1,"occurred_at":1}'
    bad = good.replace(b'"index":0', b'"index":' + b"[" * depth + b"]" * depth)
    items, faults = read_outcomes(b'{"outcomes":[' + good + b"," + bad + b"]}", NOW)
    assert [item.outcome_id for item in items] == ["a"]
    assert [fault.pointer for fault in faults] == ["#/outcomes/1/index"]


def read(**changes: Any) -> tuple[list[float], list[tuple[str, str]]]:
    """The times of the outcomes that were read, and pointer and detail of the faults."""
    item = {"outcome_id": "a", "request_id": "r", "index": 0, "clicked": 1, "occurred_at": NOW, **changes}
    items, faults = read_outcomes(json.dumps({"outcomes": [item]}).encode(), NOW)
    return [found.occurred_at for found in items], [(fault.pointer, fault.detail) for fault in faults]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (NOW, NOW),
        (int(NOW), NOW),
        (0, 0.0),
        (NOW + 86_400, NOW + 86_400),
        ("2023-11-14T22:13:20Z", NOW),
        ("2023-11-14T22:13:20.5z", NOW + 0.5),
        ("2023-11-14 23:13:20+01:00", NOW),
        ("1970-01-01T00:00:00Z", 0.0),
    ],
)
def test_a_time_is_seconds_or_rfc_3339(value: Any, seconds: float) -> None:
    assert read(occurred_at=value) == ([seconds], [])


@pytest.mark.parametrize("unit", [1e3, 1e6, 1e9], ids=["milliseconds", "microseconds", "nanoseconds"])
@pytest.mark.parametrize("form", [int, float, lambda value: str(int(value)), str, "{:.0f}Z".format])
def test_times_in_other_units_are_refused(unit: float, form: Any) -> None:
    times, [(pointer, detail)] = read(occurred_at=form(NOW * unit))
    assert times == []
    assert pointer == "#/outcomes/0/occurred_at"
    assert "not milliseconds" in detail


@pytest.mark.parametrize(
    "value",
    [
        *(NOW + 86_401, -1, True, None, [NOW], {}, "", str(NOW), "1700000000", "2023-11-14"),
        *("2023-11-14T22:13:20", "22:13:20Z", "9999-12-31T23:59:59Z", "1969-12-31T23:59:59Z", "PT1S"),
        *("2023-11-14T25:00:00Z", "2023-02-30T00:00:00Z", "0001-01-01T00:00:00+23:59", "now", "1700-"),
    ],
)
def test_what_is_no_time_of_the_past_is_a_fault_of_its_item(value: Any) -> None:
    times, [(pointer, detail)] = read(occurred_at=value)
    assert times == []
    assert pointer == "#/outcomes/0/occurred_at"
    assert "RFC 3339" in detail


@pytest.mark.parametrize("value", ["true", 1, "yes", None])
def test_restate_is_true_or_false(value: Any) -> None:
    assert read(restate=value)[1][0][0] == "#/outcomes/0/restate"
    assert read(restate=True) == ([NOW], [])


@pytest.mark.parametrize("named", [{}, {"outcome_id": None}])
def test_an_outcome_without_an_id_is_named_by_request_and_row(named: dict[str, Any]) -> None:
    rest = {"request_id": "r" * 128, "clicked": 1, "occurred_at": NOW}
    body = {"outcomes": [{**rest, **named, "index": 2**64 - 1}, {**rest, "index": 0, "outcome_id": "mine"}]}
    items, faults = read_outcomes(json.dumps(body).encode(), NOW)
    assert faults == []
    assert [item.outcome_id for item in items] == [f"{'r' * 128}/{2**64 - 1}", "mine"]
    assert OUTCOME_ID.fits(items[0].outcome_id)
