"""Every interaction and backbone against a float64 loop written from the published formula."""

import math

import pytest
import torch

from slimctr.networks import NETWORKS, build_model, float_spec
from slimctr.networks.interactions import CrossV1, CrossV2, factorization_machine

FIELDS, DIM, BATCH = 5, 4, 7


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(BATCH, FIELDS, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def randomized(module: torch.nn.Module, seed: int = 11) -> torch.nn.Module:
    """Draw every parameter and statistic, so that zero biases and unit variances hide nothing."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) - 0.3)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.2)
    return module


def loop_fm(row):
    total = 0.0
    for i in range(FIELDS):
        for j in range(i + 1, FIELDS):
            total += sum(row[i][d] * row[j][d] for d in range(DIM))
    return total


def loop_cross_v1(module, x0):
    x = list(x0)
    for weight, bias in zip(module.weights, module.biases, strict=True):
        scalar = sum(w * v for w, v in zip(weight[0].tolist(), x, strict=True))
        x = [x0[i] * scalar + bias[i].item() + x[i] for i in range(len(x0))]
    return x


def loop_cross_v2(module, x0):
    x = list(x0)
    for linear in module.maps:
        mapped = [
            sum(w * v for w, v in zip(row, x, strict=True)) + linear.bias[i].item()
            for i, row in enumerate(linear.weight.tolist())
        ]
        x = [x0[i] * mapped[i] + x[i] for i in range(len(x0))]
    return x


def loop_mlp(mlp, x):
    for block in mlp.blocks:
        linear, norm = block.linear, block.norm
        y = [
            sum(w * v for w, v in zip(row, x, strict=True)) + linear.bias[i].item()
            for i, row in enumerate(linear.weight.tolist())
        ]
        y = [
            (v - norm.running_mean[i].item())
            / math.sqrt(norm.running_var[i].item() + norm.eps)
            * norm.weight[i].item()
            + norm.bias[i].item()
            for i, v in enumerate(y)
        ]
        x = [max(v, 0.0) for v in y]
    return x


def loop_head(head, hidden):
    return sum(w * v for w, v in zip(head.weight[0].tolist(), hidden, strict=True)) + head.bias.item()


def loop_logit(network, backbone, row, wide):
    flat = [value for vector in row for value in vector]
    hidden = loop_mlp(backbone.mlp, flat)
    if network == "dnn":
        return loop_head(backbone.head, hidden)
    if network == "deepfm":
        return loop_head(backbone.head, hidden) + loop_fm(row) + sum(wide)
    cross = loop_cross_v1 if network == "dcn" else loop_cross_v2
    return loop_head(backbone.head, cross(backbone.cross, flat) + hidden)


def small_spec(network, **params):
    return float_spec(
        network,
        dim=DIM,
        field_names=[f"f{i}" for i in range(FIELDS)],
        rows=[6] * FIELDS,
        pooling=[None] * FIELDS,
        params={"hidden": [6, 3], **params},
    )


def test_factorization_machine_is_the_sum_over_pairs(x):
    expected = [loop_fm(row) for row in x.tolist()]
    assert factorization_machine(x).tolist() == pytest.approx(expected, abs=1e-12)


def test_factorization_machine_of_one_field_is_zero(x):
    assert factorization_machine(x[:, :1]).abs().max() < 1e-15


@pytest.mark.parametrize(("cross", "loop"), [(CrossV1, loop_cross_v1), (CrossV2, loop_cross_v2)])
def test_cross_networks_match_their_recursion(cross, loop, x):
    module = randomized(cross(FIELDS * DIM, layers=3))
    expected = [loop(module, row) for row in x.flatten(1).tolist()]
    torch.testing.assert_close(module(x.flatten(1)), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("network", NETWORKS)
def test_backbones_match_their_definition(network, x):
    backbone = randomized(build_model(small_spec(network)).backbone)
    wide = torch.linspace(-1, 1, BATCH * FIELDS, dtype=torch.float64).view(BATCH, FIELDS)
    logits = backbone(x, x.flatten(1), wide if network == "deepfm" else None)
    expected = [
        loop_logit(network, backbone, row, extra)
        for row, extra in zip(x.tolist(), wide.tolist(), strict=True)
    ]
    assert logits.shape == (BATCH,)
    assert logits.tolist() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("network", NETWORKS)
def test_one_row_scores_as_it_does_in_a_batch(network):
    model = randomized(build_model(small_spec(network)))
    ids = torch.randint(0, 6, (BATCH, FIELDS), generator=torch.Generator().manual_seed(5), dtype=torch.int32)
    together = model(ids)
    alone = torch.cat([model(ids[row : row + 1]) for row in range(BATCH)])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-12)
    assert together.std() > 0
