import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from slimctr.errors import BadValue, FeatureError, MissingField, UnknownField
from slimctr.features import Encoder, FeatureSchema, TextColumn, Vocabulary, assembly
from slimctr.features.encoder import MAX_PLANS
from slimctr.native.json_table import scan_json

SCHEMA = FeatureSchema.parse(
    {
        "fields": [
            {"name": "site", "kind": "categorical"},
            {"name": "price", "kind": "numeric", "bucketing": {"kind": "log_squared"}},
            {"name": "tags", "kind": "categorical", "multivalued": True},
            {"name": "age", "kind": "numeric", "bucketing": {"kind": "edges", "edges": [18, 30]}},
            {"name": "ad", "kind": "categorical", "hash_rows": 50},
        ]
    }
)
KEYS = {
    "site": ["a", "42", "", "käse", "x\0y"],
    "price": ["1", "4", "", "-2"],
    "tags": ["red", "7", "blue"],
    "age": ["0", "1", "2"],
}
SITE, PRICE, AGE, AD = range(4)


@pytest.fixture(scope="module")
def encoder():
    return Encoder(SCHEMA, Vocabulary.build(SCHEMA, KEYS))


def required(name, kind="categorical", **settings):
    schema = FeatureSchema.parse({"fields": [{"name": name, "kind": kind, "required": True, **settings}]})
    return Encoder(schema, Vocabulary.build(schema, {name: ["a"]}))


def bags(batch, number=0):
    bag = batch.bags[number]
    return [bag.values[i:j].tolist() for i, j in zip(bag.offsets, bag.offsets[1:], strict=False)]


def same(first, second):
    assert first.ids.tolist() == second.ids.tolist()
    assert [bags(first, i) for i in range(len(first.bags))] == [
        bags(second, i) for i in range(len(second.bags))
    ]
    assert first.oov.tolist() == second.oov.tolist()
    assert first.missing.tolist() == second.missing.tolist()


def text(*cells, bag_offsets=None):
    column = TextColumn.of(cells)
    return TextColumn(column.data, column.offsets, None if bag_offsets is None else np.array(bag_offsets))


def test_rows_become_ids_bags_and_counts(encoder):
    rows = [
        {"site": "a", "price": 8, "tags": ["red", 7, "?"], "age": 18, "ad": "k"},
        {"site": 42, "price": None, "tags": [], "age": 17.5, "ad": None},
        {"site": "no", "price": 1e6, "tags": None},
    ]
    batch = encoder.encode_rows(rows)
    assert batch.ids.dtype == np.int32
    assert batch.ids.flags.c_contiguous
    assert batch.ids[:, [SITE, PRICE, AGE]].tolist() == [[1, 2, 2], [2, 3, 1], [0, 0, 0]]
    assert batch.ids[1, AD] == batch.ids[2, AD] != 0
    assert bags(batch) == [[1, 2, 0], [0], [0]]
    assert batch.oov.tolist() == [1, 1, 1, 0, 0]
    assert batch.missing.tolist() == [0, 1, 2, 1, 2]


def test_an_empty_batch_has_no_rows(encoder):
    for batch in (
        encoder.encode_rows([]),
        encoder.encode_columns({}),
        encoder.encode_slate({"site": "a"}, []),
    ):
        assert batch.ids.shape == (0, 4)
        assert batch.bags[0].offsets.tolist() == [0]
        assert not batch.oov.any()
        assert not batch.missing.any()


@pytest.mark.parametrize("value", ["käse", "x\0y", "", None, "42", 42, np.int64(42), "a"])
def test_every_form_of_a_value_is_its_key(encoder, value):
    listed = KEYS["site"].index("" if value is None else str(value)) + 1
    assert encoder.encode_rows([{"site": value}]).ids[0, SITE] == listed
    assert encoder.encode_columns({"site": [value]}).ids[0, SITE] == listed
    assert encoder.encode_slate({"site": value}, [{}]).ids[0, SITE] == listed
    column = text("" if value is None else str(value))
    assert encoder.encode_columns({"site": column}).ids[0, SITE] == listed


def test_columns_of_lists_arrays_and_text_give_the_batch_of_the_rows(encoder):
    rows = [
        {"site": "42", "price": 8.0, "tags": ["red", "?"], "age": 3, "ad": 1},
        {"site": "5", "price": -2.0, "tags": [], "age": 70, "ad": 2},
    ]
    expected = encoder.encode_rows(rows)
    same(encoder.encode_columns({name: [row[name] for row in rows] for name in SCHEMA.names}), expected)
    arrays = {
        "site": np.array([42, 5], np.uint64),
        "price": np.array([8, -2], np.float32),
        "tags": text("red", "?", bag_offsets=[0, 2, 2]),
        "age": np.array([3, 70], np.int8),
        "ad": np.array(["1", "2"]),
    }
    same(encoder.encode_columns(arrays), expected)
    arrays["site"] = text("42", "5")
    arrays["ad"] = np.array(["1", 2], object)
    same(encoder.encode_columns(arrays), expected)


