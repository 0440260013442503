"""Every tensor file that the strict reader refuses, one per refusal, made byte by byte."""

import json
import os
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file

from model_store import strict_json
from model_store.errors import IntegrityError
from model_store.tensors import MAX_HEADER_BYTES, map_tensors, write_tensors


def entry(dtype="U8", shape=(4,), offsets=(0, 4), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


def file_of(header, data=b"\1\2\3\4", header_bytes=None):
    """Return the bytes of a file with this header, a dict or raw bytes, padded as writers pad it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text) if header_bytes is None else header_bytes) + text + data


GOOD = {"t": entry()}

REFUSED = {
    "empty": (b"", "too few"),
    "nine bytes": (b"\1" + b"\0" * 8, "too few"),
    "huge header": (file_of(GOOD, header_bytes=MAX_HEADER_BYTES + 1), "exceeds"),
    "header past the end": (file_of(GOOD, header_bytes=4000), "truncated"),
    "leading space": (file_of(b" " + json.dumps(GOOD).encode()), "does not start"),
    "not JSON": (file_of(b'{"t": }'), "header"),
    "two documents": (file_of(b"{}{}", b""), "header"),
    "not UTF-8": (file_of(b'{"\xff": 1}'), "header"),
    "nested deeply": (file_of(b'{"t": ' + b"[" * 100_000), "nested"),
    "duplicate tensor": (
        file_of(b'{"t": %b, "t": %b}' % ((json.dumps(entry()).encode(),) * 2)),
        "appears twice",
    ),
    "duplicate key": (
        file_of(b'{"t": {"dtype": "U8", "dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}'),
        "appears twice",
    ),
    "NaN": (file_of(b'{"t": {"dtype": "U8", "shape": [NaN], "data_offsets": [0, 4]}}'), "NaN"),
    "metadata": (file_of({"__metadata__": {"a": "b"}, **GOOD}), "not allowed"),
    "empty name": (file_of({"": entry()}), "not allowed"),
    "entry is a list": (file_of({"t": [1]}), "needs exactly"),
    "missing key": (file_of({"t": {"dtype": "U8", "shape": [4]}}), "needs exactly"),
    "extra key": (file_of({"t": entry(note="x")}), "needs exactly"),
    "unknown dtype": (file_of({"t": entry("BF16", (2,))}), "dtype"),
    "dtype is no string": (file_of({"t": entry(["U8"])}), "dtype"),
    "negative size": (file_of({"t": entry(shape=(-4,))}), "shape"),
    "fractional size": (file_of({"t": entry(shape=(4.0,))}), "shape"),
    "boolean size": (file_of({"t": entry(shape=(True, 4))}), "shape"),
    "five axes": (file_of({"t": entry(shape=(1, 1, 1, 1, 4))}), "shape"),
    "negative offset": (file_of({"t": entry(offsets=(-4, 0))}), "data_offsets"),
    "three offsets": (file_of({"t": entry(offsets=(0, 2, 4))}), "data_offsets"),
    "reversed offsets": (file_of({"t": entry(offsets=(4, 0))}), "outside"),
    "offset past the end": (file_of({"t": entry(shape=(5,), offsets=(0, 5))}), "outside"),
    "offset of 2^80": (file_of({"t": entry(shape=(2**80,), offsets=(0, 2**80))}), "outside"),
    "shape too small": (file_of({"t": entry(shape=(3,))}), "does not fill"),
    "shape too large": (file_of({"t": entry(shape=(2**40, 2**40))}), "does not fill"),
    "no array has this shape": (file_of({"t": entry(shape=(0, 2**62, 4), offsets=(0, 0))}, b""), "too large"),
    "no integer is this size": (file_of({"t": entry(shape=(0, 2**70), offsets=(0, 0))}, b""), "too large"),
    "misaligned": (
        file_of({"a": entry(shape=(2,), offsets=(0, 2)), "t": entry("F32", (1,), (2, 6))}, b"\0" * 6),
        "multiple of its item size",
    ),
    "gap": (
        file_of({"a": entry(shape=(1,), offsets=(0, 1)), "b": entry(shape=(1,), offsets=(3, 4))}),
        "gap",
    ),
    "gap at the start": (file_of({"t": entry(shape=(2,), offsets=(2, 4))}), "gap"),
    "overlap": (
        file_of({"a": entry(shape=(3,), offsets=(0, 3)), "b": entry(shape=(2,), offsets=(2, 4))}),
        "overlaps",
    ),
    "bytes after the last tensor": (file_of(GOOD, b"\0" * 5), "follow"),
    "bytes without tensors": (file_of({}), "follow"),
    "truncated data": (file_of(GOOD, b"\0" * 3), "outside"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path):
    data, reason = REFUSED[name]
    path = tmp_path / "t.safetensors"
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=reason):
        map_tensors(path)


def test_the_same_writer_makes_an_accepted_file(tmp_path):
    path = tmp_path / "t.safetensors"
    path.write_bytes(file_of(GOOD))
    assert map_tensors(path)["t"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["absent", "link", "folder", "pipe"])
def test_only_regular_files_are_opened(kind, tmp_path):
    real = tmp_path / "real.safetensors"
    write_tensors(real, {"t": np.zeros(4, np.uint8)})
    path = tmp_path / "t.safetensors"
    if kind == "link":
        path.symlink_to(real)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(IntegrityError, match="regular file"):
        map_tensors(path)


def test_round_trip_of_every_dtype(tmp_path):
    rng = np.random.default_rng(1)
    tensors = {
        f"{kind}{size}": rng.integers(0, 100, (3, 5)).astype(f"{kind}{size}")
        for kind, sizes in {"u": (1, 2, 4, 8), "i": (1, 2, 4, 8), "f": (2, 4, 8)}.items()
        for size in sizes
    }
    tensors |= {
        "empty": np.zeros((0, 7), np.float32),
        "scalar": np.array(3, np.int64),
        "transposed": rng.normal(size=(4, 3)).T,
    }
    path = tmp_path / "t.safetensors"
    write_tensors(path, tensors)
    mapped = map_tensors(path)
    assert mapped.keys() == tensors.keys()
    theirs = load_file(path)
    for name, tensor in tensors.items():
        assert mapped[name].dtype == tensor.dtype
        np.testing.assert_array_equal(mapped[name], tensor)
        np.testing.assert_array_equal(mapped[name], theirs[name])
        assert not mapped[name].flags.writeable
        assert mapped[name].ctypes.data % tensor.itemsize == 0


def test_tensors_share_the_page_cache_of_the_file(tmp_path):
    path = tmp_path / "t.safetensors"
    write_tensors(path, {"t": np.arange(5000, dtype=np.int32)})
    first, second = map_tensors(path)["t"], map_tensors(path)["t"]
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(struct.pack("<i", -7))
    assert (first[-1], second[-1]) == (-7, -7)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"t": np.zeros(2, bool)}, "dtype"),
        ({"t": np.zeros(2, ">f4")}, "dtype"),
        ({"": np.zeros(2, np.uint8)}, "not a tensor name"),
        ({"__metadata__": np.zeros(2, np.uint8)}, "not a tensor name"),
    ],
)
def test_what_the_reader_would_refuse_is_not_written(tensors, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        write_tensors(tmp_path / "t.safetensors", tensors)


def test_a_repeated_key_is_found_without_comparing_all_pairs():
    compared = 0

    class Key(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other):
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

    keys = [Key(f"t{number}") for number in range(1_000)]
    with pytest.raises(ValueError, match="'t999' appears twice"):
        strict_json._unique_keys([(key, 0) for key in [*keys, Key("t999")]])
    assert compared < 10_000
