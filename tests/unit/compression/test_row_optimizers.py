"""Row optimizers against torch's own, and the rows they leave alone."""

import pytest
import torch
from rounding import FEW32

from slimctr.compression.low_precision.row_optimizers import build_row_optimizer


def batches(steps=6):
    generator = torch.Generator().manual_seed(4)
    for step in range(steps):
        rows = torch.tensor([[0, 3], [1, 3, 4], [3], [0, 1, 2, 3, 4]][step % 4])
        yield rows, torch.randn(len(rows), 3, generator=generator)


def test_row_adam_is_sparse_adam():
    reference = torch.nn.Parameter(torch.ones(6, 3))
    adam = torch.optim.SparseAdam([reference], lr=0.01)
    optimizer, values = build_row_optimizer("adam", 6, 3), torch.ones(6, 3)
    for rows, gradient in batches():
        reference.grad = torch.sparse_coo_tensor(rows.unsqueeze(0), gradient, (6, 3), check_invariants=True)
        adam.step()
        values[rows] = optimizer.updated(rows, values[rows], gradient, 0.01)
    torch.testing.assert_close(
        values, reference.detach(), rtol=0, atol=2 * FEW32
    )  # six updates of values about 1


def test_row_adagrad_divides_by_the_root_of_the_mean_squares_of_the_row():
    optimizer, values = build_row_optimizer("row_adagrad", 6, 3), torch.ones(6, 3)
    sums, expected = [0.0] * 6, torch.ones(6, 3)
    for rows, gradient in batches():
        values[rows] = optimizer.updated(rows, values[rows], gradient, 0.1)
        for row, slope in zip(rows.tolist(), gradient, strict=True):
            sums[row] += slope.square().mean().item()
            expected[row] -= 0.1 * slope / sums[row] ** 0.5
    torch.testing.assert_close(values, expected, rtol=0, atol=2 * FEW32)


@pytest.mark.parametrize(("name", "bytes_per_row"), [("adam", 24), ("row_adagrad", 4)])
def test_state_is_of_rows_and_moves_for_the_rows_of_the_batch(name, bytes_per_row):
    optimizer = build_row_optimizer(name, 6, 3)
    before = [tensor.clone() for tensor in optimizer.held()]
    rows = torch.tensor([1, 4])
    optimizer.updated(rows, torch.ones(2, 3), torch.ones(2, 3), 0.1)
    assert sum(tensor.nbytes for tensor in optimizer.held()) == 6 * bytes_per_row
    for old, new in zip(before, optimizer.held(), strict=True):
        changed = (old != new).reshape(6, -1).any(dim=1)
        assert changed.nonzero().flatten().tolist() == [1, 4]


@pytest.mark.parametrize("name", ["adam", "row_adagrad"])
def test_steps_are_optimized_like_rows_of_one_value(name):
    steps, rows = torch.full((3,), 0.01), torch.tensor([0, 2])
    optimizer, twin = build_row_optimizer(name, 3), build_row_optimizer(name, 3, 1)
    slope = torch.tensor([0.5, -0.25])
    flat = optimizer.updated(rows, steps[rows], slope, 1e-3)
    wide = twin.updated(rows, steps[rows].unsqueeze(1), slope.unsqueeze(1), 1e-3)
    assert torch.equal(flat, wide.squeeze(1))
