"""No Arrow stream, however broken, ends in anything but an answer or a refusal."""

import random
import struct

import numpy as np
import pyarrow as pa
import pytest
from arrow_streams import stream, table_of
from artifacts import SCHEMA, VALUES, raw_rows

from service.errors import InvalidInput, TooLarge
from service.wire import arrow, forms
from slimctr.errors import ArrowError
from slimctr.features import Encoder, Vocabulary

ENCODER = Encoder(SCHEMA, Vocabulary.build(SCHEMA, VALUES))
MAX_ROWS = 100
PLAIN = table_of(raw_rows(20))
COMPACT = pa.table(
    {
        "user": PLAIN["user"].combine_chunks().dictionary_encode(),
        "ad": PLAIN["ad"].cast(pa.large_string()),
        "price": pa.array([None, 1.5] * 10).dictionary_encode(),
        "site": pa.array(range(20), pa.int16()),
        "tags": PLAIN["tags"].cast(pa.large_list(pa.string())),
    }
)
LONG = "a text of more than twelve bytes"
VIEWS = pa.table(
    {
        "user": pa.array(["short", None, LONG, "u1"], pa.string_view()),
        "ad": pa.array([b"a1", b"a2", LONG.encode(), b"a3"], pa.binary_view()),
        "site": pa.DictionaryArray.from_arrays(
            pa.array([0, 1, None, 0], pa.int8()), pa.array([LONG, "s"], pa.string_view())
        ),
        "tags": pa.array([["red", LONG], [], None, [LONG, "blue"]], pa.list_(pa.string_view())),
    }
)
STREAMS = {
    "plain": stream(PLAIN, 8, request_id="r1"),
    "compact": stream(COMPACT, 8, unit_id="u1"),
    "views": stream(VIEWS, 2),
}


def ask(body: bytes) -> bool:
    """Return whether the body was scored up to its ids; whatever refuses it is one of the errors that callers see."""
    try:
        batch = forms.encode(arrow.read_predict(body, MAX_ROWS).form, ENCODER)
    except (ArrowError, InvalidInput, TooLarge):
        return False
    rows = ENCODER.vocabulary.rows_per_field
    for column, position in enumerate(SCHEMA.single):
        assert ((batch.ids[:, column] >= 0) & (batch.ids[:, column] < rows[position])).all()
    for bag, position in zip(batch.bags, SCHEMA.multi, strict=True):
        assert ((bag.values >= 0) & (bag.values < rows[position])).all()
    return True


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes(name: str, seed: int) -> None:
    body = STREAMS[name]
    assert ask(body)
    draw = random.Random(seed)
    for _ in range(1500):
        broken = bytearray(body)
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(broken))
            broken[place] = draw.choice([0, 1, 127, 128, 255, draw.randrange(256)])
        ask(bytes(broken))


@pytest.mark.parametrize("name", STREAMS)
def test_extreme_numbers_at_every_place(name: str) -> None:
    body = STREAMS[name]
    for place in range(0, len(body) - 8, 4):
        for number in (-(2**63), -1, 2**31, 2**62, 2**63 - 1):
            ask(body[:place] + struct.pack("<q", number) + body[place + 8 :])
        ask(body[:place] + struct.pack("<i", 2**31 - 1) + body[place + 4 :])


@pytest.mark.parametrize("name", STREAMS)
def test_a_truncated_stream_is_refused_at_every_length(name: str) -> None:
    body = STREAMS[name]
    for length in range(len(body)):
        with pytest.raises(ArrowError):
            arrow.read_predict(body[:length], MAX_ROWS)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "truncated"),
        (b"ARROW1\0\0" + STREAMS["plain"], "files are not read"),
        (STREAMS["plain"] + b"\0" * 8, "behind the end"),
        (STREAMS["plain"][:-8] + STREAMS["plain"], "one only"),
        (struct.pack("<Ii", 0xFFFFFFFF, 0), "no schema"),
        (struct.pack("<Ii", 0xFFFFFFFF, -8), "truncated"),
        (struct.pack("<Ii", 0xFFFFFFFF, 2**31 - 1), "truncated"),
        (b'{"instances": [{}]}', "no message"),
    ],
)
def test_what_is_no_stream_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(ArrowError, match=words):
        arrow.read_predict(body, MAX_ROWS)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_buffers_are_refused(codec: str) -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, PLAIN.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_table(PLAIN)
    with pytest.raises(ArrowError, match="Content-Encoding"):
        arrow.read_predict(sink.getvalue().to_pybytes(), MAX_ROWS)


