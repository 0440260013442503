import functools
import operator

import numpy as np
import pytest

from slimctr.features import Bag, EncodedBatch


def bag(*lists):
    offsets = np.cumsum([0, *map(len, lists)]).astype(np.int32)
    return Bag(np.array(functools.reduce(operator.iadd, lists, []), np.int32), offsets)


def lists(a_bag):
    return [a_bag.values[i:j].tolist() for i, j in zip(a_bag.offsets, a_bag.offsets[1:], strict=False)]


def batch(ids, *bags, oov=(1, 0), missing=(0, 2)):
    return EncodedBatch(np.array(ids, np.int32), bags, np.array(oov), np.array(missing))


def test_a_slice_holds_its_instances_as_views_and_no_counts():
    whole = batch([[1], [2], [3]], bag([5], [6, 7], [8]))
    part = whole.slice(1, 3)
    assert part.ids.tolist() == [[2], [3]]
    assert lists(part.bags[0]) == [[6, 7], [8]]
    assert np.shares_memory(part.ids, whole.ids)
    assert len(part.oov) == len(part.missing) == 0
    assert len(whole.slice(2, 9)) == 1
    assert len(whole.slice(7, 9)) == 0


def test_concatenation_keeps_the_order_and_adds_the_counts():
    whole = EncodedBatch.concatenate([batch([[1]], bag([5, 6])), batch([[2], [3]], bag([7], [8, 9]))])
    assert whole.ids.tolist() == [[1], [2], [3]]
    assert lists(whole.bags[0]) == [[5, 6], [7], [8, 9]]
    assert whole.oov.tolist() == [2, 0]
    assert whole.missing.tolist() == [0, 4]


def test_slices_concatenate_to_the_whole():
    whole = batch([[1], [2], [3]], bag([5], [6, 7], [8]))
    again = EncodedBatch.concatenate([whole.slice(0, 1), whole.slice(1, 3)])
    assert again.ids.tolist() == whole.ids.tolist()
    assert lists(again.bags[0]) == lists(whole.bags[0])
    assert len(again.oov) == 0


def test_batches_of_different_fields_do_not_concatenate():
    with pytest.raises(ValueError, match="different fields"):
        EncodedBatch.concatenate([batch([[1]]), batch([[1, 2]])])
    with pytest.raises(ValueError, match="at least one"):
        EncodedBatch.concatenate([])


def test_shapes_and_types_are_checked():
    with pytest.raises(TypeError, match="int32"):
        EncodedBatch.uncounted(np.zeros((1, 1), np.int64))
    with pytest.raises(TypeError, match="int32"):
        Bag(np.zeros(1, np.int64), np.zeros(2, np.int32))
    with pytest.raises(ValueError, match="from 0 to 1"):
        Bag(np.zeros(1, np.int32), np.array([0, 2], np.int32))
    with pytest.raises(ValueError, match="two vectors"):
        Bag(np.zeros((1, 1), np.int32), np.array([0, 1], np.int32))
    with pytest.raises(ValueError, match="1 instances where ids have 2"):
        batch([[1], [2]], bag([1]))
