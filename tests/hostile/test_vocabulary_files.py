"""Altered vocabulary files: each must be refused when it is opened, before a kernel reads it."""

import numpy as np
import pytest

from model_store.errors import IntegrityError
from model_store.tensors import map_tensors, write_tensors
from slimctr.features import FeatureSchema, Vocabulary

SCHEMA = FeatureSchema.parse(
    {
        "fields": [
            {"name": "site", "kind": "categorical"},
            {"name": "ad", "kind": "categorical", "hash_rows": 100},
            {"name": "app", "kind": "categorical"},
        ]
    }
)


@pytest.fixture
def path(tmp_path):
    keys = {"site": [str(i) for i in range(20)], "app": [str(i) for i in range(9)]}
    Vocabulary.build(SCHEMA, keys).save(tmp_path / "vocabulary.safetensors")
    return tmp_path / "vocabulary.safetensors"


def alter(path, change):
    arrays = {name: np.array(array) for name, array in map_tensors(path).items()}
    replaced = change(arrays)
    write_tensors(path, arrays if replaced is None else replaced)


def put(name, index, value):
    def change(arrays):
        arrays[name][index] = value

    return change


def replace(name, make):
    return lambda arrays: {**arrays, name: make(arrays[name])}


def drop(name):
    return lambda arrays: {key: array for key, array in arrays.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("entries"), "has the tensors"),
        (lambda arrays: {**arrays, "extra": np.zeros(1, np.uint8)}, "has the tensors"),
        (replace("rows", lambda rows: rows.astype(np.int32)), "'rows' is int32"),
        (replace("rows", lambda rows: rows[:2]), "'rows' is int64 (2,)"),
        (replace("seeds", lambda seeds: seeds[:, None]), "'seeds' is uint64 (3, 1)"),
        (replace("entries", lambda entries: entries[:, :1]), "'entries' is uint32"),
        (replace("entries", lambda entries: entries[:-1]), "directory does not run"),
        (replace("directory", lambda directory: directory[:-1]), "buckets of the fields"),
        (put("buckets", 0, 1), "buckets of the fields"),
        (put("buckets", 1, -1), "buckets of the fields"),
        (put("buckets", 1, 100), "buckets of the fields"),
        (put("buckets", 3, 2**62), "buckets of the fields"),
        (put("buckets", slice(1, 3), [2**62 + 1, -(2**62) - 1]), "buckets of the fields"),
        (put("directory", 0, 1), "directory does not run"),
        (put("directory", 1, 2**32 - 1), "directory does not run"),
        (put("directory", -1, 2**31), "directory does not run"),
        (put("entries", (0, 1), 0), "field 'site': a listed row"),
        (put("entries", (0, 1), 21), "field 'site': a listed row"),
        (put("entries", (-1, 1), 2**31), "field 'app': a listed row"),
        (put("rows", 0, 5), "field 'site': a listed row"),
        (put("rows", 0, 0), "field 'site': 0 rows"),
        (put("rows", 2, 2**40), "field 'app'"),
        (put("rows", 1, 100), "field 'ad': 100 rows"),
        (put("buckets", 2, 6), "field 'ad'"),
        (put("seeds", 0, 7), "field 'site': the seed"),
    ],
)
def test_an_altered_file_is_refused(path, change, message):
    alter(path, change)
    with pytest.raises(IntegrityError) as caught:
        Vocabulary.open(path, SCHEMA)
    assert message in str(caught.value)
    assert "vocabulary.safetensors" in str(caught.value)


def test_the_schema_of_other_fields_is_refused(path):
    renamed = [field.model_copy(update={"name": f"my_{field.name}"}) for field in SCHEMA.fields]
    with pytest.raises(IntegrityError, match="field 'my_site': the seed"):
        Vocabulary.open(path, FeatureSchema(fields=tuple(renamed)))
    with pytest.raises(IntegrityError, match="seeds"):
        Vocabulary.open(path, FeatureSchema(fields=SCHEMA.fields[:2]))


def test_a_truncated_file_is_refused(path):
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError):
        Vocabulary.open(path, SCHEMA)


def test_the_unaltered_file_opens(path):
    alter(path, lambda arrays: None)
    assert len(Vocabulary.open(path, SCHEMA)) == 29
