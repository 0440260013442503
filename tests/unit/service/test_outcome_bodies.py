import pytest

from service.routes.outcomes import read_outcomes


@pytest.mark.parametrize("depth", [100, 1_000])
def test_a_deeply_nested_value_is_a_fault_of_its_item(depth: int) -> None:
    good = b'{"outcome_id":"a","request_id":"r","index":0,"clicked":1,"occurred_at":1}'
    bad = good.replace(b'"index":0', b'"index":' + b"[" * depth + b"]" * depth)
    items, faults = read_outcomes(b'{"outcomes":[' + good + b"," + bad + b"]}")
    assert [item.outcome_id for item in items] == ["a"]
    assert [fault.pointer for fault in faults] == ["#/outcomes/1/index"]
