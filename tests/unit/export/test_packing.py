"""The vectors of docs/artifact-format.md, round trips of every width, and refusals."""

import numpy as np
import pytest

from slimctr.export.packing import (
    default_layout,
    int8_row_records,
    pack_codes,
    row_bytes,
    unpack_codes,
    with_row_affine,
)


@pytest.mark.parametrize(
    ("codes", "bits", "layout", "expected"),
    [
        (range(1, 9), 6, "planes", "55 66 78 80 00 00"),
        (range(1, 9), 6, "stream", "81 30 10 85 71 20"),
        ([1, 15, 7, 0], 4, "planes", "07 06 06 02"),
        ([1, 15, 7, 0], 4, "stream", "f1 07"),
    ],
)
def test_golden_rows(codes, bits, layout, expected):
    packed = pack_codes(np.array([list(codes)], dtype=np.uint8), bits, layout)
    assert packed[0].tobytes().hex(" ") == expected


@pytest.mark.parametrize("layout", ["planes", "stream"])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dim", [1, 5, 8, 10, 17])
def test_round_trip(layout, bits, dim):
    codes = np.random.default_rng(bits).integers(0, 2**bits, size=(33, dim), dtype=np.uint8)
    packed = pack_codes(codes, bits, layout)
    assert packed.shape == (33, row_bytes(dim, bits, layout))
    np.testing.assert_array_equal(unpack_codes(packed, dim, bits, layout), codes)


def test_layout_with_the_fewest_bytes_is_chosen():
    assert default_layout(16, 4) == "planes"
    assert default_layout(16, 8) == "stream"
    assert default_layout(5, 4) == "stream"
    assert row_bytes(5, 6, "stream") == 4
    assert row_bytes(5, 6, "planes") == 6


def test_blocks_of_rows_join_without_a_seam():
    codes = np.random.default_rng(0).integers(0, 16, size=(70_000, 3), dtype=np.uint8)
    np.testing.assert_array_equal(unpack_codes(pack_codes(codes, 4, "stream"), 3, 4, "stream"), codes)


def test_int8_row_record():
    codes = np.array([[0, 128, 255]], dtype=np.uint8)
    record = int8_row_records(codes, np.array([0.5], np.float16), np.array([-1.0], np.float16))
    assert record.shape == (1, 7)
    assert record[0, :3].view(np.int8).tolist() == [-128, 0, 127]
    assert record[0, 3:].view("<f2").tolist() == [0.5, -1.0]


def test_row_affine_follows_the_codes():
    record = with_row_affine(
        np.zeros((2, 3), np.uint8), np.array([1, 2], np.float16), np.array([3, 4], np.float16)
    )
    assert record[1, 3:].view("<f2").tolist() == [2.0, 4.0]


def test_code_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        pack_codes(np.array([[4]], dtype=np.uint8), 2, "planes")
    with pytest.raises(ValueError, match="bits"):
        pack_codes(np.array([[0]], dtype=np.uint8), 9, "planes")
    with pytest.raises(ValueError, match="take 4 bytes"):
        unpack_codes(np.zeros((1, 3), np.uint8), 16, 2, "planes")
