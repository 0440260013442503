"""Fewer stored rows than listed values: the map from rows of the vocabulary to rows of the tables."""

import torch
from torch import Tensor, nn

from slimctr.networks.spec import RowMapSpec


class RowMap(nn.Module):
    """`stored` int32 (N_f,): the stored row of every row of the vocabulary; the OOV row 0 stays 0.

    Both tables of a field share it. What reads as zeros is multiplied by zero here, so it gets no gradient; the
    artifact stores it so, and its vocabulary carries the stored rows, so that the map itself costs nothing there.
    """

    stored: Tensor

    def __init__(self, spec: RowMapSpec, rows: int) -> None:
        super().__init__()
        self.zero_row = spec.zero_row
        self.register_buffer("stored", torch.zeros(rows, dtype=torch.int32))

    def read(self, table: nn.Module, ids: Tensor) -> Tensor:
        """Return rows of `table` for rows of the vocabulary: int ids (n,) give (n, d)."""
        stored = self.stored[ids]
        values = table(stored)
        return values if self.zero_row is None else values * (stored != self.zero_row).unsqueeze(1)
