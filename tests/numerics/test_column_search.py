"""Column masks on networks: gradients against finite differences, compact against masked, orthogonality."""

import numpy as np
import pytest
import torch
from rounding import (
    SUMS64,
    assert_same_logits,
    dot_error,
    exact_logits,
    folded_error,
    gamma,
    network_error,
)

from slimctr.compression.columns import compact
from slimctr.compression.mask_search import MaskedColumns, mask_gradient
from slimctr.compression.orthogonality import column_overlap, regularity
from slimctr.export.onnx_network import FoldedNetwork
from slimctr.networks import NETWORKS, build_model, float_spec
from slimctr.training import Batch, TensorSplit, TrainConfig, estimate_batch_norm

MASK = np.array([[1, 0, 1, 1, 0, 1], [0, 0, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 1]], bool)


def network(name):
    """A model with random weights over four fields, one of them pooled, and lively batch-norms."""
    torch.manual_seed(3)
    spec = float_spec(
        name,
        dim=6,
        field_names=["a", "b", "c", "d"],
        rows=[30, 40, 50, 3],
        pooling=[None, "mean", None, None],
        params={"hidden": (20, 16, 12)},
        negative_sampling_rate=0.25,
    )
    model = build_model(spec).eval()
    for parameter_name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.5 if "tables" in parameter_name else 0.2)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


def batch(rows=64):
    generator = torch.Generator().manual_seed(7)
    ids = torch.stack([torch.randint(n, (rows,), generator=generator) for n in (30, 50, 3)], dim=1)
    bag = (torch.randint(40, (2 * rows,), generator=generator), torch.arange(0, 2 * rows + 1, 2))
    labels = torch.randint(2, (rows,), generator=generator).float()
    return Batch(ids.int(), ((bag[0].int(), bag[1]),), labels)


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("alignment", ["scatter", "projection"])
def test_compact_model_is_the_masked_one(name, alignment):
    model, rows = network(name), batch(61)
    smaller = compact(model, MASK, alignment)
    assert [table.dim for table in smaller.spec.tables] == [4, 1, 6, 2]
    stored = model.lookup(rows.ids, rows.bags)
    masked = stored.clone()
    masked[:, :24] *= torch.from_numpy(MASK).ravel()
    with torch.no_grad():
        found, kept = smaller(rows.ids, rows.bags), smaller.lookup(rows.ids, rows.bags)
    assert_same_logits(found, exact_logits(model, masked.detach()), network_error(smaller.network, kept))


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_folded_compact_network_is_the_same_function(name):
    smaller = compact(network(name), MASK)
    stored = torch.randn(53, smaller.spec.stored_width, generator=torch.Generator().manual_seed(5))
    error = folded_error(smaller, stored)
    assert_same_logits(FoldedNetwork(smaller)(stored).detach(), exact_logits(smaller, stored), error)


def test_folding_deletes_the_input_columns_of_layer_1():
    model = network("dnn")
    smaller = compact(model, MASK)
    folded = FoldedNetwork(smaller).folded.backbone.mlp.blocks[0]
    gain = model.backbone.mlp.blocks[0].norm
    scale = gain.weight.double() / torch.sqrt(gain.running_var.double() + gain.eps)
    kept = model.backbone.mlp.blocks[0].linear.weight[:, torch.from_numpy(MASK).ravel()]
    exact = (scale.unsqueeze(1) * kept.double()).detach()
    torch.testing.assert_close(folded.linear.weight.double(), exact, rtol=gamma(2), atol=0)  # rounded twice


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_mask_gradient_is_that_of_a_relaxed_mask(name):
    """Central differences of the log-loss over z, at columns that are alive and at columns that are dead."""
    model, rows = network(name).double(), batch()
    model.expands = MaskedColumns(24)
    mask = torch.from_numpy(MASK).double()
    gradient, loss = mask_gradient(model, rows, mask)

    def loss_at(relaxed):
        model.expands.mask = relaxed.reshape(-1)
        with torch.no_grad():
            logits = model(rows.ids, rows.bags) - model.logit_correction
            return torch.nn.functional.binary_cross_entropy_with_logits(logits, rows.labels.double())

    assert loss == pytest.approx(float(loss_at(mask)), rel=SUMS64)
    for field, column in [(0, 0), (0, 1), (1, 2), (1, 0), (2, 4), (3, 5), (3, 3)]:
        shift = torch.zeros_like(mask)
        shift[field, column] = 1e-5
        expected = (loss_at(mask + shift) - loss_at(mask - shift)) / 2e-5
        # of central differences of step h: of the order of h^2, and the rounding of a loss, 2^-53 / h
        assert float(gradient[field, column]) == pytest.approx(float(expected), rel=1e-4, abs=1e-9)
    assert (gradient[1, :2] != 0).all()  # a dead column still says how it is missed


