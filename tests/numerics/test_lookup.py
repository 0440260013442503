"""The lookup kernel against naive loops: every codec, width, layout and scale, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
from reference_tables import int8_row_table, pack_row, packed_table, pool, unpack_row

from model_store.codecs import packed_record_bytes
from slimctr.native.lookup import RowSegment, StoredTable, TableLookup, widen

ROWS = 60
DIMS = (1, 3, 7, 8, 9, 16, 40, 64, 65, 130)


def whole(codes: np.ndarray, codec, dim: int, **settings) -> StoredTable:
    """Return a table of one segment over 2-d codes."""
    rows, record_bytes = codes.shape[0], codes.shape[1] * codes.itemsize
    data = np.frombuffer(codes.tobytes(), np.uint8)
    return StoredTable(codec, data, (RowSegment(0, rows, 0, record_bytes),), rows, dim, 0, 0, **settings)


def packed(table, layout, dim: int, **settings) -> StoredTable:
    segments = tuple(
        RowSegment(start, rows, base, packed_record_bytes(layout, bits, dim, table.scales is None), bits)
        for bits, start, rows, base in table.segments
    )
    rows = len(table.values)
    return StoredTable(
        layout,
        table.codes,
        segments,
        rows,
        dim,
        0,
        0,
        scales=table.scales,
        minimums=table.minimums,
        **settings,
    )


def assert_reads(table: StoredTable, values: np.ndarray) -> None:
    """Every row once in a random order, then over and over, rows outside the table as row 0; equal to the last bit."""
    order = np.random.default_rng(7).permutation(len(values)).astype(np.int32)
    outside = np.array([-1, len(values), np.iinfo(np.int32).max, np.iinfo(np.int32).min], np.int32)
    ids = np.concatenate([order, outside])[:, None]
    expected = np.concatenate([values[order], np.repeat(values[:1], 4, axis=0)])
    lookup = TableLookup([table], table.dim)
    np.testing.assert_array_equal(lookup(ids, []).view(np.uint32), expected.view(np.uint32))
    for row, value in zip(ids, expected, strict=True):
        repeated = lookup(np.repeat(row[None], 3, axis=0), [])
        np.testing.assert_array_equal(repeated.view(np.uint32), np.stack([value] * 3).view(np.uint32))


def test_widening_is_exact_for_every_half():
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    got, expected = widen(halves), halves.astype(np.float32)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(got[numbers].view(np.uint32), expected[numbers].view(np.uint32))
    assert np.isnan(got[~numbers]).all()


@pytest.mark.parametrize("dim", DIMS)
def test_float_tables(dim):
    values = np.random.default_rng(dim).normal(size=(ROWS, dim)).astype(np.float32)
    assert_reads(whole(values, "float32", dim), values)
    halves = values.astype(np.float16)
    assert_reads(whole(halves, "float16", dim), halves.astype(np.float32))


@pytest.mark.parametrize("dim", DIMS)
def test_int8_row(dim):
    codes, values = int8_row_table(np.random.default_rng(dim), ROWS, dim)
    assert_reads(whole(codes, "int8_row", dim), values)


@pytest.mark.parametrize("scale", ["row", "column"])
@pytest.mark.parametrize("layout", ["planes", "stream"])
@pytest.mark.parametrize("bits", range(9))
def test_packed_of_one_width(bits, layout, scale):
    for dim in DIMS:
        table = packed_table(np.random.default_rng([bits, dim]), {bits: ROWS}, dim, layout, scale)
        assert_reads(packed(table, layout, dim), table.values)


@pytest.mark.parametrize("scale", ["row", "column", "segment"])
@pytest.mark.parametrize("layout", ["planes", "stream"])
def test_packed_segments_of_every_width(layout, scale):
    rows_of_bits = {8: 1, 7: 9, 6: 3, 5: 4, 4: 20, 3: 2, 2: 8, 1: 5, 0: 11}
    for dim in DIMS:
        table = packed_table(np.random.default_rng(dim), rows_of_bits, dim, layout, scale)
        assert_reads(packed(table, layout, dim), table.values)


@pytest.mark.parametrize(
    ("bits", "codes", "planes", "stream"),
    [
        (6, [1, 2, 3, 4, 5, 6, 7, 8], "55 66 78 80 00 00", "81 30 10 85 71 20"),
        (4, [1, 15, 7, 0], "07 06 06 02", "f1 07"),
    ],
)
def test_vectors_of_the_format(bits, codes, planes, stream):
    dim = len(codes)
    for layout, text in (("planes", planes), ("stream", stream)):
        data = bytes.fromhex(text)
        assert pack_row(codes, bits, layout) == data
        assert unpack_row(data, bits, layout, dim) == codes
        ones, zeros = np.ones((1, dim), np.float32), np.zeros((1, dim), np.float32)
        table = StoredTable(
            layout,
            np.frombuffer(data, np.uint8),
            (RowSegment(0, 1, 0, len(data), bits),),
            rows=1,
            dim=dim,
            column=0,
            source=0,
            scales=ones,
            minimums=zeros,
        )
        assert TableLookup([table], dim)(np.zeros((1, 1), np.int32), []).tolist() == [codes]


@pytest.mark.parametrize("pooling", ["mean", "sum"])
@pytest.mark.parametrize("codec", ["float32", "float16", "int8_row", "planes", "stream"])
def test_bags_are_pooled_after_dequantization(codec, pooling):
    rng = np.random.default_rng(3)
    for dim in (1, 5, 64, 70):
        if codec == "float32":
            values = rng.normal(size=(ROWS, dim)).astype(np.float32)
            table = whole(values, codec, dim, pooling=pooling)
        elif codec == "float16":
            halves = rng.normal(size=(ROWS, dim)).astype(np.float16)
            values, table = halves.astype(np.float32), whole(halves, codec, dim, pooling=pooling)
        elif codec == "int8_row":
            codes, values = int8_row_table(rng, ROWS, dim)
            table = whole(codes, codec, dim, pooling=pooling)
        else:
            made = packed_table(rng, {5: 20, 0: 10, 3: 30}, dim, codec, "row")
            values, table = made.values, packed(made, codec, dim, pooling=pooling)
        lengths = [1, 4, 0, 2, 17, 1]
        offsets = np.cumsum([0, *lengths]).astype(np.int32)
        ids = rng.integers(0, ROWS, offsets[-1]).astype(np.int32)
        got = TableLookup([table], dim)(np.zeros((len(lengths), 0), np.int32), [(ids, offsets)])
        for row, length in enumerate(lengths):
            bag = ids[offsets[row] : offsets[row] + length]
            expected = pool(values, bag, pooling) if length else np.zeros(dim, np.float32)
            np.testing.assert_array_equal(got[row].view(np.uint32), expected.view(np.uint32))


def test_tables_write_their_own_columns_only():
    rng = np.random.default_rng(5)
    first, second = (rng.normal(size=(9, dim)).astype(np.float32) for dim in (3, 2))
    tables = [
        StoredTable("float32", first.view(np.uint8).ravel(), (RowSegment(0, 9, 0, 12),), 9, 3, 2, 1),
        StoredTable("float32", second.view(np.uint8).ravel(), (RowSegment(0, 9, 0, 8),), 9, 2, 0, 0),
    ]
    ids = rng.integers(0, 9, (50, 2)).astype(np.int32)
    got = TableLookup(tables, 5)(ids, [])
    np.testing.assert_array_equal(got, np.concatenate([second[ids[:, 0]], first[ids[:, 1]]], axis=1))


def test_a_batch_gives_the_bits_of_its_rows_one_by_one():
    table = packed_table(np.random.default_rng(1), {4: 30}, 13, "stream", "row")
    lookup = TableLookup([packed(table, "stream", 13)], 13)
    ids = np.random.default_rng(2).integers(0, 30, (40, 1)).astype(np.int32)
    together = lookup(ids, [])
    for row in range(len(ids)):
        np.testing.assert_array_equal(lookup(ids[row : row + 1], []), together[row : row + 1])


@pytest.mark.parametrize("offsets", [[1, 1, 2], [0, 2, 1], [0, 1, 3], [0, 1, 1]])
def test_malformed_offsets_are_refused(offsets):
    values = np.ones((4, 1), np.float32)
    lookup = TableLookup([whole(values, "float32", 1, pooling="sum")], 1)
    with pytest.raises(ValueError, match="bag 0"):
        lookup(np.zeros((2, 0), np.int32), [(np.zeros(2, np.int32), np.array(offsets, np.int32))])


def test_arrays_of_another_type_are_refused():
    lookup = TableLookup([whole(np.ones((4, 1), np.float32), "float32", 1)], 1)
    with pytest.raises(ValueError, match="int32 ids"):
        lookup(np.zeros((2, 1), np.int64), [])
    with pytest.raises(ValueError, match="int32 ids"):
        lookup(np.zeros((2, 0), np.int32), [])
    pooled = TableLookup([whole(np.ones((4, 1), np.float32), "float32", 1, pooling="sum")], 1)
    with pytest.raises(ValueError, match="offsets"):
        pooled(np.zeros((2, 0), np.int32), [(np.zeros(2, np.int32), np.zeros(2, np.int32))])


def test_a_description_that_leaves_its_codes_is_refused():
    codes = np.zeros(12, np.uint8)
    good = {"rows": 3, "dim": 1, "column": 0, "source": 0}
    for segments, settings, reason in (
        ((RowSegment(0, 3, 4, 4),), good, "outside the codes"),
        ((RowSegment(0, 3, 0, 3),), good, "too short"),
        ((RowSegment(0, 2, 0, 4),), good, "2 of 3 rows"),
        ((RowSegment(1, 3, 0, 4),), good, "should start"),
        ((RowSegment(0, 3, 0, 4),), {**good, "column": 1}, "columns"),
        ((), {**good, "rows": 0}, "rows"),
    ):
        with pytest.raises(ValueError, match=reason):
            TableLookup([StoredTable("float32", codes, segments, **settings)], 1)


def test_a_matrix_wider_than_the_kernel_counts_is_refused():
    """Rows of 0 bits take no bytes, so a small file can claim columns that overflow 32 bits."""
    segments = (RowSegment(0, 3, 0, 0, 0),)
    for column in (0, 2**32 - 3):
        table = StoredTable("stream", np.zeros(0, np.uint8), segments, rows=3, dim=1, column=column, source=0)
        with pytest.raises(ValueError, match="wide"):
            TableLookup([table], 2**32)


@pytest.mark.parametrize("constant_until", [0, 64, 70, 200])
@pytest.mark.parametrize("batch", [0, 1, 3, 63, 64, 65, 200])
def test_many_tables_are_read_in_blocks_of_any_shape(batch, constant_until):
    """Blocks hold several tables where the batch is small and some rows of one where it is large; slates repeat ids."""
    rng = np.random.default_rng(batch)
    tables, values, column = [], [], 0
    for source, dim in enumerate(DIMS * 9):
        if source % 3 == 0:
            rows = rng.normal(size=(ROWS, dim)).astype(np.float32)
            table = whole(rows, "float32", dim)
        else:
            layout = ("planes", "stream")[source % 2]
            packing = packed_table(rng, {6: 10, 8: 20, 0: 5, 1: 25}, dim, layout, "segment")
            table, rows = packed(packing, layout, dim), packing.values
        tables.append(replace(table, source=source, column=column))
        values.append(rows)
        column += dim
    ids = rng.integers(-1, ROWS + 1, (batch, len(tables)), dtype=np.int32)
    ids[:constant_until, ::2] = ids[:1, ::2]
    known = np.where((ids < 0) | (ids >= ROWS), 0, ids)
    expected = np.concatenate([rows[known[:, i]] for i, rows in enumerate(values)], axis=1)

    np.testing.assert_array_equal(TableLookup(tables, column)(ids, []), expected)