def test_absent_columns_are_missing_everywhere(encoder):
    same(encoder.encode_columns({"site": ["a", "b"]}), encoder.encode_rows([{"site": "a"}, {"site": "b"}]))


def test_text_cells_may_start_anywhere_in_their_buffer(encoder):
    column = TextColumn(np.frombuffer(b"--a42--", np.uint8), np.array([2, 3, 5]))
    assert encoder.encode_columns({"site": column}).ids[:, SITE].tolist() == [1, 2]


def test_empty_bags_of_text_are_one_missing_value(encoder):
    column = text("red", "blue", "7", bag_offsets=[0, 0, 1, 1, 3, 3])
    batch = encoder.encode_columns({"tags": column})
    assert bags(batch) == [[0], [1], [0], [3, 2], [0]]
    assert batch.missing[2] == 3


def test_a_slate_is_its_expanded_rows(encoder):
    context = {"site": "a", "tags": ["red", "no"], "age": 20}
    candidates = [{"ad": 1, "price": 8}, {"ad": "2"}, {"price": None}]
    expanded = [context | candidate for candidate in candidates]
    same(encoder.encode_slate(context, candidates), encoder.encode_rows(expanded))


def test_a_slate_may_vary_in_a_bag(encoder):
    context = {"site": "?", "ad": 3}
    candidates = [{"tags": ["red"]}, {"tags": []}, {}]
    same(encoder.encode_slate(context, candidates), encoder.encode_rows([context | c for c in candidates]))


def test_nan_in_an_array_is_missing_in_a_log_only(encoder):
    columns = {"price": np.array([8, np.nan])}
    batch = encoder.encode_log(columns)
    assert batch.ids[:, PRICE].tolist() == [2, 3]
    assert batch.missing[1] == 1
    with pytest.raises(BadValue, match="field 'price', row 1"):
        encoder.encode_columns(columns)


def test_ids_from_outside_are_checked_and_counted(encoder):
    ids = np.array([[1, -1, 3, 50], [6, 2, -7, 51], [2**40, 0, 99, -1]])
    batch = encoder.from_ids(ids, [(np.array([1, -1, 9, 3]), np.array([0, 3, 3, 4]))])
    missing_ad = encoder.vocabulary.missing_rows[4]
    assert batch.ids.tolist() == [[1, 3, 3, 50], [0, 2, 0, 0], [0, 0, 0, missing_ad]]
    assert bags(batch) == [[1, 0, 0], [0], [3]]
    assert batch.oov.tolist() == [2, 1, 1, 2, 1]
    assert batch.missing.tolist() == [0, 1, 2, 0, 1]


def test_encoded_ids_come_back_as_themselves(encoder):
    batch = encoder.encode_rows([{"site": "a", "price": 8, "tags": ["red", 7], "age": 20, "ad": 1}])
    again = encoder.from_ids(batch.ids, [(bag.values, bag.offsets) for bag in batch.bags])
    assert again.ids.tolist() == batch.ids.tolist()
    assert bags(again) == bags(batch)


@pytest.mark.parametrize(
    ("ids", "bag", "message"),
    [
        (np.zeros((1, 3), int), ([1], [0, 1]), r"\(rows, 4\), not int64 \(1, 3\)"),
        (np.zeros(4, int), ([1], [0, 1]), "rows, 4"),
        (np.zeros((1, 4)), ([1], [0, 1]), "float64"),
        (np.zeros((1, 4), int), ([1], [0, 2]), "field 'tags': 2 offsets must rise from 0 to 1"),
        (np.zeros((1, 4), int), ([1], [1, 1]), "field 'tags'"),
        (np.zeros((2, 4), int), ([1], [0, 2, 1]), "field 'tags'"),
        (np.zeros((1, 4), int), ([1], [0, 1, 1]), "field 'tags'"),
        (np.zeros((1, 4), int), ([0.5], [0, 1]), "field 'tags': values and offsets"),
    ],
)
def test_ids_of_the_wrong_shape_are_refused(encoder, ids, bag, message):
    with pytest.raises(BadValue, match=message):
        encoder.from_ids(ids, [tuple(map(np.array, bag))])


def test_a_bag_is_needed_for_every_multivalued_field(encoder):
    with pytest.raises(BadValue, match="0 bags for 1"):
        encoder.from_ids(np.zeros((1, 4), int))


