"""Every interaction and backbone against a float64 loop written from the published formula."""

import naive_networks as naive
import pytest
import torch
from rounding import SUMS64

from slimctr.networks import NETWORKS, build_model, float_spec
from slimctr.networks import interactions as fast

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
    expected = [naive.fm(row) for row in x.tolist()]
    assert fast.factorization_machine(x).tolist() == pytest.approx(expected, abs=SUMS64)


def test_factorization_machine_of_one_field_is_zero(x):
    assert not fast.factorization_machine(x[:, :1]).any()


@pytest.mark.parametrize(
    ("cross", "loop"),
    [
        (fast.CrossV1, naive.cross_v1),
        (fast.CrossV2, naive.cross_v2),
        (fast.GatedCross, naive.gated_cross),
    ],
)
def test_cross_networks_match_their_recursion(cross, loop, x):
    module = randomized(cross(FIELDS * DIM, layers=3))
    expected = [loop(module, row) for row in x.flatten(1).tolist()]
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(module(x.flatten(1)), expected, rtol=SUMS64, atol=SUMS64)


@pytest.mark.parametrize(
    ("module", "loop", "shape"),
    [
        (fast.InnerProducts(FIELDS), naive.inner_products, (10,)),
        (fast.BilinearPairs(FIELDS, DIM), naive.bilinear_pairs, (10 * DIM,)),
        (fast.SqueezeExcitation(FIELDS), naive.senet, (FIELDS, DIM)),
        (fast.FieldAttention(DIM, heads=3, head_width=2), naive.attention, (FIELDS, 6)),
        (fast.CompressedInteraction(FIELDS, (3, 6)), naive.cin, (9,)),
    ],
    ids=lambda part: type(part).__name__ if isinstance(part, torch.nn.Module) else None,
)
def test_field_interactions_match_their_definition(module, loop, shape, x):
    module = randomized(module)
    expected = torch.tensor([loop(module, row) for row in x.tolist()], dtype=torch.float64)
    actual = module(x)
    assert actual.shape == (BATCH, *shape)
    torch.testing.assert_close(actual, expected, rtol=SUMS64, atol=SUMS64)
    assert actual.std(dim=0).max() > 0


@pytest.mark.parametrize("network", NETWORKS)
def test_backbones_match_their_definition(network, x):
    backbone = randomized(build_model(small_spec(network)).backbone)
    wide = torch.linspace(-1, 1, BATCH * FIELDS, dtype=torch.float64).view(BATCH, FIELDS)
    logits = backbone(x, x.flatten(1), wide if network in naive.WIDE else None)
    expected = [
        naive.logit(network, backbone, row, extra)
        for row, extra in zip(x.tolist(), wide.tolist(), strict=True)
    ]
    assert logits.shape == (BATCH,)
    assert logits.tolist() == pytest.approx(expected, rel=SUMS64, abs=SUMS64)


@pytest.mark.parametrize("network", NETWORKS)
def test_one_row_scores_as_it_does_in_a_batch(network):
    model = randomized(build_model(small_spec(network)))
    ids = torch.randint(0, 6, (BATCH, FIELDS), generator=torch.Generator().manual_seed(5), dtype=torch.int32)
    together = model(ids)
    alone = torch.cat([model(ids[row : row + 1]) for row in range(BATCH)])
    torch.testing.assert_close(alone, together, rtol=SUMS64, atol=SUMS64)
    assert together.std() > 0
