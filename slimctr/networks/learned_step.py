"""A float table that is read through a quantizer whose step and offset are learned with it."""

import torch
from torch import Tensor, nn

from slimctr.networks.integer_table import code_range
from slimctr.networks.tables import FloatTable

_SMALLEST_STEP = 1e-10


class _Quantize(torch.autograd.Function):
    """Q(w) = step * clip(round(v), lo, hi) + offset with v = (w - offset) / step, ties to even.

    Backward: w gets the upstream gradient inside the range and nothing outside, the step
    scale * upstream * (round(v) - v, or lo or hi outside), the offset scale * upstream outside.
    """

    @staticmethod
    def forward(ctx, rows: Tensor, step: Tensor, offset: Tensor, bits: int, scale: float) -> Tensor:
        lowest, highest = code_range(bits)
        positions = (rows - offset) / step
        codes = positions.round().clamp(lowest, highest)
        outside = (positions < lowest) | (positions > highest)
        ctx.save_for_backward(torch.where(outside, codes, codes - positions), outside, step)
        ctx.scale = scale
        return step * codes + offset

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        slope, outside, step = ctx.saved_tensors
        clipped = upstream * outside
        step_gradient = (upstream * slope).sum_to_size(step.shape) * ctx.scale
        return upstream - clipped, step_gradient, clipped.sum(dim=0) * ctx.scale, None, None


class LearnedStepTable(FloatTable):
    """Float32 `weight` (N, d), `step` (1,) or (d,) and `offset` (d,): reading a row gives its quantized value.

    Step and offset may be shared with other tables; `shared_values` counts the values of all tables that share
    a step, and scales its gradient and that of the offset by 1 / sqrt(2^(bits-1) * shared_values). The step is
    used as |step| + 1e-10. Source: LSQ+ as described in arXiv 2409.20305.
    """

    def __init__(
        self, weight: Tensor, bits: int, step: nn.Parameter, offset: nn.Parameter, shared_values: int
    ) -> None:
        super().__init__(*weight.shape)
        self.weight = nn.Parameter(weight)
        self.step, self.offset = step, offset
        self.bits = bits
        self.gradient_scale = float((1 << (bits - 1)) * shared_values) ** -0.5

    def forward(self, ids: Tensor) -> Tensor:
        """Return quantized rows: int ids (n,) give float32 (n, d)."""
        return self._quantized(super().forward(ids))

    def dense(self) -> Tensor:
        """Return every row, quantized: (N, d)."""
        return self._quantized(self.weight)

    @torch.no_grad()
    def codes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return unsigned codes uint8 (N, d), scales (d,) and minimums (d,): value = scale * code + minimum."""
        lowest, highest = code_range(self.bits)
        step = self._step().expand_as(self.offset)
        signed = ((self.weight - self.offset) / step).round().clamp(lowest, highest)
        return (signed - lowest).to(torch.uint8), step.clone(), self.offset + lowest * step

    def _quantized(self, rows: Tensor) -> Tensor:
        return _Quantize.apply(rows, self._step(), self.offset, self.bits, self.gradient_scale)

    def _step(self) -> Tensor:
        return self.step.abs() + _SMALLEST_STEP
