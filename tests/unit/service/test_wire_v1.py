import json
from pathlib import Path

import numpy as np
import orjson
import pytest
from artifacts import SCHEMA, VALUES

from service.errors import BadJson, InvalidInput, TooLarge
from service.wire import forms, v1
from slimctr.features import Encoder, Vocabulary

ENCODER = Encoder(SCHEMA, Vocabulary.build(SCHEMA, VALUES))
ROW = {"user": "u1", "ad": "a1", "price": 2.5, "site": "s", "tags": ["red", "blue"]}


def read(document: object, max_rows: int = 100) -> v1.Predict:
    return v1.read_predict(json.dumps(document).encode(), max_rows)


def faults(document: object) -> list[tuple[str, str]]:
    """Return pointer and detail of everything wrong with a request, parsed and encoded."""
    with pytest.raises(InvalidInput) as caught:
        forms.encode(read(document).form, ENCODER)
    return [(fault.pointer, fault.detail) for fault in caught.value.faults]


def test_the_three_forms_give_the_same_batch() -> None:
    rows = [ROW, {**ROW, "ad": "a2", "tags": []}]
    columns = {name: [row[name] for row in rows] for name in ROW}
    shared = {name: ROW[name] for name in ("user", "price", "site")}
    candidates = [{name: row[name] for name in ("ad", "tags")} for row in rows]
    bodies = [{"instances": rows}, {"columns": columns}, {"context": shared, "candidates": candidates}]
    batches = [forms.encode(read(form).form, ENCODER) for form in bodies]
    for batch in batches:
        np.testing.assert_array_equal(batch.ids, batches[0].ids)
        np.testing.assert_array_equal(batch.bags[0].values, batches[0].bags[0].values)
        np.testing.assert_array_equal(batch.bags[0].offsets, batches[0].bags[0].offsets)


@pytest.mark.parametrize(
    "shared",
    [
        {"user": "u1"},
        {"price": 3, "tags": ["red", "new"], "site": None},
        {"user": 17, "tags": []},
        {"tags": ["red"] * 3, "unit": "é"},
        {},
    ],
)
def test_a_slate_is_the_batch_of_its_expanded_rows(shared: dict[str, object]) -> None:
    lenient = Encoder(SCHEMA, ENCODER.vocabulary, "ignore")
    candidates = [{"ad": "a1", "price": None}, {"ad": "a2"}, {"ad": "ä", "site": "s"}]
    candidates = [{name: row[name] for name in row if name not in shared} for row in candidates]
    slate = forms.encode(read({"context": shared, "candidates": candidates}).form, lenient)
    rows = forms.encode(read({"instances": [{**shared, **row} for row in candidates]}).form, lenient)
    np.testing.assert_array_equal(slate.ids, rows.ids)
    np.testing.assert_array_equal(slate.oov, rows.oov)
    np.testing.assert_array_equal(slate.missing, rows.missing)
    np.testing.assert_array_equal(slate.bags[0].values, rows.bags[0].values)
    np.testing.assert_array_equal(slate.bags[0].offsets, rows.bags[0].offsets)


def test_candidates_are_encoded_from_their_text() -> None:
    form = read({"context": {"user": "u1", "tags": ["red"]}, "candidates": [{"ad": "a1"}, {"ad": "a2"}]}).form
    assert isinstance(form, forms.Scanned)
    assert form.rows == 2
    assert ENCODER.encode_json(form.table, form.context) is not None


