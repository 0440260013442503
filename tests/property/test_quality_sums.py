"""Additive sums: any order of merging and any restatement give what counting the rows once gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rounding import SUMS64

from slimctr import quality
from slimctr.quality.streaming import QualitySums

ROW = st.tuples(st.booleans(), st.floats(-40, 40, width=32))


def sums_of(rows: list[tuple[bool, float]]) -> QualitySums:
    return (
        QualitySums.of([clicked for clicked, _ in rows], [logit for _, logit in rows])
        if rows
        else QualitySums()
    )


def assert_same(left: QualitySums, right: QualitySums) -> None:
    assert (left.count, left.clicks) == (right.count, right.clicks)
    assert np.array_equal(left.histogram, right.histogram)
    assert left.auc == right.auc
    assert left.sum_p == pytest.approx(right.sum_p, abs=100 * SUMS64)
    assert left.sum_loss == pytest.approx(right.sum_loss, abs=100 * SUMS64)


@settings(deadline=None)
@given(st.lists(st.lists(ROW, max_size=8), max_size=6), st.randoms())
def test_merge_order_does_not_matter(parts: list[list[tuple[bool, float]]], random) -> None:
    whole = sums_of([row for part in parts for row in part])
    random.shuffle(parts)
    merged = QualitySums()
    for part in parts:
        merged = sums_of(part) + merged
    assert_same(merged, whole)


@settings(deadline=None)
@given(st.lists(ROW, min_size=1, max_size=12), st.data())
def test_a_restated_row_counts_as_if_it_had_come_right(
    rows: list[tuple[bool, float]], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(rows) - 1))
    clicked, logit = rows[index]
    corrected = [*rows[:index], (not clicked, logit), *rows[index + 1 :]]
    assert_same(
        sums_of(rows) - sums_of([(clicked, logit)]) + sums_of([(not clicked, logit)]), sums_of(corrected)
    )


@settings(deadline=None)
@given(st.lists(ROW, min_size=2, max_size=60).filter(lambda rows: len({clicked for clicked, _ in rows}) == 2))
def test_the_auc_error_bound_holds(rows: list[tuple[bool, float]]) -> None:
    sums = sums_of(rows)
    exact = quality.auc([clicked for clicked, _ in rows], [logit for _, logit in rows])
    assert sums.auc is not None
    assert sums.auc_error_bound is not None
    assert abs(sums.auc - exact) <= sums.auc_error_bound + SUMS64
