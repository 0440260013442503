"""The vocabulary: a static hash table from the keys of every field to row ids, used memory-mapped.

File (safetensors, F fields, n listed values, K buckets in all):

| tensor | dtype and shape | content |
|---|---|---|
| `seeds` | U64 (F,) | seed of each field: hash(UTF-8 name, seed = attempt), attempt 0, 1, … 15 |
| `rows` | I64 (F,) | rows of the field's table, the OOV row 0 included; 1 + hash_rows for a hashed field |
| `buckets` | I64 (F+1,) | first bucket of each field, from 0 to K; none for a hashed field |
| `directory` | U32 (K+1,) | first entry of each bucket, from 0 to n |
| `entries` | U32 (n, 2) | (fingerprint, row), row in 1 .. rows-1, ascending by fingerprint inside a bucket |

Hash, bucket and fingerprint are those of `slimctr/native/keys.h`. A hashed field always has attempt 0: its
rows depend on nothing but its name. When two listed values of a field share bucket and fingerprint,
building tries the next attempt, so every listed value gets exactly its own row. Several values may share a row
where rows were dropped from the tables (slimctr/features/renumbering.py).

Cost: 8 bytes a value for its entry and 1 byte for the directory at 4 values a bucket. Error: an unlisted
value is compared with the fingerprints of one bucket, so it takes a listed value's row with the probability
values in the bucket / 2^32, on average `false_positive_rate()`, below 1e-9; else it gets the OOV row.
docs/features.md has the measurement.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from model_store.errors import IntegrityError
from model_store.pacing import pause
from model_store.tensors import map_tensors, write_tensors
from slimctr.errors import ConfigError
from slimctr.features.columns import TextColumn, key_of_text
from slimctr.features.schema import FeatureSchema, Field
from slimctr.native.keys import RUN, KeyTable, encode_text, hash_text

VALUES_PER_BUCKET = 4
ATTEMPTS = 16
_MAX_VALUES = 2**31 - 2
_CHECKED_AT_ONCE = 2**16


class Vocabulary:
    """Row ids of the listed values of every field. Build it with `build`, read it with `open`."""

    def __init__(self, schema: FeatureSchema, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take the five arrays of the file. Raises ValueError when they do not fit together or the schema."""
        _check(schema, arrays)
        self.schema = schema
        self._arrays = dict(arrays)
        hash_rows = np.array([field.hash_rows or 0 for field in schema.fields], np.int64)
        self.key_table = KeyTable(
            arrays["seeds"], hash_rows, arrays["buckets"], arrays["directory"], arrays["entries"]
        )
        self.rows_per_field: NDArray[np.int64] = arrays["rows"]
        self.missing_rows = self._lookup_missing()

    @classmethod
    def build(cls, schema: FeatureSchema, keys: Mapping[str, Sequence[bytes | str] | TextColumn]) -> Self:
        """List `keys` of every unhashed field: the first gets row 1. See `keys_in_row_order`.

        Raises ConfigError for a field without keys (an empty list will do), for keys of a hashed or unknown
        field and for a key listed twice.
        """
        listed = {field.name for field in schema.fields if field.hash_rows is None}
        if set(keys) != listed:
            names = ", ".join(sorted(set(keys) ^ listed))
            raise ConfigError(
                f"vocabulary: keys are needed for every unhashed field and no other; check {names}"
            )
        seeds = np.zeros(len(schema.fields), np.uint64)
        rows = np.zeros(len(schema.fields), np.int64)
        buckets = np.zeros(len(schema.fields) + 1, np.int64)
        sizes, entries = [], []
        for position, field in enumerate(schema.fields):
            if field.hash_rows is not None:
                seeds[position] = _seed(field, 0)
                rows[position] = 1 + field.hash_rows
                buckets[position + 1] = buckets[position]
                continue
            column = TextColumn.of(keys[field.name])
            seeds[position], bucket_sizes, field_entries = _place(field, column)
            rows[position] = 1 + len(column)
            buckets[position + 1] = buckets[position] + len(bucket_sizes)
            sizes.append(bucket_sizes)
            entries.append(field_entries)
        directory = np.zeros(buckets[-1] + 1, np.int64)
        np.cumsum(np.concatenate([np.zeros(0, np.int64), *sizes]), out=directory[1:])
        if directory[-1] > _MAX_VALUES:
            raise ConfigError(f"vocabulary: {directory[-1]} values exceed {_MAX_VALUES}; raise min_count")
        return cls(
            schema,
            {
                "seeds": seeds,
                "rows": rows,
                "buckets": buckets,
                "directory": directory.astype(np.uint32),
                "entries": np.concatenate([np.zeros((0, 2), np.uint32), *entries]),
            },
        )

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """The arrays of the file."""
        return self._arrays

    @classmethod
    def open(cls, path: Path | str, schema: FeatureSchema) -> Self:
        """Map a vocabulary file; no entry is copied.

        Raises IntegrityError for a file that is altered or does not belong to `schema`.
        """
        path = Path(path)
        try:
            return cls(schema, map_tensors(path))
        except ValueError as error:
            raise IntegrityError(
                f"{path.name}: {error}; the file is altered or belongs to another schema"
            ) from None

    def save(self, path: Path | str) -> None:
        """Write the vocabulary as a safetensors file."""
        write_tensors(Path(path), self._arrays)

    def rows(self, field: int) -> int:
        """Rows of the table of field number `field`, the OOV row included."""
        return int(self.rows_per_field[field])

    def __len__(self) -> int:
        """Listed values of all fields."""
        return len(self._arrays["entries"])

    def bytes_per_value(self) -> float:
        """Bytes of all arrays per listed value (0 when nothing is listed)."""
        return sum(array.nbytes for array in self._arrays.values()) / len(self) if len(self) else 0.0

    def false_positive_rate(self) -> float:
        """Chance that an unlisted value takes the row of a listed one: the mean bucket size over 2^32."""
        buckets = len(self._arrays["directory"]) - 1
        return len(self) / buckets / 2**32 if buckets else 0.0

    def _lookup_missing(self) -> NDArray[np.int32]:
        """Row of the missing value of every field, int32 (F,); 0 where training had none."""
        fields = len(self.schema.fields)
        runs = np.zeros(fields, RUN)
        runs["field"] = runs["out_start"] = np.arange(fields)
        runs["keys"] = runs["out_stride"] = 1
        rows = np.empty(fields, np.int32)
        nowhere = np.zeros(fields, np.int64)
        encode_text(self.key_table, np.zeros(0, np.uint8), nowhere, nowhere, runs, rows)
        return rows


