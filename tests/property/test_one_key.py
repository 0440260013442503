"""A value has one key, whatever file, type or request carries it."""

import csv
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from arrow_streams import stream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.wire import arrow as arrow_wire
from service.wire import forms, v1
from slimctr.clicklogs.counting import KeyCounter
from slimctr.clicklogs.encoding import encode_batch, field_keys
from slimctr.clicklogs.parse_errors import ParseErrors
from slimctr.clicklogs.tabular import CsvLog, ParquetLog
from slimctr.features import Encoder, FeatureSchema, TextColumn, Vocabulary, key_of_text
from slimctr.features.columns import MAX_INTEGER

SCHEMA = FeatureSchema.parse(
    {
        "fields": [
            {"name": "f", "kind": "categorical"},
            {"name": "h", "kind": "categorical", "hash_rows": 1_000_003},
            {"name": "bag", "kind": "categorical", "multivalued": True},
        ]
    }
)
SMALL = 2**24
relaxed = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
integers = st.one_of(st.integers(-MAX_INTEGER, MAX_INTEGER), st.integers(-20, 1000).map(lambda n: n * 10))
words = st.one_of(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8),
    st.from_regex(r"\A-?[0-9]{1,3}(\.[0-9]{0,3})?\Z"),
    st.sampled_from(
        ["007", "3.10", "3.0", "3.00", "1e5", "-0", "-0.0", "0.0", "00.0", ".0", "1.", "-.0", "10", "3.0 "]
    ),
    st.sampled_from(["True", "TRUE", "true", "tRUE", "False", "FALSE", "false", "T", "Falsy", "\u0663.0"]),
)


def csv_log(path: Path, cells: list[str], name: str = "log.csv") -> CsvLog:
    with (path / name).open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if ".tsv" in name else ",")
        writer.writerows([("label", "f", "h", "bag"), *((1, cell, cell, cell) for cell in cells)])
    return CsvLog(path / name)


def parquet_log(path: Path, column: pa.Array) -> ParquetLog:
    bag = pa.array([[cell] for cell in column.to_pylist()], pa.list_(column.type))
    table = pa.table({"label": [1] * len(column), "f": column, "h": column, "bag": bag})
    pq.write_table(table, path / "log.parquet")
    return ParquetLog(path / "log.parquet")


def ids_of_log(log: CsvLog | ParquetLog, encoder: Encoder) -> list[list[int]]:
    errors = ParseErrors()
    batches = [encode_batch(batch, encoder) for batch in log.batches(SCHEMA, errors)]
    assert errors.count == 0
    return [row for batch in batches for row in ids_of(batch)]


def listed(log: CsvLog | ParquetLog) -> list[str]:
    counter = KeyCounter("f")
    for batch in log.batches(SCHEMA, ParseErrors()):
        counter.add(field_keys(batch.column("f"), SCHEMA.fields[0]))
    return sorted(counter.listed(1).to_pylist())


def encoder_of(keys: list[str]) -> Encoder:
    return Encoder(SCHEMA, Vocabulary.build(SCHEMA, {"f": keys, "bag": keys}))


def requests(values: list[Any]) -> dict[str, Callable[[Encoder], Any]]:
    """Return every form of a request that sends these values in all three fields."""
    rows = [{"f": value, "h": value, "bag": [value]} for value in values]
    columns = {name: [row[name] for row in rows] for name in ("f", "h", "bag")}

    def body(document: dict[str, Any]) -> Callable[[Encoder], Any]:
        form = v1.read_predict(json.dumps(document).encode(), 1000).form
        return lambda encoder: forms.encode(form, encoder)

    return {
        "python": lambda encoder: encoder.encode_rows(rows),
        "rows": body({"instances": rows}),
        "columns": body({"columns": columns}),
        "slate": body({"context": {}, "candidates": rows}),
    }


def arrow_request(column: pa.Array) -> Callable[[Encoder], Any]:
    bag = pa.array([[cell] for cell in column.to_pylist()], pa.list_(column.type))
    form = arrow_wire.read_predict(stream(pa.table({"f": column, "h": column, "bag": bag})), 1000).form
    return lambda encoder: forms.encode(form, encoder)


def ids_of(batch: Any) -> list[list[int]]:
    return [[*ids, int(bag)] for ids, bag in zip(batch.ids.tolist(), batch.bags[0].values, strict=True)]


