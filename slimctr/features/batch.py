"""An encoded batch: row ids of every field for B instances, and the counts of what had no row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Bag:
    """Rows of one multi-valued field: instance i reads `values[offsets[i]:offsets[i + 1]]`, never empty.

    `values` int32 (n,), `offsets` int32 (B+1,) from 0 to n.
    """

    values: NDArray[np.int32]
    offsets: NDArray[np.int32]

    def __post_init__(self) -> None:
        if self.values.dtype != np.int32 or self.offsets.dtype != np.int32:
            raise TypeError(
                f"a bag is int32, not {self.values.dtype} values and {self.offsets.dtype} offsets"
            )
        if self.values.ndim != 1 or self.offsets.ndim != 1 or len(self.offsets) == 0:
            raise ValueError("a bag is two vectors: values (n,) and offsets (B+1,)")
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.values):
            raise ValueError(f"bag offsets must run from 0 to {len(self.values)}, the number of values")

    def slice(self, start: int, stop: int) -> "Bag":
        """Return instances start..stop-1; the values are a view."""
        first, last = self.offsets[start], self.offsets[stop]
        return Bag(self.values[first:last], self.offsets[start : stop + 1] - first)

    @staticmethod
    def concatenate(bags: Sequence["Bag"]) -> "Bag":
        """Return the instances of all bags in order."""
        lengths = np.concatenate([np.diff(bag.offsets) for bag in bags])
        offsets = np.zeros(len(lengths) + 1, np.int32)
        np.cumsum(lengths, out=offsets[1:])
        return Bag(np.concatenate([bag.values for bag in bags]), offsets)


# Not frozen: a request of one row notices that fields would be set one by one through `object.__setattr__`.
@dataclass(slots=True, eq=False)
class EncodedBatch:
    """Row ids of B instances; not changed once it is made.

    `ids` int32 (B, S): single-valued fields in schema order. `bags`: one per multi-valued field in schema
    order. `oov` int64 (F,): values that are present but have no row of their own. `missing` int64 (F,):
    values that are absent, listed or not; no value is in both. Both have length 0 when nothing was counted
    (`uncounted`).
    """

    ids: NDArray[np.int32]
    bags: tuple[Bag, ...]
    oov: NDArray[np.int64]
    missing: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.ids.dtype != np.int32 or self.ids.ndim != 2:
            raise TypeError(f"ids are int32 (B, S), not {self.ids.dtype} {self.ids.shape}")
        for position, bag in enumerate(self.bags):
            if len(bag.offsets) != len(self.ids) + 1:
                raise ValueError(
                    f"bag {position} has {len(bag.offsets) - 1} instances where ids have {len(self.ids)}"
                )

    @classmethod
    def uncounted(cls, ids: NDArray[np.int32], bags: tuple[Bag, ...] = ()) -> Self:
        """Return a batch of rows that are known already, without counts."""
        return cls(ids, bags, np.zeros(0, np.int64), np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.ids)

    def slice(self, start: int, stop: int) -> "EncodedBatch":
        """Return instances start..stop-1 as views, uncounted: counts belong to the batch as it was encoded.

        As in a Python slice, `stop` may pass the end.
        """
        stop = min(stop, len(self))
        start = min(start, stop)
        return EncodedBatch.uncounted(
            self.ids[start:stop], tuple(bag.slice(start, stop) for bag in self.bags)
        )

    @staticmethod
    def concatenate(batches: Sequence["EncodedBatch"]) -> "EncodedBatch":
        """Return the instances of all batches in order; counts add up (uncounted when one of them is).

        Raises ValueError for no batches or batches of different fields.
        """
        if not batches:
            raise ValueError("concatenate needs at least one batch")
        if len(batches) == 1:
            return batches[0]
        if len({(batch.ids.shape[1], len(batch.bags)) for batch in batches}) > 1:
            raise ValueError("batches of different fields cannot be concatenated")
        bags = tuple(
            Bag.concatenate(column) for column in zip(*(batch.bags for batch in batches), strict=True)
        )
        ids = np.concatenate([batch.ids for batch in batches])
        if any(len(batch.oov) == 0 for batch in batches):
            return EncodedBatch.uncounted(ids, bags)
        oov = np.sum([batch.oov for batch in batches], axis=0)
        missing = np.sum([batch.missing for batch in batches], axis=0)
        return EncodedBatch(ids, bags, oov, missing)
