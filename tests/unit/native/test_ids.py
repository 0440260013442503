"""The kernel for encoded ids, against the same rule in numpy."""

import numpy as np
import pytest

from slimctr.native.ids import IdLimits, known_rows

LIMITS = np.array([1, 5, 2**31 - 1, 7])
MISSING = np.array([0, 3, 9, 1], np.int32)
EDGES = [-(2**63), -2, -1, 0, 1, 4, 5, 6, 7, 2**31 - 2, 2**31, 2**32, 2**32 - 1, 2**63 - 1]


def expected(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and counts by masks."""
    absent = np.equal(ids, -1)
    known = np.where((ids >= 0) & (ids < LIMITS), ids, 0)
    rows = np.where(absent, MISSING, known)
    return rows, np.stack([absent.sum(axis=0), ((rows == 0) & ~absent).sum(axis=0)])


@pytest.mark.parametrize("count", [0, 1, 3, 500])
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int8, np.uint64, np.uint8, ">i8"])
def test_ids_become_the_rows_and_counts_that_masks_give(count: int, dtype: object) -> None:
    generator = np.random.default_rng(count)
    range_ = np.iinfo(np.dtype(dtype))
    drawn = generator.choice([edge for edge in EDGES if range_.min <= edge <= range_.max], (count, 4))
    ids = drawn.astype(dtype)
    rows, counts = known_rows(ids, IdLimits(LIMITS, MISSING))
    wanted_rows, wanted_counts = expected(ids)
    assert rows.dtype == np.int32
    assert np.array_equal(rows, wanted_rows)
    assert np.array_equal(counts, wanted_counts)


def test_the_largest_unsigned_number_is_no_missing_value() -> None:
    rows, counts = known_rows(np.full((1, 4), 2**64 - 1, np.uint64), IdLimits(LIMITS, MISSING))
    assert rows.tolist() == [[0] * 4]
    assert counts.tolist() == [[0] * 4, [1] * 4]


def test_ids_need_no_alignment_and_no_order_in_memory() -> None:
    ids = np.random.default_rng(0).integers(-2, 9, (6, 4))
    rows, counts = known_rows(ids, IdLimits(LIMITS, MISSING))
    shifted = np.frombuffer(b"x" + ids.astype("<i8").tobytes(), "<i8", offset=1).reshape(6, 4)
    assert shifted.ctypes.data % 8
    for same in (shifted, np.asfortranarray(ids), np.repeat(ids, 2, axis=0)[::2]):
        again, counted = known_rows(same, IdLimits(LIMITS, MISSING))
        assert np.array_equal(again, rows)
        assert np.array_equal(counted, counts)


@pytest.mark.parametrize("shape", [(2, 3), (4,), (1, 4, 1)])
def test_ids_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"ids \(rows, 4\)"):
        known_rows(np.zeros(shape, np.int64), IdLimits(LIMITS, MISSING))


def test_limits_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        IdLimits(LIMITS, MISSING[:2])