BAD_VALUES = [
    ("site", 1.5, "a number with a fraction"),
    ("site", 1e29, "sent as a string"),
    ("site", math.nan, "NaN"),
    ("site", ["a"], "a list"),
    ("site", {"a": 1}, "an object"),
    ("site", b"a", "bytes"),
    ("site", 2**53, "sent as a string"),
    ("site", -(2**53), "sent as a string"),
    ("site", np.float64(0.5), "float64"),
    ("site", "\ud800", "surrogate"),
    ("price", True, "a boolean"),
    ("price", "1", "a string"),
    ("price", math.nan, "NaN or an infinity"),
    ("price", -math.inf, "NaN or an infinity"),
    ("price", 10**400, "a number too large"),
    ("price", [1], "a list"),
    ("tags", "red", "takes a list, not a string"),
    ("tags", {"a": 1}, "takes a list, not an object"),
    ("tags", ["red", ["blue"]], "a list"),
    ("tags", ["red", 0.5], "a number with a fraction"),
    ("tags", ["red", "\udfff"], "surrogate"),
]


@pytest.mark.parametrize(("field", "value", "message"), BAD_VALUES)
def test_a_bad_value_is_named_with_field_row_and_value(encoder, field, value, message):
    good = {"site": "a", "price": 1, "tags": ["red", "blue"]}
    rows = [good, {}, good | {field: value}]
    bad = value[1] if isinstance(value, list) and field == "tags" else value
    attempts = [
        (lambda: encoder.encode_rows(rows), 2),
        (lambda: encoder.encode_columns({name: [row.get(name) for row in rows] for name in good}), 2),
        (lambda: encoder.encode_slate({}, rows), 2),
        (lambda: encoder.encode_slate({field: value}, [{}, {}]), None),
    ]
    for attempt, row in attempts:
        with pytest.raises(BadValue) as caught:
            attempt()
        assert (caught.value.field, caught.value.row) == (field, row)
        assert caught.value.value is bad
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"site": ["a"], "age": [1, 2]}, "field 'age': 2 values where field 'site' has 1"),
        ({"tags": text("a", bag_offsets=[0, 1]), "age": [1, 2]}, "field 'age': 2 values"),
        ({"site": "abc"}, "field 'site': a column is a list"),
        ({"site": {"0": "a"}}, "field 'site': a column is a list"),
        ({"site": np.array([[1]])}, "field 'site': a column has one dimension"),
        ({"site": np.array([0.5])}, "field 'site', row 0"),
        ({"site": np.array([1, 2**53])}, "field 'site', row 1: an integer beyond"),
        ({"site": np.array([1, 2**63], np.uint64)}, "field 'site', row 1: an integer beyond"),
        ({"price": np.array([True])}, "field 'price': a numeric field takes numbers, not an array of bool"),
        ({"price": np.array([1, np.inf])}, "field 'price', row 1"),
        ({"price": text("1")}, "field 'price': a numeric field takes numbers, not text"),
        ({"site": text("a", bag_offsets=[0, 1])}, "field 'site': bag_offsets"),
        ({"tags": text("a")}, "field 'tags': the text cells"),
        ({"tags": text("a", "b", bag_offsets=[0, 1])}, "field 'tags': bag_offsets must rise from 0 to 2"),
        ({"tags": text("a", "b", bag_offsets=[0, 3, 2])}, "field 'tags': bag_offsets"),
        (
            {"site": TextColumn(np.zeros(1, np.uint8), np.array([0, 2]))},
            "field 'site': text column: key 0 lies outside",
        ),
    ],
)
def test_a_bad_column_is_named(encoder, columns, message):
    with pytest.raises(FeatureError) as caught:
        encoder.encode_columns(columns)
    assert message in str(caught.value)


def test_text_columns_are_checked_when_made():
    with pytest.raises(TypeError, match="int64 offsets"):
        TextColumn(np.zeros(1, np.uint8), np.zeros(2, np.int32))
    with pytest.raises(ValueError, match="one element more"):
        TextColumn(np.zeros(1, np.uint8), np.zeros(0, np.int64))


def test_unknown_fields_are_refused_or_ignored(encoder):
    lenient = Encoder(SCHEMA, encoder.vocabulary, unknown_fields="ignore")
    cases = [
        (lambda e: e.encode_rows([{"site": "a"}, {"site": "a", "extra": 1}]), 1),
        (lambda e: e.encode_columns({"site": ["a", "a"], "extra": [1]}), None),
        (lambda e: e.encode_slate({"site": "a", "extra": 1}, [{}, {}]), None),
        (lambda e: e.encode_slate({"site": "a"}, [{}, {"extra": 1}]), 1),
    ]
    for encode, row in cases:
        with pytest.raises(UnknownField) as caught:
            encode(encoder)
        assert (caught.value.field, caught.value.row) == ("extra", row)
        assert encode(lenient).ids[:, SITE].tolist() == [1, 1]


