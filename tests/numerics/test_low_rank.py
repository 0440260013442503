"""Low-rank factors in float64 against their definitions: reconstruction, exactness at full rank, mean, folding."""

import copy

import numpy as np
import pytest
import torch
from rounding import SUMS64, assert_same_logits, dot_error, gram_error, network_error

from slimctr.compression.factors import (
    TableFactors,
    factor_table,
    make_bases_orthonormal,
    output_pca_layer,
    rebuild,
    shifted_above_zero,
    svd_layer,
    table_axes,
)
from slimctr.compression.principal import Moments, principal_axes
from slimctr.export.onnx_network import FoldedNetwork
from slimctr.networks import NETWORKS, build_model, float_spec
from slimctr.networks.codes_fm import CodesFm
from slimctr.networks.interactions import factorization_machine


def anisotropic(rng, rows, inputs):
    return (
        rng.normal(size=(rows, inputs)) @ rng.normal(size=(inputs, inputs)) * 2.0 ** -np.arange(inputs) + 1.5
    )


@pytest.fixture
def layer():
    rng = np.random.default_rng(0)
    x = anisotropic(rng, 900, 12)
    weight, bias = rng.normal(size=(9, 12)), rng.normal(size=9)
    return x, weight, bias


def through(factors, x):
    return (x @ factors.w1.T + factors.b1) @ factors.w2.T + factors.b2


@pytest.mark.parametrize("rank", [1, 3, 9])
def test_output_pca_projects_about_the_mean(layer, rank):
    x, weight, bias = layer
    y = x @ weight.T + bias
    moments = Moments.of(y)
    axes = principal_axes(moments.covariance)
    projected = moments.mean + (y - moments.mean) @ axes.basis(rank) @ axes.basis(rank).T
    small = through(output_pca_layer(weight, bias, moments, rank), x)
    np.testing.assert_allclose(small, projected, atol=SUMS64)
    np.testing.assert_allclose(small.mean(axis=0), y.mean(axis=0), atol=SUMS64)
    whole = np.square(y).sum(1).mean()
    assert np.square(small - y).sum(1).mean() == pytest.approx(axes.tail(rank), abs=SUMS64 * whole)


def test_full_rank_is_exact(layer):
    x, weight, bias = layer
    y = x @ weight.T + bias
    np.testing.assert_allclose(through(output_pca_layer(weight, bias, Moments.of(y), 9), x), y, atol=SUMS64)
    np.testing.assert_allclose(through(svd_layer(weight, bias, 9), x), y, atol=SUMS64)


def test_the_mean_of_the_outputs_is_not_the_bias_alone(layer):
    x, weight, bias = layer
    y = x @ weight.T + bias
    factors = output_pca_layer(weight, bias, Moments.of(y), 2)
    wrong = bias - factors.w2 @ (factors.w2.T @ bias)
    assert not np.allclose(factors.b2, wrong)


def test_output_pca_beats_svd_on_outputs_it_has_not_seen(layer):
    x, weight, bias = layer
    seen, unseen = x[:450], x[450:]
    y = unseen @ weight.T + bias
    by_outputs = through(output_pca_layer(weight, bias, Moments.of(seen @ weight.T + bias), 3), unseen)
    by_weights = through(svd_layer(weight, bias, 3), unseen)
    assert np.square(by_outputs - y).mean() < np.square(by_weights - y).mean()


def test_shifting_makes_the_inserted_relu_nearly_harmless(layer):
    x, weight, bias = layer
    y = x @ weight.T + bias
    moments = Moments.of(y)
    plain = output_pca_layer(weight, bias, moments, 3)
    shifted = shifted_above_zero(plain, moments)
    np.testing.assert_allclose(through(shifted, x), through(plain, x), atol=SUMS64)

    def with_relu(factors):
        inner = np.maximum(x @ factors.w1.T + factors.b1, 0)
        return np.square(inner @ factors.w2.T + factors.b2 - y).sum(1).mean()

    linear = np.square(through(plain, x) - y).sum(1).mean()
    assert with_relu(shifted) < 1.1 * linear
    assert with_relu(plain) > 2 * linear


def test_table_codes_read_back_the_projection():
    rng = np.random.default_rng(1)
    table, counts = anisotropic(rng, 60, 8), rng.integers(0, 20, 60)
    axes = table_axes(table, counts, weighted=True, centered=True)
    for rank in (1, 4, 8):
        small = factor_table(table, axes, rank)
        basis = axes.axes.basis(rank)
        expected = axes.mean + (table - axes.mean) @ basis @ basis.T
        np.testing.assert_allclose(small.codes @ small.basis.T + small.mean, expected, atol=SUMS64)
        error = counts @ np.square(expected - table).sum(1) / counts.sum()
        whole = counts @ np.square(table).sum(1) / counts.sum()
        assert error == pytest.approx(axes.axes.tail(rank), abs=SUMS64 * whole)


