"""Frequency groups and the widths chosen for them: pure functions of counts and probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Selection = Literal["threshold", "argmax"]


@dataclass(frozen=True)
class FrequencyGroups:
    """The group of every row, int16 (N_f,) per field, rarest group first, and the weight of every group (G,)."""

    of_row: tuple[NDArray[np.int16], ...]
    weights: NDArray[np.float64]


def frequency_groups(counts: Sequence[NDArray[np.int64]], groups: int) -> FrequencyGroups:
    """Cut all rows of all fields, sorted by training count, into `groups` groups of equally many rows.

    Ties are broken by field and row. The weight of a group is the sum of its counts (a count of 0 as 1) over the
    smallest such sum, so the least is exactly 1. With fewer rows than groups there are as many groups as rows.
    Source: arXiv 2409.20305.
    """
    every = np.maximum(np.concatenate(counts), 1)
    size = -(-len(every) // groups)
    of_row = np.empty(len(every), np.int16)
    of_row[np.argsort(every, kind="stable")] = np.arange(len(every)) // size
    sums = np.bincount(of_row, weights=every.astype(np.float64))
    ends = np.cumsum([len(count) for count in counts])[:-1]
    return FrequencyGroups(tuple(np.split(of_row, ends)), sums / sums.min())


def chosen_bits(probabilities: NDArray[np.floating], select: Selection) -> NDArray[np.int64]:
    """Return one width (G,) per group from probabilities (G, widths) over 0, 1, ....

    `threshold`: the largest width of at least half the uniform probability, 1 / (2 * widths). `argmax`: the most
    probable one, the smaller on a tie.
    """
    if select == "argmax":
        return probabilities.argmax(axis=1)
    enough = probabilities >= 1 / (2 * probabilities.shape[1])
    return probabilities.shape[1] - 1 - enough[:, ::-1].argmax(axis=1)


def rows_within(counts: Sequence[NDArray[np.int64]], most: int) -> list[NDArray[np.bool_]]:
    """Mark the `most` rows of highest count over all fields, (N_f,) per field; ties go to earlier fields and rows."""
    every = np.concatenate(counts)
    kept = np.zeros(len(every), bool)
    kept[np.argsort(-every, kind="stable")[:most]] = True
    return np.split(kept, np.cumsum([len(count) for count in counts])[:-1])