def test_the_request_says_who_asks_of_what() -> None:
    asked = read(
        {
            "instances": [ROW],
            "model": "ctr",
            "version": "9",
            "unit_id": "u 1",
            "request_id": "r:1",
            "include": ["logits"],
        }
    )
    assert (asked.model, asked.version, asked.label, asked.unit_id, asked.request_id) == (
        "ctr",
        9,
        None,
        "u 1",
        "r:1",
    )
    assert asked.include == {"logits"}
    assert asked.form.rows == 1


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        ({}, "#"),
        ({"instances": [ROW], "columns": {}}, "#"),
        ({"context": {}}, "#"),
        ({"candidates": [ROW]}, "#"),
        ({"instances": []}, "#/instances"),
        ({"columns": {}}, "#/columns"),
        ({"columns": {"ad": []}}, "#/columns"),
        ({"context": ROW, "candidates": []}, "#/candidates"),
        ({"instances": {}}, "#/instances"),
        ({"instances": [ROW, 3]}, "#/instances/1"),
        ({"columns": []}, "#/columns"),
        ({"columns": {"ad": "a1"}}, "#/columns/ad"),
        ({"columns": {"ad": ["a1", "a2"], "user": ["u1"]}}, "#/columns/user"),
        ({"context": [], "candidates": [ROW]}, "#/context"),
        ({"context": {}, "candidates": [ROW], "columns": {}}, "#"),
        ({"context": {"nope": 1}, "candidates": [{"ad": "a1"}]}, "#/context/nope"),
        ({"context": {"price": "x"}, "candidates": [{"ad": "a1"}]}, "#/context/price"),
        ({"context": {"user": "u1"}, "candidates": [{"ad": "a1"}, {"ad": None}]}, "#/candidates/1/ad"),
        ({"context": {"ad": "a1"}, "candidates": [{}, {"ad": "a2"}]}, "#/candidates/1/ad"),
        ({"instances": [ROW], "unit": "u"}, "#/unit"),
        ({"instances": [ROW], "unit_id": ""}, "#/unit_id"),
        ({"instances": [ROW], "unit_id": "ü"}, "#/unit_id"),
        ({"instances": [ROW], "unit_id": "u" * 257}, "#/unit_id"),
        ({"instances": [ROW], "unit_id": 3}, "#/unit_id"),
        ({"instances": [ROW], "request_id": "a b"}, "#/request_id"),
        ({"instances": [ROW], "model": "../x"}, "#/model"),
        ({"instances": [ROW], "version": "0"}, "#/version"),
        ({"instances": [ROW], "version": 1}, "#/version"),
        ({"instances": [ROW], "version": "1", "label": "stable"}, "#/label"),
        ({"instances": [ROW], "include": "logits"}, "#/include"),
        ({"instances": [ROW], "include": ["everything"]}, "#/include"),
    ],
)
def test_a_malformed_request_is_refused_where_it_is_wrong(document: object, pointer: str) -> None:
    assert [found for found, _ in faults(document)] == [pointer]


def test_a_wrong_value_names_field_row_and_value() -> None:
    [(pointer, detail)] = faults({"instances": [ROW, {**ROW, "price": "cheap"}]})
    assert pointer == "#/instances/1/price"
    for part in ("'price'", "row 1", '"cheap"'):
        assert part in detail


def test_a_value_too_deep_to_show_is_named_by_its_type() -> None:
    body = b'{"instances": [{"ad": ' + b"[" * 900 + b"]" * 900 + b"}]}"
    with pytest.raises(InvalidInput, match="a list"):
        forms.encode(v1.read_predict(body, 100).form, ENCODER)


def test_all_wrong_values_are_listed_up_to_twenty() -> None:
    wrong = {**ROW, "price": True, "tags": "red", "user": 1.5}
    found = faults({"instances": [ROW, wrong, {**ROW, "bogus": 1}, {"user": "u1"}]})
    assert sorted(pointer for pointer, _ in found) == [
        "#/instances/1/price",
        "#/instances/1/tags",
        "#/instances/1/user",
        "#/instances/2/bogus",
        "#/instances/3/ad",
    ]
    assert len(faults({"instances": [{**ROW, "price": "x"}] * 50})) == 20


