"""Masked tables whose offsets, masks or values were tampered with: refused when opened, never read out of bounds."""

import shutil

import numpy as np
import pytest
from tiny_runs import tiny_dataset, tiny_run

from model_store.codecs import index_bytes, mask_bytes
from model_store.store import ModelStore
from model_store.tensors import map_tensors, write_tensors
from slimctr.compression import compress
from slimctr.errors import EngineError
from slimctr.export import publish_run
from slimctr.native.lookup import RowSegment, StoredTable, TableLookup
from slimctr.scoring.tables import build_lookup

TABLE = "embedding.user"
BLOCK_BYTES = 4 + 16  # masks of 8 columns take a byte


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masked")
    run = tiny_run(tiny_dataset(folder / "log"), folder / "run", dim=7, epochs=1)
    made = compress(run, "magnitude_elements", {"value_bits": 16, "epochs": 0}, None, folder / "small")
    store = ModelStore(folder / "store")
    return store.path("ctr", publish_run(made, store, "ctr").version)


def put_offset(block, value):
    def change(codes, values):
        codes[block * BLOCK_BYTES : block * BLOCK_BYTES + 4] = np.array([value], "<u4").view(np.uint8)
        return codes

    return change


def flip_mask(row, bit):
    def change(codes, values):
        codes[row // 16 * BLOCK_BYTES + 4 + row % 16] ^= 1 << bit
        return codes

    return change


def infinite_value(codes, values):
    codes[values : values + 2] = np.array([np.inf], np.float16).view(np.uint8)
    return codes


DAMAGE = {
    "first offset": (put_offset(0, 1), "offset of row 0 is 1, not 0"),
    "offset far outside": (put_offset(3, 2**32 - 1), "offset of row 48 is 4294967295"),
    "offset that falls": (put_offset(2, 0), "offset of row 32 is 0"),
    "offset of the last block": (put_offset(18, 9), "offset of row 288 is 9"),
    "a mask with one bit more or less": (flip_mask(5, 2), "the offset of row 16"),
    "a mask of the last row": (flip_mask(299, 2), r"masks keep \d+ values, \d+ are stored"),
    "a bit beyond the columns": (flip_mask(40, 7), "beyond column 7"),
    "a bit beyond the columns of the last row": (flip_mask(299, 7), "near row 288 .* beyond column 7"),
    "infinite value": (infinite_value, "infinity"),
    "too short": (lambda codes, values: codes[:-2], "need uint8"),
    "too long": (lambda codes, values: np.append(codes, np.zeros(2, np.uint8)), "need uint8"),
    "of another type": (lambda codes, values: codes.astype(np.int8), "need uint8"),
    "of two axes": (lambda codes, values: codes.reshape(1, -1), "need uint8"),
}


def opened(version, manifest, tensors):
    from slimctr.features import FeatureSchema

    return build_lookup(manifest, tensors, FeatureSchema.parse(manifest.features))


@pytest.mark.parametrize("name", DAMAGE)
def test_tampered_tables_are_refused(name, version):
    change, reason = DAMAGE[name]
    manifest = ModelStore(version.parents[1]).manifest("ctr", 1)
    tensors = map_tensors(version / "tables.safetensors")
    opened(version, manifest, tensors)
    rows = next(t.rows for t in manifest.tables if t.codes == TABLE)
    assert rows == 300
    tensors[TABLE] = change(np.array(tensors[TABLE]), index_bytes(rows, 7))
    with pytest.raises(EngineError, match=f"'{TABLE}'.*{reason}"):
        opened(version, manifest, tensors)


@pytest.mark.parametrize("kept", [0, 1, 2**32 - 1])
def test_another_number_of_values_is_refused(kept, version):
    manifest = ModelStore(version.parents[1]).manifest("ctr", 1)
    tables = [t.model_copy(update={"kept": kept}) if t.codes == TABLE else t for t in manifest.tables]
    claims = manifest.model_copy(update={"tables": tuple(tables)})
    with pytest.raises(EngineError, match=f"{kept} float16 values"):
        opened(version, claims, map_tensors(version / "tables.safetensors"))


def test_a_tampered_version_does_not_load(version, tmp_path):
    """Digests in the manifest are what a file must match; behind a matching digest the index is checked."""
    import hashlib
    import json

    from slimctr.scoring import Scorer

    copy = tmp_path / "1"
    shutil.copytree(version, copy)
    path = copy / "tables.safetensors"
    path.chmod(0o644)
    tensors = {name: np.array(tensor) for name, tensor in map_tensors(path).items()}
    tensors[TABLE] = put_offset(3, 2**31)(tensors[TABLE], 0)
    path.unlink()
    write_tensors(path, tensors)
    manifest = copy / "manifest.json"
    manifest.chmod(0o644)
    document = json.loads(manifest.read_text())
    document["files"]["tables.safetensors"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(document))
    with pytest.raises(EngineError, match="offset of row 48"):
        Scorer.open(copy)


@pytest.mark.parametrize("codec", ["masked_float32", "masked_float16"])
def test_the_kernel_stays_inside_whatever_the_index_says(codec):
    """Files are mapped, so what was checked may change: values past the end read as zeros."""
    rng = np.random.default_rng(2)
    for dim in (1, 9, 64, 70, 200):
        rows, values = 40, 4 * 11
        size = index_bytes(rows, dim) + values
        table = StoredTable(
            codec,
            rng.integers(0, 256, size, np.uint8),
            (RowSegment(0, rows, 0, mask_bytes(dim)),),
            rows,
            dim,
            0,
            0,
        )
        read = TableLookup([table], dim)(np.arange(rows, dtype=np.int32)[:, None], [])
        assert not read.any()
        empty = StoredTable(
            codec, np.full(index_bytes(rows, dim), 255, np.uint8), table.segments, rows, dim, 0, 0
        )
        assert not TableLookup([empty], dim)(np.arange(rows, dtype=np.int32)[:, None], []).any()


def test_descriptions_that_leave_the_codes_are_refused():
    good = np.zeros(index_bytes(20, 9) + 8, np.uint8)
    whole = (RowSegment(0, 20, 0, 2),)
    TableLookup([StoredTable("masked_float32", good, whole, 20, 9, 0, 0)], 9)
    for codes, segments in (
        (good[: index_bytes(20, 9) - 1], whole),
        (good[:-1], whole),
        (good, (RowSegment(0, 20, 0, 1),)),
        (good, (RowSegment(0, 20, 4, 2),)),
        (good, ()),
    ):
        with pytest.raises(ValueError, match="bytes after the masks"):
            TableLookup([StoredTable("masked_float32", codes, segments, 20, 9, 0, 0)], 9)
