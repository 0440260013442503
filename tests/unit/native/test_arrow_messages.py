"""The kernels that read the frame of an Arrow stream, against the same rules in Python."""

import random
import struct

import numpy as np
import pyarrow as pa
import pytest
from arrow_streams import stream, table_of
from artifacts import raw_rows

from slimctr.features.flatbuffer import INT16, INT64, UINT8, UINT32, Table
from slimctr.native import arrow_messages as frame
from slimctr.native.arrow_messages import BatchLayout, Message, find_messages

MAX_LENGTH = 2**48
ODD = [-(2**63), -1, 2**63 - 1, 2**48, 2**48 + 1, 50, 51]
PLAIN = table_of(raw_rows(20))
CODED = PLAIN.set_column(0, "user", PLAIN["user"].combine_chunks().dictionary_encode())
STREAMS = [stream(PLAIN), stream(PLAIN, 3, request_id="r1"), stream(CODED, 8), stream(PLAIN.slice(0, 0))]
END = struct.pack("<Ii", 0xFFFFFFFF, 0)
FIRST = 8 + struct.unpack_from("<i", STREAMS[0], 4)[0]


def messages_in_python(data: bytes) -> list[Message]:
    found, at = [], 0
    while length := struct.unpack_from("<i", data, at + 4)[0]:
        at += 8
        metadata = data[at : at + length]
        root = Table(metadata, UINT32.unpack_from(metadata)[0])
        assert root.scalar(0, INT16) == 4
        header, kind = root.child(2), root.scalar(1, UINT8)
        numbers = dict.fromkeys(Message._fields, 0) | {
            "kind": kind,
            "metadata_at": at,
            "metadata_bytes": length,
            "header_at": header.at,
            "body_at": at + length,
            "body_bytes": root.scalar(3, INT64),
        }
        if kind in (2, 3):
            batch = header if kind == 3 else header.child(1)
            for name, slot in (("nodes", 1), ("buffers", 2)):
                start, numbers[name] = batch.vector(slot, 16)
                numbers[f"{name}_at"] = at + start
            numbers["length"] = batch.scalar(0, INT64)
            numbers["is_compressed"] = int(batch.place(3) > 0)
        if kind == 2:
            numbers["dictionary"], numbers["is_delta"] = header.scalar(0, INT64), header.scalar(2, UINT8)
        found.append(Message(**numbers))
        at += length + numbers["body_bytes"]
    return found


@pytest.mark.parametrize("data", STREAMS)
def test_messages_are_those_that_python_finds(data: bytes) -> None:
    expected = messages_in_python(data)
    assert find_messages(data, len(expected)) == (0, len(data), expected)
    fault, at, found = find_messages(data, len(expected) - 1)
    assert (fault, at, found) == (frame.MANY, expected[-1].metadata_at - 8, [])


@pytest.mark.parametrize(
    ("data", "fault", "at"),
    [
        (b"", frame.NO_END, 0),
        (END[:7], frame.NO_END, 0),
        (b"ARROW1\0\0", frame.NO_MESSAGE, 0),
        (END + b"\0", frame.BEHIND_END, 8),
        (struct.pack("<Ii", 0xFFFFFFFF, -8), frame.PASSES_END, 0),
        (struct.pack("<Ii", 0xFFFFFFFF, 8) + bytes(7), frame.PASSES_END, 0),
        (struct.pack("<Ii", 0xFFFFFFFF, 4) + bytes(4) + END, frame.VERSION, 0),
        (struct.pack("<Ii", 0xFFFFFFFF, 8) + b"\xff" * 8 + END, frame.BROKEN, 0),
        (STREAMS[0][: FIRST + 4], frame.NO_END, FIRST),
        (STREAMS[0][: -len(END) - 1], frame.BODY_PASSES_END, FIRST),
    ],
)
def test_faults_are_named_with_the_byte_of_their_message(data: bytes, fault: int, at: int) -> None:
    assert find_messages(data, 10) == (fault, at, [])


@pytest.mark.parametrize("data", STREAMS)
def test_whatever_is_found_lies_in_the_stream(data: bytes) -> None:
    draw = random.Random(0)
    intact = 0
    for _ in range(4000):
        broken = bytearray(data)
        for _ in range(draw.randint(1, 3)):
            broken[draw.randrange(len(broken))] = draw.choice([0, 1, 4, 127, 128, 255])
        fault, at, found = find_messages(bytes(broken), 100)
        assert 0 <= at <= len(data)
        assert not (fault and found)
        intact += fault == 0
        for message in found:
            assert (
                0
                <= message.metadata_at
                <= message.body_at
                <= message.body_at + message.body_bytes
                <= len(data)
            )
            for start, count in (message[7:9], message[9:11]):
                assert count == 0 or message.metadata_at <= start <= message.body_at - 16 * count
    assert 100 < intact < 3900


