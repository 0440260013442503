"""Golden values lie where encoding can go wrong: head to tail, unlisted, missing, at edges, bags of every size."""

import math

import pytest

from slimctr.export.golden_values import MAX_VALUES, golden_values
from slimctr.features import Encoder, FeatureSchema, Vocabulary
from slimctr.scoring.golden import UNLISTED, GoldenValues

EDGES = [0.5, 2.0, 9.0]
SCHEMA = FeatureSchema.parse(
    {
        "fields": [
            {"name": "user", "kind": "categorical"},
            {"name": "item", "kind": "categorical", "required": True},
            {"name": "price", "kind": "numeric", "bucketing": {"kind": "edges", "edges": EDGES}},
            {"name": "age", "kind": "numeric", "required": True, "bucketing": {"kind": "log_squared"}},
            {"name": "tags", "kind": "categorical", "multivalued": True},
        ]
    }
)
USERS = [f"u{n}" for n in range(100)]
RAW = [
    {"user": user, "item": f"i{n % 3}", "price": n / 10, "age": n, "tags": ["a", "b"] if n % 2 else []}
    for n, user in enumerate(USERS)
]


@pytest.fixture(scope="module")
def encoder():
    keys = {"user": USERS, "item": ["i0", "i1", "i2"], "price": ["0", "1", "2", "3"], "age": ["0", "1", "2"]}
    return Encoder(SCHEMA, Vocabulary.build(SCHEMA, {**keys, "tags": ["a", "b", ""]}))


def test_every_value_is_kept_once(encoder):
    for name, column in golden_values(RAW, encoder).items():
        assert 1 <= len(column) <= MAX_VALUES
        assert len({repr(value) for value in column}) == len(column), name


def test_listed_values_run_from_head_to_tail_with_an_unlisted_and_the_missing_one(encoder):
    users = golden_values(RAW, encoder)["user"]
    assert {"u0", "u99", UNLISTED, None} <= set(users)
    assert len(users) == 8 + 2


def test_a_required_field_is_never_missing(encoder):
    values = golden_values(RAW, encoder)
    assert None not in values["item"]
    assert None not in values["age"]


def test_numbers_lie_at_and_just_below_every_edge(encoder):
    prices = set(golden_values(RAW, encoder)["price"])
    assert {*EDGES, *(math.nextafter(edge, -math.inf) for edge in EDGES), None} <= prices


def test_bags_hold_one_value_several_and_none(encoder):
    bags = golden_values(RAW, encoder)["tags"]
    assert all(bag in bags for bag in (["a", "b"], ["a"], ["b"], [UNLISTED], ["a", UNLISTED], [], None))


def test_a_shorter_list_begins_anew_and_no_row_is_taken_whole(encoder):
    values = golden_values(RAW, encoder)
    rows = GoldenValues("", values).rows
    assert len(rows) == max(map(len, values.values()))
    assert [row["item"] for row in rows[:8]] == (values["item"] * 8)[:8]
    taken = {tuple(row[name] for name in ("user", "item", "price", "age")) for row in rows}
    assert not taken & {(row["user"], row["item"], row["price"], row["age"]) for row in RAW}


def test_a_log_without_raw_rows_still_gives_values_that_can_be_encoded(encoder):
    rows = GoldenValues("", golden_values([], encoder)).rows
    assert len(encoder.encode_rows(rows)) == len(rows) > 0
