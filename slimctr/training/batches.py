"""A split in memory as tensors, and the mini-batches cut from it by row index."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from slimctr.clicklogs.dataset import Split
from slimctr.networks import TensorBag


class Batch(NamedTuple):
    """Inputs of the model, clicked 0/1 as float32 (B,), and where another model is imitated its logits (B,)."""

    ids: Tensor
    bags: tuple[TensorBag, ...]
    labels: Tensor
    teacher: Tensor | None = None


@dataclass(frozen=True)
class TensorSplit:
    """Row ids (n, S), one (values, offsets) pair per multi-valued field, labels (n,), logits to imitate (n,)."""

    ids: Tensor
    bags: tuple[TensorBag, ...]
    labels: Tensor
    teacher: Tensor | None = None

    @classmethod
    def of(cls, split: Split) -> "TensorSplit":
        """View an encoded split as tensors, without a copy where its arrays allow."""
        bags = tuple((_tensor(bag.values), _tensor(bag.offsets)) for bag in split.batch.bags)
        return cls(_tensor(split.batch.ids), bags, _tensor(split.labels))

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> Batch:
        """Return the rows of an index (B,) in its order."""
        bags = tuple(_take_bag(values, offsets, index) for values, offsets in self.bags)
        teacher = None if self.teacher is None else self.teacher[index]
        return Batch(self.ids[index], bags, self.labels[index], teacher)

    def in_order(self, rows: int) -> Iterator[Batch]:
        """Cut the split into consecutive batches of `rows` rows; the last one may be shorter."""
        for start in range(0, len(self), rows):
            yield self.take(torch.arange(start, min(start + rows, len(self))))

    def shuffled(self, rows: int, negative_rate: float, generator: torch.Generator) -> list[Tensor]:
        """Return the row indices of one epoch's batches: a fresh order, and a fresh draw of the negatives.

        Each negative stays with probability `negative_rate`. A last batch of one row is left out, because
        batch-norm cannot train on it.
        """
        order = torch.randperm(len(self), generator=generator)
        if negative_rate < 1:
            drawn = torch.rand(len(self), generator=generator) < negative_rate
            order = order[(drawn | (self.labels > 0))[order]]
        return [index for index in order.split(rows) if len(index) > 1]


def _take_bag(values: Tensor, offsets: Tensor, index: Tensor) -> TensorBag:
    lengths = offsets.diff()[index]
    taken = torch.zeros(len(index) + 1, dtype=torch.int64)
    torch.cumsum(lengths, 0, out=taken[1:])
    shift = torch.repeat_interleave(offsets[:-1][index] - taken[:-1], lengths)
    return values[shift + torch.arange(len(shift))], taken


def _tensor(array: np.ndarray) -> Tensor:
    writable = array if array.flags.writeable else array.copy()
    return torch.from_numpy(np.ascontiguousarray(writable))