@given(st.lists(integers, min_size=1, max_size=8, unique=True))
@relaxed
def test_a_whole_number_is_one_key(tmp_path, numbers):
    texts = [str(number) for number in numbers]
    floats = pa.array(numbers, pa.float64())
    logs = [
        csv_log(tmp_path, texts),
        csv_log(tmp_path, [f"{number}.0" for number in numbers], "floats.csv"),
        csv_log(tmp_path, [f"{number}.000" for number in numbers], "floats.tsv"),
        parquet_log(tmp_path, pa.array(numbers, pa.int64())),
    ]
    assert [listed(log) for log in logs] == [sorted(texts)] * len(logs)
    encoder = encoder_of(texts)
    expected = ids_of_log(logs[0], encoder)
    assert [row[0] for row in expected] == list(range(1, len(numbers) + 1))
    for log in logs[1:]:
        assert ids_of_log(log, encoder) == expected
    columns = [
        *(floats, floats.dictionary_encode(), pa.array([Decimal(n) for n in numbers], pa.decimal128(20, 2))),
        *(pa.array(texts), pa.array(texts, pa.large_string()), pa.array([f"{text}.0" for text in texts])),
    ]
    if max(map(abs, numbers)) <= SMALL:
        columns.append(pa.array(numbers, pa.float32()))
    for column in columns:
        assert listed(parquet_log(tmp_path, column)) == sorted(texts), column.type
        assert ids_of_log(ParquetLog(tmp_path / "log.parquet"), encoder) == expected, column.type
        if not pa.types.is_decimal(column.type):
            assert ids_of(arrow_request(column)(encoder)) == expected, column.type
    for values in (numbers, texts, [float(number) for number in numbers], [f"{text}.0" for text in texts]):
        for name, request in requests(values).items():
            assert ids_of(request(encoder)) == expected, (name, values)
    for array in (np.array(numbers), np.array(numbers, np.float64)):
        assert encoder.encode_columns({"f": array}).ids[:, 0].tolist() == [row[0] for row in expected]


@given(st.lists(words, min_size=1, max_size=8))
@relaxed
def test_a_text_is_one_key(tmp_path, cells):
    keys = sorted({key_of_text(cell) for cell in cells})
    encoder = encoder_of(keys)
    places = {key: row for row, key in enumerate(keys, 1)}
    column = pa.array(cells, pa.string())
    assert listed(parquet_log(tmp_path, column)) == keys
    expected = ids_of_log(ParquetLog(tmp_path / "log.parquet"), encoder)
    assert [row[0] for row in expected] == [places[key_of_text(cell)] for cell in cells]
    assert [row[2] for row in expected] == [row[0] for row in expected]
    for request in (
        *requests(cells).values(),
        arrow_request(column),
        arrow_request(column.cast(pa.string_view())),
        arrow_request(column.dictionary_encode()),
    ):
        assert ids_of(request(encoder)) == expected
    if "|" not in "".join(cells):
        for name in ("log.csv", "log.tsv") if '"' not in "".join(cells) else ("log.csv",):
            assert ids_of_log(csv_log(tmp_path, cells, name), encoder) == expected


@given(st.lists(words, max_size=8), st.integers(0, 5), st.integers(0, 5))
@relaxed
def test_the_kernels_and_the_counter_follow_the_rule(cells, before, behind):
    keys = sorted({key_of_text(cell) for cell in cells})
    counter = KeyCounter("f")
    counter.add(pa.array(cells, pa.string()))
    assert sorted(counter.listed(1).to_pylist()) == keys
    data = b"0" * before + "".join(cells).encode() + b"0" * behind
    lengths = [len(cell.encode()) for cell in cells]
    offsets = np.concatenate([[before], before + np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    column = TextColumn(np.frombuffer(data, np.uint8), offsets)
    places = {key: row for row, key in enumerate(keys, 1)}
    found = encoder_of(keys).encode_columns({"f": column}).ids[:, 0].tolist()
    assert found == [places[key_of_text(cell)] for cell in cells]


@pytest.mark.parametrize("spelling", [("True", "False"), ("TRUE", "FALSE"), ("true", "false")])
def test_a_boolean_is_one_key(tmp_path, spelling):
    encoder = encoder_of(["true", "false"])
    values = [True, False, True]
    texts = [spelling[not value] for value in values]
    column = pa.array(values)
    expected = ids_of_log(parquet_log(tmp_path, column), encoder)
    assert [row[0] for row in expected] == [1, 2, 1]
    assert listed(csv_log(tmp_path, texts)) == ["false", "true"]
    assert ids_of_log(csv_log(tmp_path, texts), encoder) == expected
    for request in (
        *requests(values).values(),
        *requests(texts).values(),
        arrow_request(column),
        arrow_request(pa.array(texts)),
    ):
        assert ids_of(request(encoder)) == expected
    assert encoder.encode_columns({"f": np.array(values)}).ids[:, 0].tolist() == [1, 2, 1]


@pytest.mark.parametrize("number", [0.1, 2.5, -0.5, 2.0**53, 1e300])
def test_a_number_that_is_no_category_is_refused_everywhere(tmp_path, number):
    from slimctr.errors import BadValue, SlimctrError

    errors = ParseErrors()
    log = parquet_log(tmp_path, pa.array([number]))
    assert sum(batch.num_rows for batch in log.batches(SCHEMA, errors)) == 0
    assert errors.count == 1
    encoder = encoder_of(["1"])
    with pytest.raises(BadValue):
        encoder.encode_rows([{"f": number}])
    for request in (*list(requests([number]).values())[1:], arrow_request(pa.array([number]))):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            request(encoder)
        assert isinstance(caught.value, SlimctrError) or "faults" in vars(caught.value)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused_in_arrow_requests(number):
    with pytest.raises(Exception, match=r"NaN or an infinity|faults"):
        arrow_request(pa.array([number]))(encoder_of(["1"]))
