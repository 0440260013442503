import pytest
import torch
from rounding import SUMS64

from slimctr.networks import LayerSpec, Linear, Mlp, PairLinear, PairRelu
from slimctr.networks.layers import DROPOUT_STEPS, Dropout, build_layer


def test_a_linear_pair_is_the_product_of_its_factors():
    pair = PairLinear(5, 4, rank=2)
    torch.nn.init.normal_(pair.first.bias)
    torch.nn.init.normal_(pair.second.bias)
    pair, x = pair.double(), torch.randn(3, 5, dtype=torch.float64)
    weight = pair.second.weight @ pair.first.weight
    bias = pair.second.weight @ pair.first.bias + pair.second.bias
    torch.testing.assert_close(pair(x), x @ weight.T + bias, rtol=SUMS64, atol=SUMS64)


def test_a_relu_pair_cuts_negative_codes():
    pair = PairRelu(5, 4, rank=2)
    torch.nn.init.constant_(pair.first.bias, -100.0)
    assert torch.equal(pair(torch.randn(3, 5)), pair.second.bias.expand(3, 4))


@pytest.mark.parametrize(
    ("kind", "rank", "expected"),
    [("linear", None, Linear), ("pair_linear", 2, PairLinear), ("pair_relu", 2, PairRelu)],
)
def test_layers_are_built_from_their_specification(kind, rank, expected):
    layer = build_layer(LayerSpec(kind=kind, inputs=5, outputs=4, rank=rank))
    assert type(layer) is expected
    assert layer(torch.zeros(2, 5)).shape == (2, 4)


def test_a_block_runs_linear_norm_relu_dropout_in_this_order():
    mlp = Mlp([LayerSpec(inputs=3, outputs=4)], batch_norm=True, dropout=0.5).double()
    x = torch.randn(64, 3, dtype=torch.float64)
    block = mlp.blocks[0]
    torch.manual_seed(0)
    actual = mlp(x)
    torch.manual_seed(0)
    y = block.linear(x)
    normed = (y - y.mean(0)) / (y.var(0, unbiased=False) + block.norm.eps).sqrt()
    expected = block.dropout(normed.relu())
    torch.testing.assert_close(actual, expected, rtol=SUMS64, atol=SUMS64)


def test_without_batch_norm_there_is_no_statistic():
    assert not list(Mlp([LayerSpec(inputs=3, outputs=4)], batch_norm=False, dropout=0.0).buffers())


def test_a_replaced_layer_is_used():
    mlp = Mlp([LayerSpec(inputs=3, outputs=4), LayerSpec(inputs=4, outputs=2)], batch_norm=False, dropout=0.0)
    mlp.blocks[1].linear = PairLinear(4, 2, rank=1)
    mlp.blocks[1].linear.second.bias.data.fill_(50.0)
    assert (mlp(torch.randn(3, 3)) > 25).all()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_zeroes_its_share_and_keeps_the_mean(share):
    torch.manual_seed(1)
    dropped = Dropout(share)(torch.ones(1001, 999, dtype=torch.float64))
    error = 5 * (share * (1 - share) / dropped.numel()) ** 0.5  # five standard errors of a share
    rounded = 1 / DROPOUT_STEPS
    assert float((dropped == 0).double().mean()) == pytest.approx(share, abs=error + rounded)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=error / (1 - share) + SUMS64)
    # the share that is kept is rounded
    assert float(dropped.max()) == pytest.approx(1 / (1 - share), rel=rounded / (1 - share))


def test_dropout_draws_each_value_on_its_own_and_anew():
    torch.manual_seed(1)
    dropout = Dropout(0.5)
    first, second = (dropout(torch.ones(4, 50_000)) > 0 for _ in range(2))
    pairs = torch.stack(
        [first.flatten(), second.flatten(), first.roll(1, 1).flatten(), first.roll(1, 0).flatten()]
    )
    correlations = torch.corrcoef(pairs.float()) - torch.eye(4)
    assert correlations.abs().max() < 5 / first.numel() ** 0.5  # five standard errors


def test_dropout_passes_the_gradient_of_kept_values_only():
    torch.manual_seed(1)
    x = torch.ones(100, requires_grad=True)
    dropped = Dropout(0.5)(x)
    dropped.sum().backward()
    assert torch.equal(x.grad, dropped.detach())


def test_dropout_is_off_in_evaluation():
    x = torch.randn(3, 4)
    assert Dropout(0.5).eval()(x) is x