def test_columns_and_slates_point_into_their_own_form() -> None:
    columns = {"ad": ["a1", "a2"], "price": [1, {}], "nope": [1, 2]}
    assert {pointer for pointer, _ in faults({"columns": columns})} == {"#/columns/price/1", "#/columns/nope"}
    slate = {"context": {"price": "x", "user": []}, "candidates": [{"ad": "a1"}, {"ad": {}}, {}]}
    assert {pointer for pointer, _ in faults(slate)} == {
        "#/context/price",
        "#/context/user",
        "#/candidates/1/ad",
        "#/candidates/2/ad",
    }


def test_a_missing_required_column_is_named() -> None:
    assert [pointer for pointer, _ in faults({"columns": {"user": ["u1", "u2"]}})] == ["#/columns/ad"]


def test_pointers_are_escaped() -> None:
    [(pointer, _)] = faults({"instances": [{**ROW, "a/b~c d": 1}]})
    assert pointer == "#/instances/0/a~1b~0c%20d"


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_pointed_to(literal: str) -> None:
    body = f'{{"instances": [{{"ad": "a1"}}, {{"ad": "a1", "price": {literal}}}]}}'.encode()
    with pytest.raises(InvalidInput) as caught:
        v1.read_predict(body, 100)
    [fault] = caught.value.faults
    assert fault.pointer == "#/instances/1/price"
    assert "not a finite number" in fault.detail


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1, 2]",
        b'"text"',
        b"\xff",
        b'{"instances": [{"price": 1e999}]}',
        b'{"a": NaN',
        b"[" * 100_000,
    ],
)
def test_what_is_not_a_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadJson):
        v1.read_predict(body, 100)


def test_too_many_rows_are_refused() -> None:
    read({"instances": [ROW] * 3}, max_rows=3)
    with pytest.raises(TooLarge, match="4 rows"):
        read({"instances": [ROW] * 4}, max_rows=3)


def test_scores_are_written_as_the_shortest_decimals_of_their_float32() -> None:
    scores = np.random.default_rng(0).random(1000, dtype=np.float32)
    written = v1.write_predict({"scores": scores})
    np.testing.assert_array_equal(np.array(orjson.loads(written)["scores"], np.float32), scores)
    assert b'"scores":[0.1]' in v1.write_predict({"scores": np.array([0.1], np.float32)})


def test_values_without_a_row_are_reported_by_field_and_row(tmp_path: Path) -> None:
    rows = [ROW, {**ROW, "user": "stranger"}, {**ROW, "tags": ["red", "unheard"]}]
    batch = forms.encode(forms.Rows(rows), ENCODER)
    assert v1.oov_report(SCHEMA.names, batch.oov) == {"total": 2, "by_field": {"user": 1, "tags": 1}}
    assert v1.oov_rows(batch) == [1, 2]


def test_the_search_for_nan_goes_no_deeper_than_a_value_can_lie() -> None:
    deep = b"[" * 200 + b"0," * 100 + b"NaN" + b"]" * 200
    with pytest.raises(BadJson):
        v1.read_predict(b'{"instances": [{"tags": [' + deep + b"]}]}", 10)
    with pytest.raises(InvalidInput, match="#/instances/0/tags/1"):
        v1.read_predict(b'{"instances": [{"tags": [' + deep.replace(b"NaN", b"0") + b", NaN]}]}", 10)


@pytest.mark.parametrize("member", ["context", "unit_id", "unknown"])
def test_what_stands_beside_a_table_and_is_large_is_taken_down_in_pieces(
    member: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    discarded = []
    monkeypatch.setattr(v1, "discard", lambda value: discarded.append(value))
    large = {"tags": ["x"] * 30_000}
    rows = "candidates" if member == "context" else "instances"
    body = orjson.dumps({member: large, rows: [{"ad": "a1"}]})
    if member == "context":
        assert isinstance(v1.read_predict(body, 10).form, forms.Reread)
    else:
        with pytest.raises(InvalidInput):
            v1.read_predict(body, 10)
        assert [document[member] for document in discarded] == [large]
