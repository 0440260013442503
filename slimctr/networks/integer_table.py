"""An embedding table that is nothing but integer codes and step sizes, also while it is trained."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

StepScope = Literal["row", "table"]


def code_range(bits: int) -> tuple[int, int]:
    """Smallest and largest signed code of `bits` bits."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


@dataclass
class ReadRows:
    """What a forward pass in training read: distinct rows (T,), where each looked-up row is among them (n,),
    and their values (T, d), a leaf that collects the gradient of every repeat."""

    rows: Tensor
    positions: Tensor
    values: Tensor


class IntegerTable(nn.Module):
    """Signed codes of 16, 8, 4 or 2 bits and float32 steps, one per row or one for the table: value = step * code.

    There is no float copy of the table. `codes` holds int16 (N, d) at 16 bits and packed bytes
    (N, ceil(d * bits / 8)) below, the first value in the lowest bits, stored as code + 2^(bits-1). A forward
    pass in training dequantizes the rows it reads and keeps them as `last_read` until `forget`; whoever trains
    the table takes their gradient and writes codes back. Source: arXiv 2212.05735.
    """

    codes: Tensor
    steps: Tensor

    def __init__(self, rows: int, dim: int, bits: int, scope: StepScope) -> None:
        super().__init__()
        if bits not in (2, 4, 8, 16):
            raise ValueError(f"an integer table has 2, 4, 8 or 16 bits, not {bits}")
        self.rows, self.dim, self.bits, self.scope = rows, dim, bits, scope
        empty = torch.zeros(0, dim, dtype=torch.int32)
        width = pack_codes(empty, bits).shape[1]
        self.register_buffer(
            "codes", torch.zeros(rows, width, dtype=torch.int16 if bits == 16 else torch.uint8)
        )
        self.register_buffer("steps", torch.ones(rows if scope == "row" else 1))
        self.last_read: ReadRows | None = None
        self.substitute: Tensor | None = None

    def forward(self, ids: Tensor) -> Tensor:
        """Return rows: int ids (n,) give float32 (n, d).

        In training the rows carry a gradient. While `substitute` (T, d) is set, the rows of the last read have
        those values instead of their own.
        """
        if not (self.training and torch.is_grad_enabled()):
            return self.values_of(ids)
        if self.substitute is not None:
            return functional.embedding(self._read().positions, self.substitute)
        rows, positions = torch.unique(ids.long(), return_inverse=True)
        values = self.values_of(rows).requires_grad_()
        self.last_read = ReadRows(rows, positions, values)
        return functional.embedding(positions, values)

    def values_of(self, rows: Tensor) -> Tensor:
        """Dequantize rows (n,) to float32 (n, d), without a gradient."""
        return self.steps_of(rows) * self.codes_of(rows).float()

    def codes_of(self, rows: Tensor) -> Tensor:
        """Signed codes int32 (n, d) of rows (n,)."""
        return unpack_codes(self.codes.index_select(0, rows), self.dim, self.bits)

    def steps_of(self, rows: Tensor) -> Tensor:
        """Steps (n, 1) of rows (n,), or (1, 1) when the table has one step."""
        steps = self.steps if self.scope == "table" else self.steps.index_select(0, rows)
        return steps.unsqueeze(1)

    def write(self, rows: Tensor, codes: Tensor) -> None:
        """Replace the signed codes (n, d) of rows (n,); every other row stays as it is."""
        self.codes.index_copy_(0, rows, pack_codes(codes, self.bits))

    def forget(self) -> None:
        """Let go of the rows of the last read."""
        self.last_read = None
        self.substitute = None

    def dense(self) -> Tensor:
        """Return every row, dequantized: (N, d)."""
        return self.values_of(torch.arange(self.rows, device=self.codes.device))

    def _read(self) -> ReadRows:
        if self.last_read is None:
            raise RuntimeError("an integer table has no last read to substitute")
        return self.last_read


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Pack signed codes (n, d) into rows of bytes (n, ceil(d * bits / 8)), or int16 (n, d) at 16 bits."""
    if bits == 16:
        return codes.to(torch.int16)
    unsigned = (codes + (1 << (bits - 1))).to(torch.uint8)
    per_byte = 8 // bits
    padded = functional.pad(unsigned, (0, -codes.shape[1] % per_byte))
    digits = padded.reshape(len(codes), padded.shape[1] // per_byte, per_byte)
    return (digits << _shifts(bits, codes.device)).sum(dim=2, dtype=torch.uint8)


def unpack_codes(packed: Tensor, dim: int, bits: int) -> Tensor:
    """Signed codes int32 (n, dim) of packed rows; the inverse of `pack_codes`."""
    if bits == 16:
        return packed.int()
    digits = (packed.unsqueeze(2) >> _shifts(bits, packed.device)) & ((1 << bits) - 1)
    return digits.flatten(1)[:, :dim].int() - (1 << (bits - 1))


def _shifts(bits: int, device: torch.device) -> Tensor:
    return torch.arange(0, 8, bits, dtype=torch.uint8, device=device)
