"""Chooses the golden rows: real ones, and ones with a field at its head, torso, tail, OOV and missing row."""

import numpy as np
from numpy.typing import NDArray

from slimctr.features import Bag, EncodedBatch, Vocabulary

GOLDEN_ROWS = 256
_PLAIN_ROWS = 64


def golden_batch(batch: EncodedBatch, vocabulary: Vocabulary, rows: int = GOLDEN_ROWS) -> EncodedBatch:
    """Return at least `rows` rows where `batch` has that many: evenly spaced rows of it, some with one field
    changed.

    For every field there is a row that reads its first listed row (head), the middle one (torso), the last
    one (tail), row 0 (OOV) and the row of the missing value; the other fields of that row keep their real
    values.
    """
    schema = vocabulary.schema
    marks = [
        (field, row)
        for field in range(len(schema.fields))
        for row in _marked_rows(vocabulary.rows(field), int(vocabulary.missing_rows[field]))
    ]
    wanted = max(rows, len(marks) + _PLAIN_ROWS)
    index = np.unique(np.linspace(0, len(batch) - 1, wanted).astype(np.int64))
    # a small split is used more than once, so that every mark finds a row
    index = np.concatenate([index, np.resize(index, max(0, len(marks) + 1 - len(index)))])
    chosen = select_rows(batch, index)
    ids, bags = chosen.ids.copy(), [_split(bag) for bag in chosen.bags]
    for position, (field, row) in enumerate(marks):
        if field in schema.single:
            ids[position, schema.single.index(field)] = row
        else:
            bags[schema.multi.index(field)][position] = np.array([row], np.int32)
    return EncodedBatch.uncounted(ids, tuple(_join(lists) for lists in bags))


def select_rows(batch: EncodedBatch, index: NDArray[np.int64]) -> EncodedBatch:
    """Return the rows of `index` (G,), in its order."""
    bags = []
    for bag in batch.bags:
        bags.append(_join([bag.values[bag.offsets[i] : bag.offsets[i + 1]] for i in index]))
    return EncodedBatch.uncounted(np.ascontiguousarray(batch.ids[index]), tuple(bags))


def _marked_rows(rows: int, missing: int) -> list[int]:
    return sorted({0, min(1, rows - 1), rows // 2, rows - 1, missing})


def _split(bag: Bag) -> list[NDArray[np.int32]]:
    return np.split(bag.values, bag.offsets[1:-1])


def _join(lists: list[NDArray[np.int32]]) -> Bag:
    offsets = np.zeros(len(lists) + 1, np.int32)
    np.cumsum([len(values) for values in lists], out=offsets[1:])
    return Bag(np.concatenate(lists).astype(np.int32), offsets)
