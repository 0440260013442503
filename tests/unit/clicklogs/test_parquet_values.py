"""Parquet columns of every type: read with the key that a request gives the same value, or refused in a sentence."""

from datetime import date, datetime, time
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slimctr.clicklogs.parse_errors import ParseErrors
from slimctr.clicklogs.tabular import ParquetLog
from slimctr.errors import LogFormatError, SlimctrError
from slimctr.features import Bucketing, FeatureSchema, Field


def parquet(tmp_path, **columns) -> ParquetLog:
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    return ParquetLog(tmp_path / "train.parquet")


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (pa.array([3, None, -4], pa.int8()), ["3", None, "-4"]),
        (pa.array([3, None, 2**64 - 1], pa.uint64()), ["3", None, "18446744073709551615"]),
        (pa.array([3.0, float("nan"), -0.0], pa.float64()), ["3", None, "0"]),
        (pa.array([3.0, None, 2.0**24], pa.float32()), ["3", None, "16777216"]),
        (pa.array([3.0, None, 2.0], pa.float16()), ["3", None, "2"]),
        (pa.array([Decimal("3.00"), None, Decimal("-7.00")], pa.decimal128(38, 2)), ["3", None, "-7"]),
        (pa.array([Decimal("12"), None, Decimal("0")], pa.decimal256(60, 0)), ["12", None, "0"]),
        (pa.array([True, None, False]), ["true", None, "false"]),
        (
            pa.array([date(2024, 1, 31), None, date(1969, 12, 31)], pa.date32()),
            ["2024-01-31", None, "1969-12-31"],
        ),
        (pa.array([date(2024, 1, 31), None, None], pa.date64()), ["2024-01-31", None, None]),
        (pa.array(["é", None, "3.0"], pa.large_string()), ["é", None, "3.0"]),
        (pa.array([b"x", None, b"y"], pa.binary(1)), ["x", None, "y"]),
        (pa.array([7.0, None, 8.0]).dictionary_encode(), ["7", None, "8"]),
        (pa.array([True, None, True]).dictionary_encode(), ["true", None, "true"]),
        (pa.nulls(3), [None, None, None]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_categories_of_every_type(tmp_path, read_log, column, texts):
    reading = read_log(parquet(tmp_path, label=[1, 0, 1], a=column))
    assert reading.rows["a"] == texts
    assert reading.errors.count == 0


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list, lambda item: pa.list_(item, 2)])
@pytest.mark.parametrize(
    ("items", "item_type", "texts"),
    [
        ([3, 4], pa.int64(), ["3", "4"]),
        ([3.0, None], pa.float64(), ["3", None]),
        (["x", "y"], pa.large_string(), ["x", "y"]),
        ([True, False], pa.bool_(), ["true", "false"]),
        ([Decimal("3.0"), Decimal("4.0")], pa.decimal128(10, 1), ["3", "4"]),
        (["x", "x"], pa.dictionary(pa.int32(), pa.string()), ["x", "x"]),
    ],
)
def test_lists_of_every_kind_and_type(tmp_path, read_log, kind, items, item_type, texts):
    if pa.types.is_dictionary(item_type) and pa.types.is_fixed_size_list(kind(item_type)):
        item_type = pa.string()  # pyarrow writes no dictionaries in lists of a fixed size
    column = pa.array([None, items, items], kind(item_type))
    reading = read_log(parquet(tmp_path, label=[1, 0, 1], a=column))
    assert reading.rows["a"] == [None, texts, texts]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([3.0, 0.5, 4.0]),
        pa.array([3.0, float("inf"), 4.0]),
        pa.array([3.0, 2.0**53, 4.0]),
        pa.array([Decimal("3.00"), Decimal("0.10"), Decimal("4.00")], pa.decimal128(10, 2)),
        pa.array([[3.0], [1.0, 0.5], [4.0]]),
    ],
    ids=str,
)
def test_a_number_that_is_no_category_refuses_its_row(tmp_path, read_log, column):
    reading = read_log(parquet(tmp_path, label=[1, 0, 1], a=column))
    assert reading.rows["a"] in (["3", "4"], [["3"], ["4"]])
    [(row, detail)] = reading.refused
    assert row == 2
    assert "categorical field 'a' holds the number" in detail


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([datetime(2024, 1, 1)]), "column 'a' is timestamp"),
        (pa.array([time(1, 2)]), "column 'a' is time64"),
        (pa.array([[datetime(2024, 1, 1)]]), "column 'a' is timestamp"),
        (pa.array([{"x": 1}]), "column 'a' is struct"),
        (pa.array([[[1]]]), "column 'a' is list"),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), "column 'a' is map"),
    ],
    ids=str,
)
def test_types_that_no_field_takes_are_named(tmp_path, read_log, column, message):
    with pytest.raises(LogFormatError, match=message):
        read_log(parquet(tmp_path, label=[1], a=column))


@pytest.mark.parametrize(
    "kind",
    [
        pa.bool_(),
        pa.int8(),
        pa.uint64(),
        pa.float16(),
        pa.float32(),
        pa.float64(),
        pa.decimal128(21, 2),
        pa.string(),
    ],
    ids=str,
)
def test_a_label_of_any_type_is_a_number_equal_to_0_or_1(tmp_path, read_log, kind):
    label = pa.array([1, 0, None]).cast(pa.float64() if pa.types.is_floating(kind) else pa.int64())
    label = label.cast(pa.float32()).cast(kind) if kind == pa.float16() else label.cast(kind)
    reading = read_log(parquet(tmp_path, label=label, a=["x", "y", "z"]))
    assert reading.rows["label"] == [1, 0]
    assert reading.refused == [(3, "the label is missing")]


def test_a_label_column_of_lists_is_named(tmp_path, read_log):
    with pytest.raises(LogFormatError, match="the label column 'label' holds lists"):
        read_log(parquet(tmp_path, label=[[1]], a=["x"]))


def test_a_float32_is_the_number_that_requests_send(tmp_path, read_log):
    schema = FeatureSchema(
        fields=(Field(name="a", kind="numeric", bucketing=Bucketing(kind="edges", edges=(0.7,))),)
    )
    reading = read_log(parquet(tmp_path, label=[1, 0], a=pa.array([0.7, None], pa.float32())), schema)
    assert reading.rows["a"] == [str(float(np.float32(0.7))), None]


def test_a_boolean_is_no_number(tmp_path, read_log):
    schema = FeatureSchema(fields=(Field(name="a", kind="numeric", bucketing=Bucketing(kind="log_squared")),))
    with pytest.raises(LogFormatError, match="declare it categorical"):
        read_log(parquet(tmp_path, label=[1], a=[True]), schema)


def test_a_damaged_file_is_named_whatever_byte_is_wrong(tmp_path, read_log):
    path = tmp_path / "train.parquet"
    table = pa.table(
        {"label": [0, 1] * 50, "a": [f"u{n}" for n in range(100)], "b": [[n] for n in range(100)]}
    )
    pq.write_table(table, path, compression="snappy")
    whole = path.read_bytes()
    problems = []
    for place in range(4, len(whole), 29):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            list(ParquetLog(path).batches(ParquetLog(path).infer_schema(), ParseErrors()))
        except SlimctrError as error:
            problems.append(str(error))
    assert problems
    assert all(str(path) in problem for problem in problems)
