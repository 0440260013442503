import torch
from rounding import SUMS64

from slimctr.networks import Affine, Expands, FrozenExpands, Identity, Projection, Scatter


def mixed() -> Expands:
    expands = Expands([Identity(3), Affine(3, 2), Identity(3), Affine(3, 1)]).double()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in expands.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return expands


def test_the_block_matrix_expands_every_field_by_its_own_basis():
    expands = mixed()
    codes = torch.randn(5, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    affine, last = expands[1], expands[3]
    expected = torch.cat(
        [
            codes[:, :3],
            torch.stack([affine.basis @ z + affine.mean for z in codes[:, 3:5]]),
            codes[:, 5:8],
            torch.stack([last.basis @ z + last.mean for z in codes[:, 8:9]]),
        ],
        dim=1,
    )
    torch.testing.assert_close(expands(codes), expected, rtol=0, atol=SUMS64)


def test_frozen_expands_hold_the_same_map_without_parameters():
    expands = mixed()
    frozen = FrozenExpands(*expands.block())
    codes = torch.randn(5, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(frozen(codes), expands(codes), rtol=0, atol=SUMS64)
    assert not list(frozen.parameters())


def test_identity_expands_return_the_codes_themselves():
    codes = torch.randn(2, 6)
    assert Expands([Identity(3), Identity(3)])(codes) is codes


def test_basis_and_mean_are_trained():
    expands = mixed()
    expands(torch.randn(5, 9, dtype=torch.float64)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in expands.parameters())


def test_scatter_puts_values_back_at_their_columns_exactly():
    expands = Expands([Scatter(4, (1, 3)), Identity(4), Scatter(4, (0,))])
    codes = torch.randn(5, 7, generator=torch.Generator().manual_seed(4))
    expected = torch.zeros(5, 12)
    expected[:, [1, 3, 4, 5, 6, 7, 8]] = codes
    assert torch.equal(expands(codes), expected)
    assert not list(expands.parameters())
    assert not expands.state_dict()
    assert not expands.is_identity


def test_projection_is_trained_and_starts_where_it_is_put():
    projection = Projection(3, 2)
    torch.nn.init.normal_(projection.weight, generator=torch.Generator().manual_seed(5))
    expands = Expands([Identity(3), projection]).double()
    codes = torch.randn(5, 5, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    expected = torch.cat([codes[:, :3], codes[:, 3:] @ projection.weight.T], dim=1)
    torch.testing.assert_close(expands(codes), expected, rtol=0, atol=SUMS64)
    expands(codes).sum().backward()
    assert projection.weight.grad.any()
    torch.testing.assert_close(FrozenExpands(*expands.block())(codes), expected, rtol=0, atol=SUMS64)