def test_every_row_of_a_field_sees_the_same_mask():
    masked = MaskedColumns(24)
    masked.mask = torch.from_numpy(MASK).float().ravel()
    out = masked(torch.ones(5, 24))
    assert torch.equal(out, masked.mask.expand(5, 24))
    assert set(out.unique().tolist()) == {0.0, 1.0}


def test_orthogonal_columns_have_no_overlap_and_alike_ones_nearly_all():
    orthonormal = torch.linalg.qr(torch.randn(40, 6, generator=torch.Generator().manual_seed(1)))[0]
    x = torch.stack([orthonormal, torch.ones(40, 6)], dim=1)
    none, most = column_overlap(x)
    assert (
        float(none) <= gamma(4 * 40) ** 2
    )  # squares of float32 products over 40 rows, of axes made in float32
    assert float(most) == pytest.approx(30 / 36)


def test_overlap_is_that_of_a_naive_loop_and_does_not_know_scale():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(50, 3, 4, generator=generator, dtype=torch.float64)
    expected = []
    for field in range(3):
        total = 0.0
        for i in range(4):
            for j in range(4):
                a, b = x[:, field, i], x[:, field, j]
                total += (float(a @ b / (a.norm() * b.norm())) - (i == j)) ** 2
        expected.append(total / 16)
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(column_overlap(x), expected, rtol=SUMS64, atol=0)
    scales = 10 ** torch.linspace(-3, 3, 12, dtype=torch.float64).reshape(3, 4)
    torch.testing.assert_close(column_overlap(x * scales), column_overlap(x), rtol=SUMS64, atol=0)


def test_overlap_of_few_rows_and_of_dead_columns_is_finite():
    x = torch.randn(2, 1, 6, generator=torch.Generator().manual_seed(3))
    x[:, 0, 2] = 0.0
    x.requires_grad_(True)
    overlap = column_overlap(x)
    overlap.sum().backward()
    assert 0 <= overlap.item() < 1
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("rows_from", ["batch", "uniform"])
def test_regularity_is_the_mean_over_fields_with_enough_rows(rows_from):
    model, rows = network("deepfm"), batch()
    stored = model.lookup(rows.ids, rows.bags)
    value = regularity(model.spec, 0.5, rows_from)(model, stored)
    read = (
        [stored[:, 6 * i : 6 * i + 6] for i in range(3)]  # field d has 3 rows, fewer than columns
        if rows_from == "batch"
        else [model.tables[i].weight for i in range(3)]
    )
    expected = 0.5 * sum(column_overlap(x.unsqueeze(1)) for x in read) / 3
    assert value.item() == pytest.approx(expected.item(), rel=2 * gamma(50 * 6))  # sums over rows and columns


def test_regularity_of_nothing_is_none():
    model = network("dnn")
    assert regularity(model.spec, 0.0) is None
    assert regularity(model.spec.model_copy(update={"rows": (3, 3, 3, 3)}), 1.0) is None


def test_batch_norm_statistics_become_those_of_the_smaller_network():
    smaller, rows = compact(network("dnn"), MASK), batch(500)
    before = {name: tensor.clone() for name, tensor in smaller.named_parameters()}
    config = TrainConfig.resolve({"network": "dnn", "batch_rows": 500})
    assert estimate_batch_norm(smaller, TensorSplit(*rows), config) == 1
    with torch.no_grad():
        first = smaller.backbone.mlp.blocks[0]
        inputs = smaller.expands(smaller.lookup(rows.ids, rows.bags)).numpy()
    weight, bias = (part.detach().numpy() for part in (first.linear.weight, first.linear.bias))
    exact = inputs.astype(np.float64) @ weight.T + bias
    error = dot_error(inputs, weight.T).max() + gamma(2 * 500) * np.abs(exact).max()
    assert np.abs(first.norm.running_mean.numpy() - exact.mean(axis=0)).max() <= error
    spread = np.abs(exact - exact.mean(axis=0)).max()
    assert np.abs(first.norm.running_var.numpy() - exact.var(axis=0, ddof=1)).max() <= 4 * spread * error
    assert first.norm.momentum == 0.1
    assert not smaller.training
    assert not first.norm.training
    for name, tensor in smaller.named_parameters():
        assert torch.equal(tensor, before[name]), name
