"""The network kernel computes what its steps say, and gives each row the same bits in every batch."""

import numpy as np
import pytest
from rounding import dot_error, gamma

from slimctr.native.network import BLOCK_ROWS, NativeNetwork, Place, Step, panels, runs_here

pytestmark = pytest.mark.skipif(not runs_here(), reason="the kernel needs x86-64 with AVX2 and FMA")

WIDTH = 37
STORED = Place(WIDTH)
RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def last_sum(place: Place) -> Step:
    return Step("sum", Place(1, 99), place)


def linear(inputs: int, outputs: int, a: Place, buffer: int, relu: bool = False) -> Step:
    weights, bias = floats(inputs, outputs), floats(outputs)
    return Step("linear", Place(outputs, buffer), a, weights=weights, bias=bias, relu=relu)


@pytest.mark.parametrize("outputs", [2, 7, 8, 9, 15, 16, 17, 20, 24, 33, 64, 72, 130])
@pytest.mark.parametrize("relu", [False, True])
def test_linear_maps_of_every_panel(outputs, relu):
    step = linear(WIDTH, outputs, STORED, 1, relu)
    picked = np.zeros(outputs, np.float32)
    stored = floats(13, WIDTH)
    expected = stored.astype(np.float64) @ step.weights + step.bias
    expected = np.maximum(expected, 0) if relu else expected
    error = dot_error(np.c_[stored, np.ones(13)], np.r_[step.weights, step.bias[None]])
    for column in range(outputs):  # one column at a time, so that none can stand in for another
        picked[:] = 0
        picked[column] = 1
        last = Step("sum_products", Place(1, 2), step.out, Place(outputs, constant=picked.copy()))
        found = NativeNetwork([step, last], WIDTH).run(stored)
        assert (np.abs(found - expected[:, column]) <= error[:, column]).all()


def test_every_kind_of_step():
    row, one = floats(WIDTH), floats(1)
    steps = [
        Step("add", Place(WIDTH, 1), STORED, Place(WIDTH, constant=row)),
        Step("multiply", Place(WIDTH, 2), Place(WIDTH, 1), STORED),
        Step("subtract", Place(WIDTH, 3), Place(WIDTH, 2), Place(1, constant=one)),
        Step("relu", Place(WIDTH, 4), Place(WIDTH, 3)),
        Step("copy", Place(WIDTH, 5), Place(WIDTH, 4)),
        Step("copy", Place(WIDTH, 5, start=WIDTH), STORED),
        Step("sum", Place(2, 6), Place(2 * WIDTH, 5)),
        Step("dot", Place(1, 7), Place(WIDTH, 5, start=3), weights=floats(WIDTH, 1), bias=floats(1)),
        Step("multiply", Place(2, 8), Place(2, 6), Place(1, 7)),
        Step("sum_products", Place(1, 9), Place(2, 8), Place(2, constant=np.ones(2, np.float32))),
        Step("sum", Place(1, 10), Place(5, start=WIDTH - 5)),
        Step("add", Place(1, 11), Place(1, 9), Place(1, 10)),
    ]
    stored = floats(101, WIDTH)

    def result(wide, row, one, weights, bias):
        joined = np.concatenate([np.maximum((wide + row) * wide - one, 0), wide], axis=1)
        sums = joined.reshape(len(wide), -1, 2).sum(axis=1)
        factor = joined[:, 3 : 3 + WIDTH] @ weights + bias
        return (sums * factor).sum(axis=1) + wide[:, -5:].sum(axis=1)

    constants = row, one, steps[7].weights, steps[7].bias
    expected = result(stored.astype(np.float64), *constants)
    largest = [np.abs(row), -np.abs(one), *(np.abs(part) for part in constants[2:])]
    # every term is rounded at most so often: three steps, two sums over the joined row, four steps
    error = gamma(3 + 2 * 2 * WIDTH + 4) * result(np.abs(stored.astype(np.float64)), *largest)
    assert (np.abs(NativeNetwork(steps, WIDTH).run(stored) - expected) <= error).all()


def deep() -> NativeNetwork:
    steps = [
        linear(WIDTH, 24, STORED, 1),
        linear(24, 100, Place(24, 1), 2, relu=True),
        linear(100, 20, Place(100, 2), 3),
        linear(20, 70, Place(20, 3), 4, relu=True),
        Step("dot", Place(1, 5), Place(70, 4), weights=floats(70, 1), bias=floats(1)),
        Step("sum_products", Place(1, 6), Place(24, 1), Place(24, 1)),
        Step("add", Place(1, 7), Place(1, 5), Place(1, 6)),
    ]
    return NativeNetwork(steps, WIDTH)