def batch_of(
    nodes: np.ndarray, buffers: np.ndarray, before: bytes, body_bytes: int, length: int
) -> tuple[bytes, Message]:
    """Return bytes that hold the numbers of a batch and its body, and where."""
    numbers = before + nodes.astype("<i8").tobytes() + buffers.astype("<i8").tobytes()
    places = dict.fromkeys(Message._fields, 0) | {
        "body_at": len(numbers),
        "body_bytes": body_bytes,
        "length": length,
        "nodes_at": len(before),
        "nodes": len(nodes),
        "buffers_at": len(before) + nodes.nbytes,
        "buffers": len(buffers),
    }
    return numbers + bytes(body_bytes), Message(**places)


def expected_fault(nodes: np.ndarray, buffers: np.ndarray, body_bytes: int) -> int:
    if any(not 0 <= number <= MAX_LENGTH for number in nodes.ravel().tolist()):
        return frame.LONG
    fits = (at >= 0 and size >= 0 and at + size <= body_bytes for at, size in buffers.tolist())
    return 0 if all(fits) else frame.OUTSIDE


@pytest.mark.parametrize("seed", range(200))
def test_places_are_those_of_the_metadata_and_faults_are_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    nodes = rng.integers(0, 26, (rng.integers(0, 5), 2))
    buffers = rng.integers(0, 26, (rng.integers(0, 5), 2))
    for numbers in (nodes, buffers):
        if numbers.size and rng.random() < 0.3:
            numbers[rng.integers(len(numbers)), rng.integers(2)] = rng.choice(ODD)
    data, message = batch_of(nodes, buffers, rng.bytes(int(rng.integers(0, 9))), 50, 5)
    fault, found, places = BatchLayout([], [], len(nodes), len(buffers)).places(data, message, MAX_LENGTH)
    assert fault == expected_fault(nodes, buffers, 50)
    if fault == 0:
        assert np.array_equal(found, nodes)
        moved = buffers + np.array([message.body_at, 0])
        assert np.array_equal(places, np.vstack([moved, np.zeros((1, 2), int)]))


def test_a_batch_has_nodes_of_one_length_and_lists_of_its_missing_cells() -> None:
    layout = BatchLayout([0, 2], [(0, 1), (1, 0)], 3, 2)
    buffers = np.array([[5, 0], [5, 2]])

    def fault(nodes: list[list[int]], length: int) -> int:
        return layout.places(*batch_of(np.array(nodes), buffers, b"", 10, length), MAX_LENGTH)[0]

    assert fault([[4, 1], [9, 0], [4, 7]], 4) == 0
    assert fault([[4, 1], [9, 0], [4, 7]], 5) == frame.UNEQUAL
    assert fault([[4, 1], [9, 0], [3, 7]], 4) == frame.UNEQUAL
    assert fault([[4, 1], [9, 1], [4, 7]], 4) == frame.UNLISTED
    assert fault([[4, 1], [9, 0], [4, 7]], -1) == frame.LONG


def test_what_does_not_fit_is_refused() -> None:
    data, message = batch_of(np.zeros((3, 2), int), np.zeros((2, 2), int), b"", 10, 0)
    with pytest.raises(ValueError, match="3 nodes and 2 buffers"):
        BatchLayout([], [], 2, 2).places(data, message, MAX_LENGTH)
    layout = BatchLayout([], [], 3, 2)
    for change in ({"nodes_at": -1}, {"buffers_at": len(data)}, {"body_at": 2**62}, {"body_bytes": 11}):
        with pytest.raises(ValueError, match="does not lie"):
            layout.places(data, message._replace(**change), MAX_LENGTH)
    with pytest.raises(ValueError, match="not within"):
        BatchLayout([0, 3], [], 3, 2)
    with pytest.raises(ValueError, match="not within"):
        BatchLayout([0], [(0, 2)], 3, 2)


def test_a_dictionary_says_its_number_and_whether_it_adds_to_another() -> None:
    first = pa.array(["a1"]).dictionary_encode()
    second = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int32()), pa.array(["a1", "a2"]))
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    with pa.ipc.new_stream(sink, pa.schema([("ad", first.type)]), options=options) as writer:
        for array in (first, second):
            writer.write_batch(pa.record_batch([array], names=["ad"]))
    _, _, found = find_messages(sink.getvalue().to_pybytes(), 10)
    assert [(m.kind, m.is_delta) for m in found] == [(1, 0), (2, 0), (3, 0), (2, 1), (3, 0)]
    assert found[1].dictionary == found[3].dictionary
