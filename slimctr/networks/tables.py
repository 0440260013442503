"""Embedding tables in torch: row ids in, stored vectors out, for single values and for bags of values."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from slimctr.networks.spec import Pooling, TableSpec

INITIAL_DEVIATION = 1e-4
_BLOCK_ROWS = 65_536


def pool(rows: Tensor, offsets: Tensor, pooling: Pooling) -> Tensor:
    """Sum or average consecutive rows: (n, d) rows and B+1 offsets give (B, d). An empty bag gives zeros."""
    lengths = offsets.diff()
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=rows.device), lengths)
    total = rows.new_zeros(len(lengths), rows.shape[1]).index_add(0, owner, rows)
    return total / lengths.clamp(min=1).unsqueeze(1) if pooling == "mean" else total


class FloatTable(nn.Module):
    """A float32 table: `weight` (N, d)."""

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, dim).normal_(std=INITIAL_DEVIATION))

    def forward(self, ids: Tensor) -> Tensor:
        """Return rows: int ids (n,) give (n, d)."""
        return functional.embedding(ids, self.weight)

    def dense(self) -> Tensor:
        """Return every row: (N, d)."""
        return self.weight


class HalfTable(nn.Module):
    """A float16 table: `weight` (N, d), read as float32. It is not trained."""

    weight: Tensor

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(rows, dim, dtype=torch.float16))

    def forward(self, ids: Tensor) -> Tensor:
        """Return widened rows: int ids (n,) give float32 (n, d)."""
        return self.weight.index_select(0, ids).float()

    def dense(self) -> Tensor:
        """Return every row, widened: (N, d)."""
        return self.weight.float()


class QuantizedTable(nn.Module):
    """Unsigned integer codes and their step sizes; reading a row gives scale * code + minimum in float32.

    `codes` uint8 (N, d) holds one code per byte whatever `bits` says; packing belongs to the artifact, whose
    format page fixes this arithmetic. `scales` and `minimums` are float16 (N,) for scale "row", float32 (d,)
    for scale "column". Nothing here is trained.
    """

    codes: Tensor
    scales: Tensor
    minimums: Tensor

    def __init__(self, rows: int, dim: int, bits: int, scale: Literal["row", "column"]) -> None:
        super().__init__()
        self.bits = bits
        self.scale = scale
        steps = torch.zeros(rows, dtype=torch.float16) if scale == "row" else torch.zeros(dim)
        self.register_buffer("codes", torch.zeros(rows, dim, dtype=torch.uint8))
        self.register_buffer("scales", steps)
        self.register_buffer("minimums", steps.clone())

    @classmethod
    def from_codes(
        cls, codes: Tensor, scales: Tensor, minimums: Tensor, *, bits: int, scale: Literal["row", "column"]
    ) -> "QuantizedTable":
        """Build a table from codes (N, d) and steps (N,) or (d,); steps per row are rounded to float16.

        Raises ValueError when a code does not fit `bits`.
        """
        if int(codes.max()) >= 1 << bits:
            raise ValueError(f"code {int(codes.max())} does not fit {bits} bits")
        table = cls(codes.shape[0], codes.shape[1], bits, scale)
        table.codes.copy_(codes)
        table.scales.copy_(scales)
        table.minimums.copy_(minimums)
        return table

    def forward(self, ids: Tensor) -> Tensor:
        """Return dequantized rows: int ids (n,) give float32 (n, d)."""
        codes = self.codes.index_select(0, ids).float()
        if self.scale == "column":
            return self.scales * codes + self.minimums
        scales = self.scales.index_select(0, ids).float().unsqueeze(1)
        return scales * codes + self.minimums.index_select(0, ids).float().unsqueeze(1)

    def dense(self) -> Tensor:
        """Return every row, dequantized: (N, d)."""
        return self(torch.arange(self.codes.shape[0], device=self.codes.device))


class MixedTable(nn.Module):
    """Unsigned codes whose bit width changes from one segment of rows to the next; 0 bits read zeros.

    `codes` uint8 (N, d); row r of segment s reads scales[s] * code + minimums[s] in float32, both (S, d).
    `segments` are (bits, rows) in row order. Nothing here is trained.
    """

    codes: Tensor
    scales: Tensor
    minimums: Tensor
    segment_of_row: Tensor

    def __init__(self, rows: int, dim: int, segments: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.segments = tuple(segments)
        self.register_buffer("codes", torch.zeros(rows, dim, dtype=torch.uint8))
        self.register_buffer("scales", torch.zeros(len(self.segments), dim))
        self.register_buffer("minimums", torch.zeros(len(self.segments), dim))
        lengths = torch.tensor([count for _, count in self.segments])
        owner = torch.repeat_interleave(torch.arange(len(self.segments), dtype=torch.uint8), lengths)
        self.register_buffer("segment_of_row", owner, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return dequantized rows: int ids (n,) give float32 (n, d)."""
        owner = self.segment_of_row[ids].long()
        return self.scales[owner] * self.codes[ids].float() + self.minimums[owner]

    def dense(self) -> Tensor:
        """Return every row, dequantized: (N, d)."""
        return self(torch.arange(len(self.codes), device=self.codes.device))


