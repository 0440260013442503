"""Records of a batch: those of the plan, with the places of the batch."""

import numpy as np
import pytest

from slimctr.native.arrow_cells import CELLS, WIDTH, CellPlan

PLACES = np.array([[10, 1], [20, 2], [30, 3], [0, 0]])


def plan_of(buffers: list[list[int]]) -> CellPlan:
    cells = np.zeros(len(buffers), CELLS)
    cells["field"], cells["out_start"], cells["type"] = np.arange(len(buffers)), 5, 32
    return CellPlan(cells, np.array(buffers, np.int64).reshape(-1, 4))


def test_records_have_the_places_of_their_batch() -> None:
    records = plan_of([[0, -1, 1, 2], [-1, 2, -1, 0]]).records(PLACES, 7, 100, 40)
    assert records.shape == (2, WIDTH)
    named = records.view(CELLS)[:, 0]
    assert named["field"].tolist() == [0, 1]
    assert named["type"].tolist() == [32, 32]
    for name, expected in {"cells": 7, "entries": 7, "row": 40, "out_start": 105}.items():
        assert named[name].tolist() == [expected] * 2
    assert named["nulls"].tolist() == [[10, 1], [0, 0]]
    assert named["indices"].tolist() == [[0, 0], [30, 3]]
    assert named["offsets"].tolist() == [[20, 2], [0, 0]]
    assert named["data"].tolist() == [[30, 3], [10, 1]]


def test_no_fields_have_no_records() -> None:
    assert plan_of([]).records(PLACES, 7, 0, 0).shape == (0, WIDTH)


def test_a_buffer_that_the_batch_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="record 1 reads a buffer"):
        plan_of([[0, 1, 2, 3], [0, 1, 2, 4]]).records(PLACES, 7, 0, 0)


def test_what_is_no_plan_is_refused() -> None:
    with pytest.raises(ValueError, match="2 records have no buffers"):
        CellPlan(np.zeros(2, CELLS), np.zeros((1, 4), np.int64))
    with pytest.raises(TypeError, match="CELLS and int64"):
        CellPlan(np.zeros(2, np.int64), np.zeros((2, 4), np.int64))
    with pytest.raises(ValueError, match="pairs of int64"):
        plan_of([[0, 1, 2, 3]]).records(PLACES[:, :1], 7, 0, 0)
