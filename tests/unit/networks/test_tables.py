import pytest
import torch

from slimctr.networks import FloatTable, QuantizedTable, TableSpec
from slimctr.networks.tables import build_table, pool


@pytest.fixture
def codes() -> torch.Tensor:
    return torch.randint(0, 16, (6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_a_row_scaled_table_reads_scale_times_code_plus_minimum_in_float32(codes):
    scales = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], dtype=torch.float16)
    minimums = torch.tensor([-1, 0, 1, 2, 3, 4], dtype=torch.float16)
    table = QuantizedTable.from_codes(codes, scales, minimums, bits=4, scale="row")
    expected = scales.float()[:, None] * codes.float() + minimums.float()[:, None]
    assert table.scales.dtype == torch.float16
    assert torch.equal(table.dense(), expected)
    assert torch.equal(table(torch.tensor([5, 0, 5], dtype=torch.int32)), expected[[5, 0, 5]])


def test_a_column_scaled_table_keeps_float32_steps(codes):
    scales, minimums = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, -1.0, 0.5])
    table = QuantizedTable.from_codes(codes, scales, minimums, bits=4, scale="column")
    assert table.scales.dtype == torch.float32
    assert torch.equal(table.dense(), scales * codes.float() + minimums)


def test_a_code_wider_than_its_bits_is_refused(codes):
    codes[2, 1] = 16
    with pytest.raises(ValueError, match="code 16 does not fit 4 bits"):
        QuantizedTable.from_codes(codes, torch.ones(6), torch.ones(6), bits=4, scale="row")


def test_row_steps_of_a_square_table_are_not_read_as_column_steps():
    codes = torch.tensor([[1, 2], [3, 0]], dtype=torch.uint8)
    steps = torch.tensor([1.0, 10.0])
    by_row = QuantizedTable.from_codes(codes, steps, torch.zeros(2), bits=2, scale="row")
    by_column = QuantizedTable.from_codes(codes, steps, torch.zeros(2), bits=2, scale="column")
    assert by_row.dense().tolist() == [[1, 2], [30, 0]]
    assert by_column.dense().tolist() == [[1, 20], [3, 0]]


def test_bags_are_summed_or_averaged_and_an_empty_bag_is_zero():
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    offsets = torch.tensor([0, 2, 2, 3], dtype=torch.int32)
    assert pool(rows, offsets, "sum").tolist() == [[4, 6], [0, 0], [5, 6]]
    assert pool(rows, offsets, "mean").tolist() == [[2, 3], [0, 0], [5, 6]]


def test_gradients_reach_every_row_of_a_bag():
    table = FloatTable(4, 2)
    pool(table(torch.tensor([1, 1, 3])), torch.tensor([0, 3]), "mean").sum().backward()
    assert table.weight.grad[:, 0].tolist() == pytest.approx([0, 2 / 3, 0, 1 / 3])


@pytest.mark.parametrize(
    "spec",
    [TableSpec(dim=3), TableSpec(kind="quantized", dim=3, bits=4, scale="row")],
    ids=["float", "quantized"],
)
def test_tables_are_built_from_their_specification(spec):
    table = build_table(spec, rows=9)
    assert table.dense().shape == (9, 3)
