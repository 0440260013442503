import numpy as np
import pytest

from slimctr.native.keys import MISSING, RUN, KeyTable, encode_integers, encode_text, hash_text

MASK = 2**64 - 1
VECTORS = ["0xf52a15e9a9b5e89b", "0x2c0bdbf481420f8", "0xa428ce5471163b02"]
SEEDED_VECTOR = "0x1e6f98fa4125f6cb"


def reference_hash(key: bytes, seed: int) -> int:
    h = 0xCBF29CE484222325 ^ seed
    for byte in key:
        h = (h ^ byte) * 0x100000001B3 & MASK
    h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9 & MASK
    h = (h ^ h >> 27) * 0x94D049BB133111EB & MASK
    return h ^ h >> 31


def hashes(keys: list[bytes], seed: int = 0) -> np.ndarray:
    offsets = np.concatenate([[0], np.cumsum([len(key) for key in keys])]).astype(np.int64)
    return hash_text(np.frombuffer(b"".join(keys), np.uint8), offsets[:-1], offsets[1:], seed)


def hashed_table(rows: int) -> KeyTable:
    """One hashed field with seed 7: a row tells the hash."""
    return KeyTable(
        np.array([7], np.uint64),
        np.array([rows], np.int64),
        np.zeros(2, np.int64),
        np.zeros(1, np.uint32),
        np.zeros((0, 2), np.uint32),
    )


def run(keys: int, start: int = 0, stride: int = 1, field: int = 0) -> np.ndarray:
    return np.array([(field, keys, start, stride, 0, 0)], RUN)


def test_the_hash_of_known_keys_never_changes():
    assert [hex(h) for h in hashes([b"", b"a", b"42"])] == VECTORS
    assert hex(hashes([b"site"], seed=1)[0]) == SEEDED_VECTOR


def test_the_hash_is_the_documented_one():
    rng = np.random.default_rng(0)
    keys = [rng.integers(0, 256, size=length, dtype=np.uint8).tobytes() for length in range(60)]
    for seed in (0, 1, 2**64 - 1):
        assert hashes(keys, seed).tolist() == [reference_hash(key, seed) for key in keys]


@pytest.mark.parametrize("behind", range(10))
def test_a_hash_does_not_depend_on_what_lies_behind_the_key(behind):
    rng = np.random.default_rng(behind)
    for length in range(20):
        text = rng.integers(0, 256, size=3 + length + behind, dtype=np.uint8)
        key = text[3 : 3 + length].tobytes()
        found = hash_text(text, np.array([3]), np.array([3 + length]), 5)
        assert found.tolist() == [reference_hash(key, 5)]


@pytest.mark.parametrize("per_bucket", [1, 3, 4, 7, 8, 9, 40, 300])
def test_a_key_is_found_wherever_it_lies_in_its_bucket(per_bucket):
    keys = [f"k{i}".encode() for i in range(300)]
    hashed = [reference_hash(key, 7) for key in keys]
    buckets = -(-len(keys) // per_bucket)
    places = [(h >> 32) * buckets >> 32 for h in hashed]
    order = sorted(range(len(keys)), key=lambda i: (places[i], hashed[i] % 2**32))
    sizes = np.bincount(places, minlength=buckets)
    table = KeyTable(
        np.array([7], np.uint64),
        np.zeros(1, np.int64),
        np.array([0, buckets]),
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint32),
        np.array([(hashed[i] % 2**32, 1 + i) for i in order], np.uint32),
    )
    unlisted = [f"u{i}".encode() for i in range(200)]
    out = np.full(500, -1, np.int32)
    text = keys + unlisted
    offsets = np.concatenate([[0], np.cumsum([len(key) for key in text])]).astype(np.int64)
    runs = run(len(text))
    encode_text(table, np.frombuffer(b"".join(text), np.uint8), offsets[:-1], offsets[1:], runs, out)
    assert out.tolist() == [*range(1, 301), *[0] * 200]
    assert runs["unlisted"].tolist() == [200]


