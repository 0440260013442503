"""Arrow streams give the batch that the same rows give in Python values, whatever types carry them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from arrow_streams import stream, table_of
from artifacts import SCHEMA, VALUES, raw_rows

from slimctr.errors import ArrowError, BadValue, MissingField, UnknownField
from slimctr.features import EncodedBatch, Encoder, FeatureSchema, Vocabulary, arrow_batch, arrow_stream
from slimctr.features.arrow_stream import read_arrow

ENCODER = Encoder(SCHEMA, Vocabulary.build(SCHEMA, VALUES))
ROWS = raw_rows(200)


def encode(table: pa.Table, rows_per_batch: int | None = None, encoder: Encoder = ENCODER) -> EncodedBatch:
    return encoder.encode_arrow(read_arrow(stream(table, rows_per_batch)))


def assert_same(batch: EncodedBatch, other: EncodedBatch) -> None:
    np.testing.assert_array_equal(batch.ids, other.ids)
    np.testing.assert_array_equal(batch.oov, other.oov)
    np.testing.assert_array_equal(batch.missing, other.missing)
    assert len(batch.bags) == len(other.bags)
    for bag, other_bag in zip(batch.bags, other.bags, strict=True):
        np.testing.assert_array_equal(bag.values, other_bag.values)
        np.testing.assert_array_equal(bag.offsets, other_bag.offsets)


def cast(table: pa.Table, **types: pa.DataType) -> pa.Table:
    for name, kind in types.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, table[name].cast(kind))
    return table


def dictionary(array: pa.Array, index: pa.DataType) -> pa.Array:
    """Return an array, or the cells of a list, as numbers of `index` into a dictionary."""
    if pa.types.is_list(array.type):
        return pa.ListArray.from_arrays(
            array.offsets, dictionary(array.values, index), mask=array.is_null() if array.null_count else None
        )
    encoded = array.dictionary_encode()
    return pa.DictionaryArray.from_arrays(encoded.indices.cast(index), encoded.dictionary)


def all_dictionaries(table: pa.Table) -> pa.Table:
    indices = {
        "user": pa.int8(),
        "ad": pa.uint16(),
        "price": pa.int64(),
        "site": pa.uint64(),
        "tags": pa.int32(),
    }
    return pa.table(
        {name: dictionary(table[name].combine_chunks(), index) for name, index in indices.items()}
    )


@pytest.mark.parametrize("rows_per_batch", [None, 1, 7, 64])
@pytest.mark.parametrize(
    "change",
    [
        lambda table: table,
        all_dictionaries,
        lambda table: cast(table, user=pa.large_string(), tags=pa.large_list(pa.large_string())),
        lambda table: table.select(["tags", "price", "site", "ad", "user"]),
        lambda table: pa.concat_tables([table.slice(0, 33), table.slice(33, 100), table.slice(133)]),
    ],
    ids=["plain", "dictionaries", "large", "other order", "slices"],
)
def test_rows_in_any_types_and_batches(
    change: Callable[[pa.Table], pa.Table], rows_per_batch: int | None
) -> None:
    assert_same(encode(change(table_of(ROWS)), rows_per_batch), ENCODER.encode_rows(ROWS))


def test_a_slice_carries_its_own_rows_only() -> None:
    assert_same(encode(table_of(ROWS).slice(50, 30), 11), ENCODER.encode_rows(ROWS[50:80]))


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
)
@pytest.mark.parametrize("as_dictionary", [False, True])
def test_integers_are_the_keys_of_their_digits(kind: pa.DataType, as_dictionary: bool) -> None:
    schema = FeatureSchema.parse(
        {
            "fields": [
                {"name": "user", "kind": "categorical"},
                {"name": "seen", "kind": "categorical", "multivalued": True},
            ]
        }
    )
    keys = [str(number) for number in range(-5, 120)]
    encoder = Encoder(schema, Vocabulary.build(schema, {"user": keys, "seen": keys}))
    lowest = 0 if pa.types.is_unsigned_integer(kind) else -7
    user = [*range(lowest, 100), None, 127]
    seen = [[value, 3] if value is not None and value % 2 else [] for value in user]
    table = pa.table({"user": pa.array(user, kind), "seen": pa.array(seen, pa.list_(kind))})
    if as_dictionary:
        table = pa.table(
            {name: dictionary(table[name].combine_chunks(), pa.int16()) for name in table.column_names}
        )
    expected = encoder.encode_columns({"user": user, "seen": seen})
    assert_same(encode(table, encoder=encoder), expected)
    assert_same(encode(table, 9, encoder=encoder), expected)


@pytest.mark.parametrize("rows_per_batch", [None, 1, 9])
@pytest.mark.parametrize("as_dictionary", [False, True])
@pytest.mark.parametrize("kind", [pa.float32(), pa.float64(), pa.bool_()])
def test_floats_and_booleans_are_the_keys_of_their_values(
    kind: pa.DataType, as_dictionary: bool, rows_per_batch: int | None
) -> None:
    schema = FeatureSchema.parse(
        {
            "fields": [
                {"name": "user", "kind": "categorical"},
                {"name": "seen", "kind": "categorical", "multivalued": True},
            ]
        }
    )
    keys = ["true", "false", *map(str, range(40))]
    encoder = Encoder(schema, Vocabulary.build(schema, {"user": keys, "seen": keys}))
    values: list[Any] = [True, False, None] * 12 if pa.types.is_boolean(kind) else [7.0, None, -0.0, 39.0] * 9
    seen = [[value, value] if row % 3 else None for row, value in enumerate(values)]
    table = pa.table({"user": pa.array(values, kind), "seen": pa.array(seen, pa.list_(kind))})
    if as_dictionary:
        table = pa.table(
            {name: dictionary(table[name].combine_chunks(), pa.int16()) for name in table.column_names}
        )
    expected = encoder.encode_columns({"user": values, "seen": seen})
    assert_same(encode(table, rows_per_batch, encoder=encoder), expected)


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64(), pa.int32(), pa.uint64()])
def test_numbers_of_every_width(kind: pa.DataType) -> None:
    prices = [1, 2, None, 0, 4, 100, 7]
    array = pa.array(
        [None if p is None else np.float16(p) if kind == pa.float16() else p for p in prices], kind
    )
    table = pa.table({"ad": ["a1"] * 7, "price": array})
    assert_same(encode(table), ENCODER.encode_columns({"ad": ["a1"] * 7, "price": prices}))


def test_columns_of_nothing_are_missing() -> None:
    table = pa.table({"ad": ["a1", "a2"], **{name: pa.nulls(2) for name in ("user", "price", "tags")}})
    expected = ENCODER.encode_columns({"ad": ["a1", "a2"]})
    assert_same(encode(table), expected)
    empty = pa.table({"ad": ["a1", "a2"], "tags": pa.array([[], None], pa.list_(pa.null()))})
    assert_same(encode(empty), expected)
    holes = pa.table({"ad": ["a1"], "tags": pa.array([[None, None]], pa.list_(pa.null()))})
    assert_same(encode(holes), ENCODER.encode_columns({"ad": ["a1"], "tags": [[None, None]]}))


def test_a_missing_list_is_empty_whatever_lies_behind_it() -> None:
    cells = pa.array(["red", "blue", "new", "sale"])
    lists = pa.ListArray.from_arrays(
        pa.array([0, 1, 3, 4], pa.int32()), cells, mask=pa.array([False, True, False])
    )
    assert lists.null_count == 1
    table = pa.table({"ad": ["a1"] * 3, "tags": lists})
    assert_same(encode(table), ENCODER.encode_columns({"ad": ["a1"] * 3, "tags": [["red"], None, ["sale"]]}))


def test_missing_cells_inside_dictionaries_and_lists() -> None:
    values = pa.array(["u1", None, "u2", ""])
    user = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 2, 3], pa.int8()), values)
    tags = [["red", None], [None], ["", "blue"], [], None]
    table = pa.table({"ad": ["a1"] * 5, "user": user, "tags": pa.array(tags)})
    expected = {"ad": ["a1"] * 5, "user": ["u1", None, None, "u2", ""], "tags": tags}
    assert_same(encode(table), ENCODER.encode_columns(expected))


def test_dictionaries_replaced_between_batches() -> None:
    first = pa.table({"ad": pa.array(["a1", "a2"]).dictionary_encode()})
    second = pa.table({"ad": pa.array(["a3", "a1"]).dictionary_encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, first.schema) as writer:
        writer.write_table(first)
        writer.write_table(second)
    batch = ENCODER.encode_arrow(read_arrow(sink.getvalue().to_pybytes()))
    assert_same(batch, ENCODER.encode_columns({"ad": ["a1", "a2", "a3", "a1"]}))


def test_text_beyond_ascii() -> None:
    ads = ["ä", "日本", "😀", "a1"]
    schema = FeatureSchema.parse({"fields": [{"name": "ad", "kind": "categorical"}]})
    encoder = Encoder(schema, Vocabulary.build(schema, {"ad": ads[:3]}))
    batch = encode(pa.table({"ad": ads}), encoder=encoder)
    assert batch.ids[:, 0].tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize(
    "broken",
    [
        b"\xff",
        b"a\xc3",
        b"\xc0\xaf",
        b"\xe0\x9f\xbf",
        b"\xed\xa0\x80",
        b"\xf0\x8f\xbf\xbf",
        b"\xf4\x90\x80\x80",
    ],
)
def test_text_that_is_not_unicode(broken: bytes) -> None:
    ads = pa.Array.from_buffers(
        pa.string(),
        2,
        [None, pa.array([0, 2, 2 + len(broken)], pa.int32()).buffers()[1], pa.py_buffer(b"a1" + broken)],
    )
    with pytest.raises(BadValue, match=r"row 1.*UTF-8"):
        encode(pa.table({"ad": ads}))


@pytest.mark.parametrize(
    ("columns", "error", "words"),
    [
        ({"ad": pa.array([2, 1.5])}, BadValue, "'ad', row 1.*number with a fraction"),
        ({"ad": pa.array([2, float("nan")])}, BadValue, "'ad', row 1.*NaN"),
        ({"ad": pa.array([2, -(2.0**53)])}, BadValue, "'ad', row 1.*sent as a string"),
        ({"ad": pa.array([np.float16(2)])}, BadValue, "'ad'.*halffloat"),
        ({"ad": ["a1"], "price": pa.array([True])}, BadValue, "'price'.*bool"),
        ({"ad": pa.array([b"a1", b"\xff"])}, BadValue, "'ad', row 1.*UTF-8"),
        ({"ad": pa.array([["a1"]])}, BadValue, "'ad'.*list<string>"),
        ({"ad": pa.array([{"x": 1}])}, BadValue, "'ad'.*struct"),
        ({"ad": pa.array([["a1"]], pa.list_(pa.string_view()))}, BadValue, "'ad'.*list<string_view>"),
        ({"price": pa.array(["1"], pa.string_view())}, BadValue, "'price'.*string_view"),
        ({"ad": pa.array([0], pa.timestamp("s"))}, BadValue, "'ad'.*timestamp"),
        ({"tags": pa.array([[["a"]]])}, BadValue, "'tags'.*list<list>"),
        ({"tags": pa.array(["red"])}, BadValue, "'tags'.*lists.*string"),
        ({"price": pa.array(["1"])}, BadValue, "'price'.*string"),
        ({"ad": ["a1"], "price": pa.array([float("nan")])}, BadValue, "'price', row 0.*finite"),
        (
            {"ad": ["a1"], "price": pa.array([1.0, float("inf")]).dictionary_encode().slice(1)},
            BadValue,
            "'price', row 0.*finite",
        ),
        ({"ad": pa.array([2**53])}, BadValue, "'ad', row 0.*string"),
        ({"ad": pa.array([2**64 - 1], pa.uint64())}, BadValue, "'ad', row 0.*string"),
        ({"ad": pa.array([None], pa.string())}, MissingField, "'ad', row 0"),
        ({"user": pa.array(["u1"])}, MissingField, "'ad', row 0"),
        ({"ad": pa.array(["a1"]), "bogus": pa.array([1])}, UnknownField, "'bogus'"),
    ],
)
def test_a_wrong_column_is_named_with_its_type_or_row(
    columns: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        encode(pa.table(columns))


def test_the_row_of_a_wrong_value_is_counted_through_batches() -> None:
    with pytest.raises(MissingField, match="row 5"):
        encode(pa.table({"ad": ["a1"] * 5 + [None]}), 2)
    with pytest.raises(BadValue, match="row 3"):
        encode(pa.table({"ad": ["a1"] * 4, "tags": [[1], [], None, [1, 2**60]]}), 3)


def test_unknown_fields_may_be_ignored() -> None:
    lenient = Encoder(SCHEMA, ENCODER.vocabulary, "ignore")
    table = pa.table({"ad": ["a1"], "bogus": [1.5]})
    assert_same(encode(table, encoder=lenient), ENCODER.encode_columns({"ad": ["a1"]}))


def test_equal_schemas_are_read_once_whatever_their_metadata() -> None:
    table = table_of(ROWS)
    first = read_arrow(stream(table, request_id="request-1")).schema
    assert read_arrow(stream(table, request_id="request-2")).schema is first
    assert read_arrow(stream(table.select(["ad"]), request_id="request-2")).schema is not first


def test_a_small_dictionary_cannot_become_much_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_batch, "MAX_TEXT_BYTES", 1000)
    table = pa.table({"ad": pa.array(["a" * 100] * 10).dictionary_encode()})
    encode(table)
    with pytest.raises(BadValue, match="1000 bytes"):
        encode(pa.concat_tables([table, table]))


def test_lists_of_nothing_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_batch, "MAX_REPEATED_KEYS", 10)
    with pytest.raises(BadValue, match="more than 10 values"):
        encode(pa.table({"ad": ["a1"], "tags": pa.array([[None] * 11], pa.list_(pa.null()))}))


def test_many_batches_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_stream, "MAX_BATCHES", 4)
    encode(table_of(ROWS[:4]), 1)
    with pytest.raises(ArrowError, match="larger batches"):
        encode(table_of(ROWS[:6]), 1)
