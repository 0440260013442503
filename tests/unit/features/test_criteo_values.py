"""The encoder against a plain dictionary per field, on real Criteo rows with their missing values."""

import math
from collections import Counter

import numpy as np
import pyarrow as pa
from realdata import real_data

from slimctr.features import Encoder, FeatureSchema, Vocabulary, keys_in_row_order

INTEGERS = [f"I{i}" for i in range(1, 14)]
CATEGORIES = [f"C{i}" for i in range(1, 27)]
BUCKETED = {"kind": "numeric", "bucketing": {"kind": "log_squared"}}
FIELDS = [{"name": name, **BUCKETED} for name in INTEGERS] + [
    {"name": name, "kind": "categorical", "min_count": 2} for name in CATEGORIES
]


def key(name, value):
    if value is None:
        return b""
    if name in INTEGERS:
        return str(math.floor(math.log(value) ** 2) if value > 2 else int(value)).encode()
    return value.encode()


def test_real_rows_encode_as_a_dictionary_would():
    path = real_data("criteo_kaggle_first8k") / "train.csv.zst"
    with pa.input_stream(str(path), compression="zstd") as stream:
        lines = stream.read().decode().splitlines()[:1500]
    rows = []
    for line in lines:
        cells = [cell or None for cell in line.split("\t")[1:]]
        rows.append(dict(zip(INTEGERS + CATEGORIES, cells, strict=True)))
        for name in INTEGERS:
            rows[-1][name] = None if rows[-1][name] is None else int(rows[-1][name])
    schema = FeatureSchema.parse({"fields": FIELDS})
    training, later = rows[:1000], rows[1000:]
    listed = {
        field.name: keys_in_row_order(
            Counter(key(field.name, row[field.name]) for row in training), field.min_count
        )
        for field in schema.fields
    }
    batch = Encoder(schema, Vocabulary.build(schema, listed)).encode_rows(later)
    for position, name in enumerate(schema.names):
        place = {listed_key: row for row, listed_key in enumerate(listed[name], 1)}
        keys = [key(name, row[name]) for row in later]
        assert batch.ids[:, position].tolist() == [place.get(k, 0) for k in keys]
        assert batch.missing[position] == keys.count(b"")
        assert batch.oov[position] == sum(k not in place and k != b"" for k in keys)
    assert batch.missing.any()
    assert np.count_nonzero(batch.oov) > 10