def test_of_two_entries_with_one_fingerprint_the_first_counts():
    fingerprint = reference_hash(b"a", 7) % 2**32
    rows = [(fingerprint ^ 1, 1), *[(fingerprint, row) for row in range(2, 12)]]
    table = KeyTable(
        np.array([7], np.uint64),
        np.zeros(1, np.int64),
        np.array([0, 1]),
        np.array([0, len(rows)], np.uint32),
        np.array(rows, np.uint32),
    )
    out = np.zeros(1, np.int32)
    encode_text(
        table, np.frombuffer(b"a", np.uint8), np.zeros(1, np.int64), np.ones(1, np.int64), run(1), out
    )
    assert out.tolist() == [2]


def test_integers_hash_as_their_decimal_text():
    values = [0, 7, -1, 10, -10, 2**53 - 1, -(2**53) + 1, 2**63 - 1, -(2**63) + 1]
    out = np.zeros(len(values), np.int32)
    encode_integers(hashed_table(2**31 - 2), np.array(values, np.int64), run(len(values)), out)
    expected = [1 + reference_hash(str(value).encode(), 7) % (2**31 - 2) for value in values]
    assert out.tolist() == expected


def test_the_missing_integer_is_the_empty_key():
    out = np.zeros(1, np.int32)
    runs = run(1)
    encode_integers(hashed_table(1000), np.array([MISSING], np.int64), runs, out)
    assert out[0] == 1 + reference_hash(b"", 7) % 1000
    assert runs["missing"].tolist() == [1]


def test_rows_go_to_their_start_and_stride_beyond_one_block_of_keys():
    values = np.arange(200, dtype=np.int64)
    plain, strided = np.zeros(200, np.int32), np.zeros(600, np.int32)
    encode_integers(hashed_table(1000), values, run(200), plain)
    encode_integers(hashed_table(1000), values, run(200, start=2, stride=3), strided)
    assert (strided.reshape(200, 3)[:, 2] == plain).all()
    assert not strided.reshape(200, 3)[:, :2].any()


@pytest.mark.parametrize(
    ("starts", "ends"), [([0, 2], [2, 4]), ([-1, 1], [1, 2]), ([0, 3], [1, 2])], ids=["end", "start", "order"]
)
def test_keys_outside_the_text_are_refused(starts, ends):
    data = np.zeros(3, np.uint8)
    starts, ends = np.array(starts, np.int64), np.array(ends, np.int64)
    with pytest.raises(ValueError, match="outside its text buffer"):
        hash_text(data, starts, ends)
    with pytest.raises(ValueError, match="outside its text buffer"):
        encode_text(hashed_table(10), data, starts, ends, run(2), np.zeros(2, np.int32))


@pytest.mark.parametrize(
    "runs",
    [
        run(2),
        run(4),
        run(3, start=1),
        run(3, start=-1),
        run(3, stride=2),
        run(3, stride=0),
        run(3, field=1),
        run(3, field=-1),
        run(-1),
        run(3, start=0, stride=2**62),
    ],
)
def test_runs_that_leave_the_keys_the_fields_or_the_rows_are_refused(runs):
    out = np.zeros(3, np.int32)
    with pytest.raises(ValueError, match="runs do not fit"):
        encode_integers(hashed_table(10), np.zeros(3, np.int64), runs, out)
    assert not out.any()


def test_arrays_of_another_type_are_refused():
    values = np.zeros(3, np.int64)
    with pytest.raises(TypeError, match="contiguous int64"):
        encode_integers(hashed_table(10), values.astype(np.int32), run(3), np.zeros(3, np.int32))
    with pytest.raises(TypeError, match="contiguous int64"):
        encode_integers(hashed_table(10), np.zeros(6, np.int64)[::2], run(3), np.zeros(3, np.int32))
    with pytest.raises(TypeError, match="contiguous int32"):
        encode_integers(hashed_table(10), values, run(3), np.zeros(3, np.int64))
    frozen = np.zeros(3, np.int32)
    frozen.flags.writeable = False
    with pytest.raises(TypeError, match="writable"):
        encode_integers(hashed_table(10), values, run(3), frozen)
    with pytest.raises(ValueError, match="needs 2 elements"):
        hash_text(np.zeros(1, np.uint8), np.zeros(2, np.int64), np.zeros(3, np.int64))
