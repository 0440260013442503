"""Whatever the body, a table that is encoded from its text gives what the general reader gives."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from service.errors import InvalidInput, ServiceError
from service.wire import forms, v1
from slimctr.features import Encoder, FeatureSchema, Vocabulary
from slimctr.native.json_table import scan_json

SCHEMA = FeatureSchema.parse(
    {
        "fields": [
            {"name": "f", "kind": "categorical", "required": True},
            {"name": "n", "kind": "numeric", "bucketing": {"kind": "log_squared"}},
            {"name": "bag", "kind": "categorical", "multivalued": True},
            {"name": "h", "kind": "categorical", "hash_rows": 9},
        ]
    }
)
KEYS = [b"", b"0", b"42", b"-5", b"a", "é".encode()]
VOCABULARY = Vocabulary.build(SCHEMA, {"f": KEYS, "n": [b"", b"0", b"1", b"42"], "bag": KEYS})
ENCODERS = [Encoder(SCHEMA, VOCABULARY), Encoder(SCHEMA, VOCABULARY, "ignore")]

keys = st.sampled_from(['"a"', '"42"', '"é"', '""', "42", "-5", "null", "999999999999999"])
odd = st.sampled_from(
    [
        *("-0", "1.5", "1e2", "007", "1.", "-", "9" * 400, "9999999999999999", "18446744073709551616"),
        *("NaN", "true", "nul", "{}", "[[]]", '{"f": 1}', '"\\u0061"', '"\x01"', '"\x7f"'),
    ]
)
lists = st.lists(keys, max_size=3).map(lambda items: f"[{', '.join(items)}]")
cells = {"f": keys, "n": st.sampled_from(["1", "-2.5", "null", "1e2"]), "bag": lists, "h": keys}


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A body with a table, now and then with odd values, members that come again, and bytes that were changed."""
    blanks = itertools.cycle(draw(st.lists(st.sampled_from(["", "", " ", "\n\t"]), min_size=1, max_size=5)))
    is_odd = draw(st.integers(0, 9)) == 0

    def listed(items: list[str]) -> str:
        return f"{next(blanks)},{next(blanks)}".join(items)

    def cell(name: str) -> str:
        return draw(odd if is_odd and draw(st.booleans()) else cells.get(name, keys))

    def member(name: str, value: str) -> str:
        return f"{json.dumps(name, ensure_ascii=False)}{next(blanks)}:{next(blanks)}{value}"

    names = draw(
        st.permutations([*cells, *draw(st.lists(st.sampled_from(["f", "other", "é", ""]), max_size=1))])
    )
    rows = draw(st.integers(0 if is_odd else 1, 3))
    if draw(st.booleans()):
        columns = [member(name, f"[{listed([cell(name) for _ in range(rows)])}]") for name in names]
        table = member("columns", f"{{{listed(columns)}}}")
    else:
        some = [draw(st.permutations(names))[: draw(st.integers(1, len(names)))] for _ in range(rows)]
        objects = [f"{{{listed([member(name, cell(name)) for name in row])}}}" for row in some]
        table = member("instances", f"[{listed(objects)}]")
    others = [
        '"model": "m"',
        '"include": ["logits"]',
        '"columns": 5',
        '"instances": []',
        '"q": {"r": [1]}',
        table,
    ]
    text = f"{{{listed([table, *draw(st.lists(st.sampled_from(others), max_size=1))])}}}{next(blanks)}"
    body = bytearray(text.encode("utf-8"))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        place = draw(st.integers(0, len(body) - 1))
        body[place : place + draw(st.integers(0, 2))] = draw(st.binary(max_size=1))
        body = body or bytearray(b"{")
    return bytes(body)


def outcome_of(body: bytes, encoder: Encoder) -> Any:
    """Everything that a request decides: the batch and its counts, or what is wrong and where."""
    try:
        request = v1.read_predict(body, 100)
        batch = forms.encode(request.form, encoder)
    except InvalidInput as error:
        return error.faults
    except ServiceError as error:
        return type(error), str(error)
    bags = [(bag.values.tolist(), bag.offsets.tolist()) for bag in batch.bags]
    return (
        batch.ids.tolist(),
        bags,
        batch.oov.tolist(),
        batch.missing.tolist(),
        request.model,
        request.include,
    )


@given(bodies())
@example(b'{"instances": [{"f": 1}], "instances": 5}')
@example(b'{"columns": {"f": [1]}, "columns": []}')
@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
def test_a_table_reads_as_the_general_reader_reads_it(body: bytes) -> None:
    for encoder in ENCODERS:
        found = outcome_of(body, encoder)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(v1, "scan_json", lambda text: None)
            assert found == outcome_of(body, encoder)


def test_common_tables_take_the_short_way() -> None:
    table = scan_json('{"instances": [{"f": "é", "bag": [1]}, {"f": null}], "model": "m"}'.encode())
    assert table is not None
    assert (table.rows, table.names, table.values(0), table.values(1)) == (
        2,
        b'f"bag"',
        ["é", None],
        [[1], None],
    )
