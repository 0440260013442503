import pytest
import torch

from slimctr.networks import LayerSpec, Linear, Mlp, PairLinear, PairRelu
from slimctr.networks.layers import build_layer


def test_a_linear_pair_is_the_product_of_its_factors():
    pair = PairLinear(5, 4, rank=2)
    torch.nn.init.normal_(pair.first.bias)
    torch.nn.init.normal_(pair.second.bias)
    x = torch.randn(3, 5)
    weight = pair.second.weight @ pair.first.weight
    bias = pair.second.weight @ pair.first.bias + pair.second.bias
    torch.testing.assert_close(pair(x), x @ weight.T + bias)


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
    mlp = Mlp([LayerSpec(inputs=3, outputs=4)], batch_norm=True, dropout=0.5)
    x = torch.randn(64, 3)
    torch.manual_seed(0)
    actual = mlp(x)
    torch.manual_seed(0)
    block = mlp.blocks[0]
    y = block.linear(x)
    normed = (y - y.mean(0)) / (y.var(0, unbiased=False) + block.norm.eps).sqrt()
    expected = torch.nn.functional.dropout(normed.relu(), 0.5)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_without_batch_norm_there_is_no_statistic():
    assert not list(Mlp([LayerSpec(inputs=3, outputs=4)], batch_norm=False, dropout=0.0).buffers())


def test_a_replaced_layer_is_used():
    mlp = Mlp([LayerSpec(inputs=3, outputs=4), LayerSpec(inputs=4, outputs=2)], batch_norm=False, dropout=0.0)
    mlp.blocks[1].linear = PairLinear(4, 2, rank=1)
    mlp.blocks[1].linear.second.bias.data.fill_(50.0)
    assert (mlp(torch.randn(3, 3)) > 25).all()
