"""Float tables that are read through quantizers of several widths: a mixture while searching, one per row after."""

import torch
from torch import Tensor, nn

from slimctr.networks.integer_table import code_range
from slimctr.networks.tables import FloatTable

_SMALLEST_STEP = 1e-10


class _QuantizeRows(torch.autograd.Function):
    """Q(w) = step * clip(round(v), lo, hi) + offset with v = (w - offset) / step; every operand broadcasts to w.

    Backward: w gets the upstream gradient inside the range and nothing outside (strictly), the step
    scale * upstream * (round(v) - v, or lo or hi outside), the offset scale * upstream outside.
    Source: LSQ+ as in arXiv 2409.20305.
    """

    @staticmethod
    def forward(
        ctx, rows: Tensor, step: Tensor, offset: Tensor, lowest: Tensor, highest: Tensor, scale: Tensor
    ) -> Tensor:
        positions = (rows - offset) / step
        codes = torch.maximum(torch.minimum(positions.round(), highest), lowest)
        outside = (positions < lowest) | (positions > highest)
        ctx.save_for_backward(torch.where(outside, codes, codes - positions), outside, scale)
        ctx.shapes = step.shape, offset.shape
        return step * codes + offset

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        slope, outside, scale = ctx.saved_tensors
        step_shape, offset_shape = ctx.shapes
        clipped = upstream * outside
        step_gradient = (upstream * slope * scale).sum_to_size(step_shape)
        return (
            upstream - clipped,
            step_gradient,
            (clipped * scale).sum_to_size(offset_shape),
            None,
            None,
            None,
        )


class Quantizers(nn.Module):
    """The quantizers of widths 1..`most`: a step per width and one offset, each of one value per column or shared.

    `steps` (most, 1) or (most, d), used as |step| + 1e-10; `offset` (d,). Width 0 gives zeros. The gradient of the
    step of width b, and of the offset through it, is scaled by 1 / sqrt(2^(b-1) * values).
    """

    def __init__(self, steps: Tensor, offset: Tensor, values: int) -> None:
        super().__init__()
        self.steps, self.offset = nn.Parameter(steps), nn.Parameter(offset)
        widths = range(1, len(steps) + 1)
        ranges = torch.tensor([code_range(bits) for bits in widths], dtype=torch.float32)
        self.register_buffer("lowest", ranges[:, :1].clone(), persistent=False)
        self.register_buffer("highest", ranges[:, 1:].clone(), persistent=False)
        scales = torch.tensor([[(2.0 ** (bits - 1) * values) ** -0.5] for bits in widths])
        self.register_buffer("scales", scales, persistent=False)

    @property
    def most(self) -> int:
        """The largest width."""
        return len(self.steps)

    def step(self) -> Tensor:
        """Return the steps as they are used: (most, 1) or (most, d)."""
        return self.steps.abs() + _SMALLEST_STEP

    def at_width(self, rows: Tensor, bits: int, columns: Tensor | None = None) -> Tensor:
        """Return rows (n, d) quantized at one width; zeros at width 0."""
        if bits == 0:
            return torch.zeros_like(rows)
        place, offset = bits - 1, self._offset(columns)
        limits = self.lowest[place], self.highest[place], self.scales[place]
        return _QuantizeRows.apply(rows, self.step()[place], offset, *limits)

    def at_widths(self, rows: Tensor, bits: Tensor, columns: Tensor | None = None) -> Tensor:
        """Return rows (n, d) quantized each at its own width, bits (n,); zeros at width 0."""
        place = bits.long().clamp(min=1) - 1
        limits = self.lowest[place], self.highest[place], self.scales[place]
        read = _QuantizeRows.apply(rows, self.step()[place], self._offset(columns), *limits)
        return read * (bits > 0).unsqueeze(1)

    @torch.no_grad()
    def codes(self, rows: Tensor, bits: int, columns: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return unsigned codes uint8 (n, d), scales (d,) and minimums (d,) of rows at a width of 1 or more."""
        lowest, highest = code_range(bits)
        offset = self._offset(columns)
        step = self.step()[bits - 1].expand_as(offset)
        signed = ((rows - offset) / step).round().clamp(lowest, highest)
        return (signed - lowest).to(torch.uint8), step.clone(), offset + lowest * step

    def _offset(self, columns: Tensor | None) -> Tensor:
        return self.offset if columns is None else self.offset[columns]


class WidthChoice(nn.Module):
    """A distribution over widths 0..`most` for every frequency group: softmax of `logits` (G, most + 1)."""

    def __init__(self, groups: int, most: int, temperature: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(groups, most + 1))
        self.temperature = temperature

    def probabilities(self) -> Tensor:
        """Return (G, most + 1) probabilities."""
        return (self.logits / self.temperature).softmax(dim=1)

    def expected_bits(self) -> Tensor:
        """Return (G,) expected widths."""
        return self.probabilities() @ torch.arange(self.logits.shape[1], dtype=torch.float32)


class SearchTable(FloatTable):
    """Reads a row as the mixture of its quantized copies, weighted by the probabilities of its group.

    `groups` uint8 or int16 (N,); quantizers and choice are shared with other tables. `columns` are the columns of
    the shared offset that this table has, None for all.
    """

    groups: Tensor

    def __init__(
        self,
        weight: Tensor,
        groups: Tensor,
        quantizers: Quantizers,
        choice: WidthChoice,
        columns: Tensor | None,
    ) -> None:
        super().__init__(*weight.shape)
        self.weight = nn.Parameter(weight)
        self.register_buffer("groups", groups, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        self.quantizers, self.choice = quantizers, choice

    def forward(self, ids: Tensor) -> Tensor:
        """Return rows: int ids (n,) give (n, d)."""
        rows = super().forward(ids)
        shares = self.choice.probabilities()[self.groups[ids].long()]
        copies = (
            shares[:, bits : bits + 1] * self.quantizers.at_width(rows, bits, self.columns)
            for bits in range(1, self.quantizers.most + 1)
        )
        return sum(copies, torch.zeros_like(rows))


class RowWidthTable(FloatTable):
    """Reads every row through the quantizer of its own width: `bits` uint8 (N,)."""

    bits: Tensor

    def __init__(self, weight: Tensor, bits: Tensor, quantizers: Quantizers, columns: Tensor | None) -> None:
        super().__init__(*weight.shape)
        self.weight = nn.Parameter(weight)
        self.register_buffer("bits", bits, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        self.quantizers = quantizers

    def forward(self, ids: Tensor) -> Tensor:
        """Return quantized rows: int ids (n,) give (n, d)."""
        return self.quantizers.at_widths(super().forward(ids), self.bits[ids], self.columns)