def keys_in_row_order(counts: Mapping[bytes, int], min_count: int = 1) -> list[bytes]:
    """Return the keys that occur `min_count` times or more, most frequent first, ties by key bytes."""
    kept = [(-count, key) for key, count in counts.items() if count >= min_count]
    return [key for _, key in sorted(kept)]


def _bucket_count(values: int) -> int:
    """Buckets for a number of values: about a fourth, with enough factors of two to be merged when values leave."""
    least = -(-values // VALUES_PER_BUCKET)
    unit = 1 << max(0, least.bit_length() - 6)
    return -(-least // unit) * unit


def _seed(field: Field, attempt: int) -> int:
    name = TextColumn.of([field.name])
    return int(hash_text(name.data, name.starts, name.ends, attempt)[0])


def _place(field: Field, column: TextColumn) -> tuple[int, NDArray[np.int64], NDArray[np.uint32]]:
    """Return seed, bucket sizes int64 (buckets,) and entries uint32 (n, 2) of a field, without collision."""
    buckets = _bucket_count(len(column))
    for attempt in range(ATTEMPTS):
        seed = _seed(field, attempt)
        hashes = hash_text(column.data, column.starts, column.ends, seed)
        bucket = (hashes >> np.uint64(32)) * np.uint64(buckets) >> np.uint64(32)
        fingerprint = hashes & np.uint64(0xFFFFFFFF)
        place = bucket << np.uint64(32) | fingerprint
        order = np.argsort(place, kind="stable")
        same = np.flatnonzero(np.diff(place[order]) == 0)
        if len(same) == 0:
            entries = np.stack([fingerprint[order], order + 1], axis=1).astype(np.uint32)
            return seed, np.bincount(bucket.astype(np.int64), minlength=buckets), entries
        for i in same:
            first, second = column.key(order[i]), column.key(order[i + 1])
            if key_of_text(first.decode(errors="replace")) == key_of_text(second.decode(errors="replace")):
                also = f", also as {second!r}" if first != second else ""
                raise ConfigError(f"vocabulary: field '{field.name}' lists {first!r} twice{also}")
    raise ConfigError(f"vocabulary: the values of field '{field.name}' collide under all {ATTEMPTS} seeds")


def _check(schema: FeatureSchema, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raise ValueError unless the kernel stays inside the arrays and every row inside its table."""
    fields = len(schema.fields)
    expected = {
        "seeds": (np.uint64, (fields,)),
        "rows": (np.int64, (fields,)),
        "buckets": (np.int64, (fields + 1,)),
        "directory": (np.uint32, (None,)),
        "entries": (np.uint32, (None, 2)),
    }
    if set(arrays) != set(expected):
        raise ValueError(
            f"a vocabulary has the tensors {', '.join(expected)}, not {', '.join(sorted(arrays))}"
        )
    for name, (dtype, shape) in expected.items():
        array = arrays[name]
        fits = array.ndim == len(shape) and all(
            want in (None, have) for want, have in zip(shape, array.shape, strict=True)
        )
        if array.dtype != dtype or not fits:
            raise ValueError(
                f"tensor '{name}' is {array.dtype} {array.shape} where {np.dtype(dtype)} {shape} belongs"
            )
    rows, buckets, directory, entries = (arrays[name] for name in ("rows", "buckets", "directory", "entries"))
    if buckets[0] != 0 or buckets[-1] != len(directory) - 1 or (buckets[1:] < buckets[:-1]).any():
        raise ValueError("the buckets of the fields do not follow each other through the directory")
    if directory[0] != 0 or directory[-1] != len(entries) or not _rises(directory):
        raise ValueError("the directory does not run through the entries in order")
    for position, field in enumerate(schema.fields):
        _check_field(field, arrays, position, int(rows[position]), slice(*buckets[position : position + 2]))


def _rises(numbers: NDArray[np.uint32]) -> bool:
    for start in range(0, len(numbers), _CHECKED_AT_ONCE):
        pause()
        block = numbers[start : start + _CHECKED_AT_ONCE + 1]
        if (block[1:] < block[:-1]).any():
            return False
    return True


def _check_field(
    field: Field, arrays: Mapping[str, NDArray[Any]], position: int, rows: int, buckets: slice
) -> None:
    attempts = ATTEMPTS if field.hash_rows is None else 1
    if int(arrays["seeds"][position]) not in (_seed(field, attempt) for attempt in range(attempts)):
        raise ValueError(f"field '{field.name}': the seed is not of this name")
    listed = arrays["entries"][arrays["directory"][buckets.start] : arrays["directory"][buckets.stop], 1]
    if field.hash_rows is not None:
        if rows != 1 + field.hash_rows or len(listed):
            raise ValueError(
                f"field '{field.name}': {rows} rows and {len(listed)} listed values, but it is hashed"
            )
    elif not 1 <= rows <= _MAX_VALUES + 1:
        raise ValueError(f"field '{field.name}': {rows} rows")
    for start in range(0, len(listed), _CHECKED_AT_ONCE):
        pause()
        block = listed[start : start + _CHECKED_AT_ONCE]
        if not 1 <= int(block.min()) <= int(block.max()) < rows:
            raise ValueError(f"field '{field.name}': a listed row lies outside 1..{rows - 1}")
