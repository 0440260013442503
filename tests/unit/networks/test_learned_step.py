"""The quantizer with learned step and offset: golden values, its three gradients, codes that read the same."""

import math

import pytest
import torch
from rounding import FEW32
from torch import nn

from slimctr.networks import QuantizedTable
from slimctr.networks.learned_step import LearnedStepTable


def table(weight, bits, step, offset, shared=1):
    step, offset = (nn.Parameter(torch.tensor(values)) for values in (step, offset))
    return LearnedStepTable(torch.tensor(weight), bits, step, offset, shared)


def test_golden_values_and_gradients_of_two_bits():
    """alpha .05, beta .01: v (.06, -.74, 3.8, -6.2), Q (.01, -.04, .06, -.09)."""
    quantized = table([[0.013, -0.027, 0.2, -0.3]], 2, [0.05] * 4, [0.01] * 4)
    out = quantized(torch.tensor([0]))
    torch.testing.assert_close(out, torch.tensor([[0.01, -0.04, 0.06, -0.09]]), rtol=0, atol=FEW32)
    out.sum().backward()
    scale = quantized.gradient_scale
    assert scale == pytest.approx(1 / math.sqrt(2))
    torch.testing.assert_close(
        quantized.step.grad / scale, torch.tensor([-0.06, -0.26, 1.0, -2.0]), rtol=0, atol=6.2 * FEW32
    )
    assert (quantized.offset.grad / scale).tolist() == pytest.approx([0, 0, 1, 1])
    assert quantized.weight.grad.tolist() == [[1, 1, 0, 0]]


def test_one_bit_reads_the_offset_or_one_step_below():
    quantized = table([[0.3], [-0.3]], 1, [0.05], [0.01])
    torch.testing.assert_close(quantized.dense(), torch.tensor([[0.01], [-0.04]]), rtol=0, atol=FEW32)


def test_the_edge_of_the_range_is_inside():
    """v = lo exactly: the row still moves, the offset does not."""
    quantized = table([[-2.0, 1.0]], 2, [1.0], [0.0, 0.0])
    quantized(torch.tensor([0])).sum().backward()
    assert quantized.weight.grad.tolist() == [[1, 1]]
    assert quantized.offset.grad.tolist() == [0, 0]


def test_a_shared_step_and_offset_gather_the_gradients_of_all_tables_and_repeats():
    step, offset = nn.Parameter(torch.tensor([0.1])), nn.Parameter(torch.zeros(2))
    first, second = (
        LearnedStepTable(torch.full((3, 2), value), 4, step, offset, 12) for value in (0.123, 9.0)
    )
    (first(torch.tensor([0, 0])).sum() + second(torch.tensor([1])).sum()).backward()
    scale = 1 / math.sqrt(8 * 12)
    assert step.grad.item() == pytest.approx(scale * (4 * (1 - 1.23) + 2 * 7), rel=FEW32)
    assert offset.grad.tolist() == pytest.approx([scale, scale])
    assert first.weight.grad.tolist() == [[2, 2], [0, 0], [0, 0]]


def test_the_sign_of_the_step_does_not_matter():
    assert torch.equal(
        table([[0.3, -0.2]], 4, [0.07], [0.0, 0.1]).dense(),
        table([[0.3, -0.2]], 4, [-0.07], [0.0, 0.1]).dense(),
    )


@pytest.mark.parametrize("bits", [1, 2, 3, 6, 8])
def test_stored_codes_read_what_training_read(bits):
    generator = torch.Generator().manual_seed(bits)
    weight = torch.randn(200, 6, generator=generator).tolist()
    quantized = table(weight, bits, [2.0 / 2**bits], torch.linspace(-0.5, 0.5, 6).tolist())
    codes, scales, minimums = quantized.codes()
    stored = QuantizedTable.from_codes(codes, scales, minimums, bits=bits, scale="column")
    torch.testing.assert_close(stored.dense(), quantized.dense(), rtol=0, atol=2 * FEW32)  # values below 2
    assert int(codes.max()) == 2**bits - 1
    assert int(codes.min()) == 0