def test_weighted_centered_svd_is_the_pca_of_the_table():
    rng = np.random.default_rng(2)
    table, counts = rng.normal(size=(30, 30)), rng.integers(1, 9, 30)  # rows == width: no silent broadcasting
    axes = table_axes(table, counts, weighted=True, centered=True)
    looked_up = np.repeat(table, counts, axis=0)
    np.testing.assert_allclose(axes.mean, looked_up.mean(axis=0), atol=SUMS64)
    np.testing.assert_allclose(
        axes.axes.eigenvalues, principal_axes(np.cov(looked_up.T, ddof=0)).eigenvalues, atol=SUMS64
    )


def factored(network: str, pair: str = "pair_linear"):
    """A model with random weights, four fields, three factored tables and every hidden layer in two factors."""
    torch.manual_seed(3)
    spec = float_spec(
        network,
        dim=6,
        field_names=["a", "b", "c", "d"],
        rows=[30, 40, 50, 3],
        pooling=[None, "mean", None, None],
        params={"hidden": (20, 16, 12)},
        negative_sampling_rate=0.25,
    )
    model = build_model(spec).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    for block in model.backbone.mlp.blocks:
        torch.nn.init.normal_(block.norm.running_mean)
        torch.nn.init.uniform_(block.norm.running_var, 0.5, 2.0)
    rng = np.random.default_rng(4)
    tables = {
        i: TableFactors(rng.normal(size=(n, r)), rng.normal(size=(6, r)), rng.normal(size=6))
        for i, (n, r) in enumerate([(30, 2), (40, 3), (50, 2)])
    }
    linear = [block.linear for block in model.backbone.mlp.blocks]
    layers = {
        i: svd_layer(x.weight.detach().numpy(), x.bias.detach().numpy(), 4) for i, x in enumerate(linear)
    }
    return rebuild(model, tables, layers, pair)


@pytest.mark.parametrize("network", sorted(NETWORKS))
@pytest.mark.parametrize("pair", ["pair_linear", "pair_relu"])
def test_folded_network_is_the_same_function(network, pair):
    model = factored(network, pair)
    folded = FoldedNetwork(model)
    stored = torch.randn(53, model.spec.stored_width, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        exact = copy.deepcopy(model).double().network(stored.double())
        found = folded(stored)
    error = network_error(folded, stored)
    assert error.max() < 0.05 * exact.std()  # the bound tells another function from a rounded one
    assert_same_logits(found, exact, error)


@pytest.mark.parametrize(("network", "interactions"), [("dcn", (4, 6)), ("deepfm", (2 + 3 + 2 + 6,))])
def test_folding_takes_codes_into_the_mlp_and_where_it_can_into_interactions(network, interactions):
    model = factored(network)
    folded = FoldedNetwork(model).folded
    widths = {}

    def watch(module, inputs):
        x, mlp_input, _ = inputs
        widths["interactions"], widths["mlp"] = x.shape[1:], mlp_input.shape[1]

    folded.backbone.register_forward_pre_hook(watch)
    folded.network(torch.zeros(2, model.spec.stored_width))
    assert widths == {"interactions": interactions, "mlp": 2 + 3 + 2 + 6}


@pytest.mark.parametrize("bases", ["orthonormal", "any", "of low rank"])
def test_factorization_machine_on_codes_is_that_of_the_embeddings(bases):
    generator = torch.Generator().manual_seed(1)
    basis = torch.randn(4, 6, 3, generator=generator)
    if bases == "orthonormal":
        basis = torch.linalg.qr(basis).Q
    if bases == "of low rank":
        basis[:, :, 2] = basis[:, :, 0] + basis[:, :, 1]
    offset = torch.randn(24, generator=generator)
    codes = torch.randn(50, 12, generator=generator)
    matrix = torch.block_diag(*basis.transpose(1, 2))

    folded = CodesFm(matrix, offset, dim=6)

    assert (folded.gram is None) == (bases == "orthonormal")
    embeddings = (codes.double() @ matrix.double() + offset.double()).reshape(50, 4, 6)
    error = network_error(lambda codes: folded(codes) + folded.constant, codes) + gram_error(folded, codes)
    assert_same_logits(folded(codes) + folded.constant, factorization_machine(embeddings), error)


def test_bases_are_made_orthonormal_without_moving_an_embedding():
    model = factored("deepfm")
    stored_rows = [torch.arange(rows) for rows in model.spec.rows]

    def embeddings(table, expand, ids):
        """In float64, and how far float32 factors of it may be."""
        codes, (matrix, offset) = (
            table(ids).detach().numpy(),
            (part.detach().numpy() for part in expand.block()),
        )
        exact = codes.astype(np.float64) @ matrix + offset
        return exact, dot_error(codes, matrix)

    before = [embeddings(*parts) for parts in zip(model.tables, model.expands, stored_rows, strict=True)]
    assert FoldedNetwork(model).folded.backbone.interaction.gram is not None

    make_bases_orthonormal(model)

    assert FoldedNetwork(model).folded.backbone.interaction.gram is None
    for parts, (expected, error) in zip(
        zip(model.tables, model.expands, stored_rows, strict=True), before, strict=True
    ):
        found, other_error = embeddings(*parts)
        assert (np.abs(found - expected) <= error + other_error).all()


def test_folding_leaves_the_model_alone():
    model = factored("dcn")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    FoldedNetwork(model)
    assert model.logit_correction != 0
    assert not model.mlp_on_codes
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
