"""Codes that are the table: packing, reading, writing rows, and the rows a training pass reads."""

import pytest
import torch

from slimctr.networks.integer_table import IntegerTable, code_range, pack_codes, unpack_codes


def filled(bits, rows=7, dim=5, scope="row"):
    lowest, highest = code_range(bits)
    generator = torch.Generator().manual_seed(bits)
    table = IntegerTable(rows, dim, bits, scope)
    codes = torch.randint(lowest, highest + 1, (rows, dim), generator=generator, dtype=torch.int32)
    table.write(torch.arange(rows), codes)
    table.steps.copy_(torch.rand(len(table.steps), generator=generator))
    return table, codes


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("dim", [1, 3, 4, 8])
def test_packed_codes_come_back_and_take_their_bits(bits, dim):
    lowest, highest = code_range(bits)
    codes = torch.randint(lowest, highest + 1, (50, dim), generator=torch.Generator().manual_seed(1))
    codes[0], codes[1] = lowest, highest
    packed = pack_codes(codes, bits)
    assert packed[0].nbytes == -(-dim * bits // 8)
    assert torch.equal(unpack_codes(packed, dim, bits), codes.int())


def test_packed_bytes_start_with_the_first_code():
    assert pack_codes(torch.tensor([[-8, 7, 0]]), 4).tolist() == [[0xF0, 0x08]]
    assert pack_codes(torch.tensor([[-2, -1, 0, 1]]), 2).tolist() == [[0b11_10_01_00]]


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("scope", ["row", "table"])
def test_a_row_reads_step_times_code(bits, scope):
    table, codes = filled(bits, scope=scope)
    expected = table.steps.unsqueeze(1) * codes.float()
    assert torch.equal(table.dense(), expected)
    assert torch.equal(table.eval()(torch.tensor([6, 0, 6], dtype=torch.int32)), expected[[6, 0, 6]])


def test_writing_rows_leaves_the_others_alone():
    table, _ = filled(4)
    before = table.codes.clone()
    table.write(torch.tensor([2, 5]), torch.full((2, 5), -8))
    assert torch.equal(table.codes_of(torch.tensor([2, 5])), torch.full((2, 5), -8, dtype=torch.int32))
    others = [0, 1, 3, 4, 6]
    assert torch.equal(table.codes[others], before[others])


def test_a_training_pass_collects_the_gradient_of_every_repeat():
    table, _ = filled(8)
    table.train()
    out = table(torch.tensor([4, 1, 4, 4]))
    (out * torch.tensor([1.0, 2.0, 3.0, 4.0]).unsqueeze(1)).sum().backward()
    assert table.last_read.rows.tolist() == [1, 4]
    assert table.last_read.values.grad[:, 0].tolist() == [2.0, 8.0]
    table.substitute = torch.tensor([[10.0] * 5, [20.0] * 5], requires_grad=True)
    out = table(torch.tensor([4, 1, 4, 4]))
    assert out[:, 0].tolist() == [20, 10, 20, 20]
    assert torch.autograd.grad(out.sum(), table.substitute)[0][:, 0].tolist() == [1, 3]
    table.forget()
    assert table.last_read is None
    assert table.substitute is None


def test_a_pass_without_gradients_remembers_nothing():
    table, _ = filled(8)
    table.train()
    with torch.inference_mode():
        table(torch.tensor([1]))
    assert table.last_read is None


def test_one_bit_is_refused():
    with pytest.raises(ValueError, match="2, 4, 8 or 16 bits, not 1"):
        IntegerTable(3, 2, 1, "row")