def test_a_row_scores_the_same_bits_in_every_batch():
    network, stored = deep(), floats(3 * BLOCK_ROWS + 5, WIDTH)
    logits = network.run(stored)
    for rows in range(1, 20):
        for start in (0, 1, BLOCK_ROWS - 2, 2 * BLOCK_ROWS - 1):
            part = slice(start, start + rows)
            np.testing.assert_array_equal(network.run(stored[part]), logits[part])


def test_no_rows():
    assert deep().run(np.empty((0, WIDTH), np.float32)).shape == (0,)


def test_a_matrix_that_is_not_contiguous():
    network, stored = deep(), floats(9, 2 * WIDTH)
    np.testing.assert_array_equal(
        network.run(stored[:, :WIDTH]), network.run(np.ascontiguousarray(stored[:, :WIDTH]))
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(value):
    stored = floats(3, WIDTH)
    stored[1, 4] = value
    finite = np.isfinite(
        NativeNetwork([linear(WIDTH, 9, STORED, 1, relu=True), last_sum(Place(9, 1))], WIDTH).run(stored)
    )
    assert finite[[0, 2]].all()
    assert np.isfinite(deep().run(stored)).tolist() == [True, False, True]


def test_panels_hold_sixteen_columns_then_eight():
    weights = np.arange(2 * 20, dtype=np.float32).reshape(2, 20)
    packed = panels(weights)
    assert packed[:32].reshape(2, 16).tolist() == weights[:, :16].tolist()
    assert packed[32:].reshape(2, 8)[:, :4].tolist() == weights[:, 16:].tolist()
    assert not packed[32:].reshape(2, 8)[:, 4:].any()


@pytest.mark.parametrize(
    ("steps", "complaint"),
    [
        ([], "the last step"),
        ([Step("copy", Place(2, 1), Place(2))], "the last step"),
        ([linear(WIDTH, 1, STORED, 1)], "the last step"),
        ([last_sum(Place(WIDTH, start=1))], "floats 1 to 38 of 37"),
        ([last_sum(Place(3, start=-1))], "floats -1 to 2"),
        ([last_sum(Place(0))], "floats 0 to 0"),
        ([last_sum(Place(3, 1))], "reads what no step before it wrote"),
        ([Step("copy", Place(3, 1), Place(3)), last_sum(Place(3, 1, start=1))], "reads what no step"),
        ([Step("copy", Place(1, 1), Place(3))], "do not fit: copy"),
        ([Step("relu", Place(1, 1), Place(3))], "do not fit: relu"),
        ([Step("add", Place(1, 1), Place(1))], "do not fit: add"),
        ([Step("add", Place(3, 1), Place(3), Place(2)), last_sum(Place(3, 1))], "do not fit: add"),
        ([Step("sum", Place(2, 1), Place(3)), last_sum(Place(2, 1))], "do not fit: sum"),
        ([Step("sum_products", Place(1, 1), Place(3), Place(2))], "do not fit: sum_products"),
        ([Step("sum_products", Place(1, 1), Place(3))], "do not fit: sum_products"),
        ([Step("dot", Place(1, 1), Place(3), weights=floats(2, 1), bias=floats(1))], "do not fit: dot"),
        ([Step("dot", Place(1, 1), Place(3), weights=floats(3, 1))], "do not fit: dot"),
        ([Step("linear", Place(2, 1), Place(3), weights=floats(3, 2), bias=floats(1))], "do not fit: linear"),
        (
            [Step("linear", Place(2, 1, start=1), Place(3), weights=floats(3, 2), bias=floats(2))],
            "do not fit: linear",
        ),
        ([Step("add", Place(2, 1), Place(2), Place(2, constant=floats(3)))], r"constants \(3,\)"),
        ([Step("sum", Place(1), Place(3))], "writes to a buffer"),
        (
            [Step("copy", Place(WIDTH, 1, start=2**20), STORED), last_sum(Place(WIDTH, 1))],
            "floats a row",
        ),
    ],
)
def test_steps_that_would_leave_their_values_are_refused(steps, complaint):
    with pytest.raises(ValueError, match=complaint):
        NativeNetwork(steps, WIDTH)
