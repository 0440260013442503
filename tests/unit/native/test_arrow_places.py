"""The kernels that find the buffers of an Arrow batch, against the same rules in Python."""

import numpy as np
import pytest

from slimctr.native.arrow_places import LONG, OUTSIDE, UNEQUAL, UNLISTED, BatchCheck, batch_places

MAX_LENGTH = 2**48
ODD = [-(2**63), -1, 2**63 - 1, 2**48, 2**48 + 1, 50, 51]


def expected_fault(nodes: np.ndarray, buffers: np.ndarray, body_bytes: int) -> int:
    if any(not 0 <= number <= MAX_LENGTH for number in nodes.ravel().tolist()):
        return LONG
    fits = (at >= 0 and size >= 0 and at + size <= body_bytes for at, size in buffers.tolist())
    return 0 if all(fits) else OUTSIDE


@pytest.mark.parametrize("seed", range(200))
def test_places_are_those_of_the_metadata_and_faults_are_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    nodes = rng.integers(0, 26, (rng.integers(0, 5), 2))
    buffers = rng.integers(0, 26, (rng.integers(0, 5), 2))
    for numbers in (nodes, buffers):
        if numbers.size and rng.random() < 0.3:
            numbers[rng.integers(len(numbers)), rng.integers(2)] = rng.choice(ODD)
    before = rng.bytes(int(rng.integers(0, 9)))
    metadata = before + nodes.astype("<i8").tobytes() + buffers.astype("<i8").tobytes()
    start = len(before) + nodes.nbytes
    fault, found, places = batch_places(
        metadata, (len(before), len(nodes)), (start, len(buffers)), (1000, 50), MAX_LENGTH
    )
    assert fault == expected_fault(nodes, buffers, 50)
    if fault == 0:
        assert np.array_equal(found, nodes)
        assert np.array_equal(places, np.vstack([buffers + np.array([1000, 0]), np.zeros((1, 2), int)]))


@pytest.mark.parametrize(("nodes", "buffers"), [((0, 3), (0, 0)), ((0, 0), (1, 2)), ((-1, 1), (0, 0))])
def test_vectors_that_pass_the_metadata_are_refused(nodes: tuple[int, int], buffers: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="pass the end of 32 bytes"):
        batch_places(bytes(32), nodes, buffers, (0, 0), MAX_LENGTH)


def test_a_batch_has_nodes_of_one_length_and_lists_of_its_missing_cells() -> None:
    check = BatchCheck([0, 2], [(0, 1), (1, 0)], 3, 2)
    nodes = np.array([[4, 1], [9, 0], [4, 7]])
    places = np.array([[5, 0], [5, 2], [0, 0]])
    assert check.fault(nodes, places, 4) == 0
    assert check.fault(nodes, places, 5) == UNEQUAL
    assert check.fault(np.array([[4, 1], [9, 0], [3, 7]]), places, 4) == UNEQUAL
    assert check.fault(np.array([[4, 1], [9, 1], [4, 7]]), places, 4) == UNLISTED
    with pytest.raises(ValueError, match="3 nodes and 2 buffers"):
        check.fault(nodes[:2], places, 4)
    with pytest.raises(ValueError, match="not within"):
        BatchCheck([0, 3], [], 3, 2)
    with pytest.raises(ValueError, match="not within"):
        BatchCheck([0], [(0, 2)], 3, 2)