class QuotientRemainderTable(nn.Module):
    """Rows made of two float tables: row r combines `quotient`[r // divisor] and `remainder`[r % divisor].

    `quotient` is (ceil(N / divisor), d), `remainder` (divisor, d); they are added or multiplied. A product starts
    from remainders about 1, so that it starts as small as a sum does.
    """

    def __init__(self, rows: int, dim: int, divisor: int, combine: Literal["sum", "product"]) -> None:
        super().__init__()
        self.rows, self.divisor, self.combine = rows, divisor, combine
        middle = 1.0 if combine == "product" else 0.0
        self.quotient = nn.Parameter(torch.empty(-(-rows // divisor), dim).normal_(std=INITIAL_DEVIATION))
        self.remainder = nn.Parameter(torch.empty(divisor, dim).normal_(mean=middle, std=INITIAL_DEVIATION))

    def forward(self, ids: Tensor) -> Tensor:
        """Return rows: int ids (n,) give (n, d). Division is that of whole numbers."""
        quotients = functional.embedding(torch.div(ids, self.divisor, rounding_mode="floor"), self.quotient)
        remainders = functional.embedding(ids % self.divisor, self.remainder)
        return quotients + remainders if self.combine == "sum" else quotients * remainders

    def dense(self) -> Tensor:
        """Return every row: (N, d)."""
        return self(torch.arange(self.rows, device=self.quotient.device))


class MaskedTable(nn.Module):
    """Rows of which some values are kept and the others are zero, always: `values` float32 (K,), row after row.

    Bit j mod 8 of byte j div 8 of a row of `masks`, uint8 (N, ceil(d / 8)), says that value j is kept. With 16
    `value_bits` a value reads as its float16, and its gradient passes straight through the rounding.
    """

    masks: Tensor
    starts: Tensor

    def __init__(self, rows: int, dim: int, kept: int, value_bits: Literal[16, 32]) -> None:
        super().__init__()
        self.dim, self.value_bits = dim, value_bits
        self.values = nn.Parameter(torch.zeros(kept))
        self.register_buffer("masks", torch.zeros(rows, -(-dim // 8), dtype=torch.uint8))
        self.register_buffer("starts", torch.zeros(rows, dtype=torch.int64), persistent=False)
        self.register_load_state_dict_post_hook(_find_starts)

    @classmethod
    def of(cls, weight: Tensor, kept: Tensor, value_bits: Literal[16, 32]) -> "MaskedTable":
        """Keep the values of `weight` (N, d) where bool `kept` (N, d) is true."""
        table = cls(*weight.shape, int(kept.sum()), value_bits)
        bits = functional.pad(kept, (0, -kept.shape[1] % 8)).unflatten(1, (-1, 8)).to(torch.uint8)
        masks = (bits << torch.arange(8, dtype=torch.uint8)).sum(dim=2, dtype=torch.uint8)
        table.load_state_dict({"values": weight.detach()[kept], "masks": masks})
        return table

    def kept(self, ids: Tensor) -> Tensor:
        """Return which values of rows are kept: int ids (n,) give bool (n, d)."""
        bits = self.masks[ids].unsqueeze(2) >> torch.arange(8, dtype=torch.uint8, device=self.masks.device)
        return (bits & 1).flatten(1)[:, : self.dim].bool()

    def forward(self, ids: Tensor) -> Tensor:
        """Return rows: int ids (n,) give float32 (n, d)."""
        ids = ids.long()
        kept = self.kept(ids)
        places = self.starts[ids].unsqueeze(1) + kept.cumsum(dim=1) - 1
        values = functional.embedding(places[kept], self.values.unsqueeze(1)).squeeze(1)
        if self.value_bits == 16:
            values = values + (values.half().float() - values).detach()  # exact: it reads the float16
        return values.new_zeros(kept.shape).masked_scatter(kept, values)

    def dense(self) -> Tensor:
        """Return every row: (N, d)."""
        return self(torch.arange(len(self.masks), device=self.masks.device))

    def set_first_row(self, row: Tensor) -> None:
        """Replace the kept values of row 0 by those of `row` (d,)."""
        kept = self.kept(torch.zeros(1, dtype=torch.int64, device=self.masks.device))[0]
        self.values[: int(kept.sum())] = row[kept]


def _find_starts(table: MaskedTable, _: object) -> None:
    rows = torch.arange(len(table.masks), device=table.masks.device)
    counts = torch.cat([table.kept(block).sum(dim=1) for block in rows.split(_BLOCK_ROWS)])
    if int(counts.sum()) != len(table.values):
        raise ValueError(f"masks keep {int(counts.sum())} values, the table has {len(table.values)}")
    table.starts.copy_(counts.cumsum(0) - counts)


AnyTable = FloatTable | HalfTable | QuantizedTable | MixedTable | QuotientRemainderTable | MaskedTable


def build_table(spec: TableSpec, rows: int) -> AnyTable:
    """Return a table of `rows` rows with initial (float) or zero (half, codes) contents."""
    if spec.kind == "float":
        return FloatTable(rows, spec.dim)
    if spec.kind == "half":
        return HalfTable(rows, spec.dim)
    if spec.kind == "quotient_remainder":
        return QuotientRemainderTable(rows, spec.dim, spec.divisor, spec.combine)
    if spec.kind == "masked":
        return MaskedTable(rows, spec.dim, spec.kept, spec.value_bits)
    if spec.kind == "mixed":
        return MixedTable(rows, spec.dim, spec.segments)
    return QuantizedTable(rows, spec.dim, spec.bits, spec.scale)