def test_dictionary_deltas_are_refused() -> None:
    first = pa.array(["a1"]).dictionary_encode()
    second = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int32()), pa.array(["a1", "a2"]))
    schema = pa.schema([("ad", first.type)])
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    with pa.ipc.new_stream(sink, schema, options=options) as writer:
        for array in (first, second):
            writer.write_batch(pa.record_batch([array], schema))
    with pytest.raises(ArrowError, match="deltas"):
        arrow.read_predict(sink.getvalue().to_pybytes(), MAX_ROWS)


def test_two_columns_of_one_name_are_refused() -> None:
    table = pa.Table.from_arrays([pa.array(["a1"]), pa.array(["a2"])], names=["ad", "ad"])
    with pytest.raises(ArrowError, match="two columns 'ad'"):
        arrow.read_predict(stream(table), MAX_ROWS)


def test_rows_are_limited_before_they_are_read() -> None:
    with pytest.raises(TooLarge, match="101 rows"):
        arrow.read_predict(stream(pa.table({"ad": ["a1"] * 101})), MAX_ROWS)


def test_views_are_read_as_text_is() -> None:
    rows = [{**row, "ad": row["ad"].decode()} for row in VIEWS.to_pylist()]
    found, expected = (
        forms.encode(arrow.read_predict(stream(table, 3), MAX_ROWS).form, ENCODER)
        for table in (VIEWS, table_of(rows))
    )
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.bags[0].values, expected.bags[0].values)
    np.testing.assert_array_equal(found.bags[0].offsets, expected.bags[0].offsets)
    np.testing.assert_array_equal(found.missing, expected.missing)


TEXT = LONG.encode()
ONE_VIEW = stream(pa.table({"ad": pa.array([LONG], pa.string_view())}))


@pytest.mark.parametrize(
    "view",
    [
        struct.pack("<i4sii", -1, TEXT[:4], 0, 0),
        struct.pack("<i4sii", -(2**31), TEXT[:4], 0, 0),
        struct.pack("<i4sii", len(TEXT), TEXT[:4], 1, 0),
        struct.pack("<i4sii", len(TEXT), TEXT[:4], -1, 0),
        struct.pack("<i4sii", len(TEXT), TEXT[:4], 2**31 - 1, 0),
        struct.pack("<i4sii", len(TEXT), TEXT[:4], 0, 1),
        struct.pack("<i4sii", len(TEXT), TEXT[:4], 0, -1),
        struct.pack("<i4sii", len(TEXT), TEXT[:4], 0, 2**31 - 1),
        struct.pack("<i4sii", len(TEXT) + 1, TEXT[:4], 0, 0),
        struct.pack("<i4sii", 2**31 - 1, TEXT[:4], 0, 0),
    ],
)
def test_a_view_that_leads_to_no_text_is_refused(view: bytes) -> None:
    good = struct.pack("<i4sii", len(TEXT), TEXT[:4], 0, 0)
    assert ONE_VIEW.count(good) == 1
    assert ask(ONE_VIEW)
    with pytest.raises(ArrowError, match="view"):
        forms.encode(arrow.read_predict(ONE_VIEW.replace(good, view), MAX_ROWS).form, ENCODER)


def test_a_view_of_other_bytes_than_utf8_is_refused() -> None:
    for value in (b"\xff", b"\xff" * 40, "ü".encode()[:1] + b"x" * 20):
        body = stream(pa.table({"ad": pa.array([value], pa.binary_view())}))
        with pytest.raises(InvalidInput, match="UTF-8"):
            forms.encode(arrow.read_predict(body, MAX_ROWS).form, ENCODER)


@pytest.mark.parametrize("count", [-1, 0, 2, 3, 2**31, 2**62, -(2**63)])
def test_the_number_of_text_buffers_must_be_what_the_batch_has(count: int) -> None:
    """The vector of one count, 1, which the batch of one column has."""
    vector = struct.pack("<Iq", 1, 1)
    places = [place for place in range(len(ONE_VIEW)) if ONE_VIEW.startswith(vector, place)]
    refused = 0
    for place in places:
        broken = ONE_VIEW[:place] + struct.pack("<Iq", 1, count) + ONE_VIEW[place + len(vector) :]
        refused += not ask(broken)
    assert refused >= 1