@pytest.mark.parametrize("values", [["a", None], ["a", ""]])
def test_a_required_value_must_be_there(values):
    encoder = required("site")
    for attempt in (
        lambda: encoder.encode_rows([{"site": value} for value in values]),
        lambda: encoder.encode_columns({"site": values}),
        lambda: encoder.encode_columns({"site": text(*(value or "" for value in values))}),
        lambda: encoder.encode_slate({}, [{"site": value} for value in values]),
    ):
        with pytest.raises(MissingField) as caught:
            attempt()
        assert (caught.value.field, caught.value.row) == ("site", 1)


def test_a_required_field_may_not_be_absent():
    encoder = required("site")
    for attempt in (
        lambda: encoder.encode_rows([{}]),
        lambda: encoder.encode_slate({"site": None}, [{}]),
        lambda: encoder.encode_slate({}, [{}]),
        lambda: encoder.from_ids(np.array([[-1]])),
    ):
        with pytest.raises(MissingField, match="field 'site'"):
            attempt()


def test_a_required_number_or_list_must_be_there():
    number = required("n", "numeric", bucketing={"kind": "log_squared"})
    with pytest.raises(MissingField, match="field 'n', row 1"):
        number.encode_rows([{"n": 1}, {"n": None}])
    with pytest.raises(MissingField, match="field 'n', row 1"):
        number.encode_log({"n": np.array([1, np.nan])})
    several = required("s", multivalued=True)
    for bag in ([], None, ["a", None], [""]):
        with pytest.raises(MissingField, match="field 's', row 1"):
            several.encode_rows([{"s": ["a", "b"]}, {"s": bag}])
    with pytest.raises(MissingField, match="field 's', row 1"):
        several.encode_columns({"s": text("a", "b", bag_offsets=[0, 2, 2])})


def test_a_field_belongs_to_the_context_or_to_the_candidates(encoder):
    with pytest.raises(BadValue, match="field 'site', row 1: the field is in the context and in a candidate"):
        encoder.encode_slate({"site": "a"}, [{}, {"site": "b"}])


def test_a_row_is_an_object(encoder):
    with pytest.raises(BadValue, match="row 1: a row is an object of fields, not a list"):
        encoder.encode_rows([{}, ["a"]])


def test_a_vocabulary_of_another_schema_is_refused(encoder):
    other = FeatureSchema(fields=SCHEMA.fields[:1])
    with pytest.raises(ValueError, match="another schema"):
        Encoder(other, encoder.vocabulary)


def test_one_encoder_serves_many_threads(encoder):
    batches = [[{"site": "a", "tags": ["red"] * n, "price": n} for _ in range(n)] for n in range(1, 33)]
    expected = [encoder.encode_rows(rows) for rows in batches]
    with ThreadPoolExecutor(8) as pool:
        for found, wanted in zip(pool.map(encoder.encode_rows, batches * 4), expected * 4, strict=True):
            same(found, wanted)


def test_threads_that_bring_names_together_do_not_lift_the_bound_on_remembered_names(monkeypatch):
    encoder = Encoder(SCHEMA, Vocabulary.build(SCHEMA, KEYS), "ignore")
    make, together = encoder._make_json_plan, threading.Barrier(2)

    def slowly(names):
        plan = make(names)
        together.wait(10)
        return plan

    def encode(number):
        return encoder.encode_json(scan_json(b'{"columns": {"site": [42], "other%d": [1]}}' % number)).ids[
            0, 0
        ]

    for number in range(MAX_PLANS - 1):
        encode(number)
    monkeypatch.setattr(encoder, "_make_json_plan", slowly)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(encode, [1001, 1002])) == [2, 2]
    monkeypatch.undo()
    for number in range(3 * MAX_PLANS):
        assert encode(number) == 2
    assert len(encoder._json_plans) <= MAX_PLANS + 1


def test_a_bag_in_the_context_cannot_be_multiplied_without_bound(encoder, monkeypatch):
    monkeypatch.setattr(assembly, "MAX_REPEATED_KEYS", 20)
    batch = encoder.encode_slate({"tags": ["red"] * 4}, [{}] * 5)
    assert len(batch.bags[0].values) == 20
    with pytest.raises(BadValue, match="21 values") as refused:
        encoder.encode_slate({"tags": ["red"] * 3}, [{}] * 7)
    assert (refused.value.field, refused.value.row) == ("tags", None)
