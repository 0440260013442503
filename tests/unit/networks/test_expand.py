import torch

from slimctr.networks import Affine, Expands, FrozenExpands, Identity


def mixed() -> Expands:
    expands = Expands([Identity(3), Affine(3, 2), Identity(3), Affine(3, 1)])
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in expands.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return expands


def test_the_block_matrix_expands_every_field_by_its_own_basis():
    expands = mixed()
    codes = torch.randn(5, 9, generator=torch.Generator().manual_seed(3))
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
    torch.testing.assert_close(expands(codes), expected)


def test_frozen_expands_hold_the_same_map_without_parameters():
    expands = mixed()
    frozen = FrozenExpands(*expands.block())
    codes = torch.randn(5, 9, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(frozen(codes), expands(codes))
    assert not list(frozen.parameters())


def test_identity_expands_return_the_codes_themselves():
    codes = torch.randn(2, 6)
    assert Expands([Identity(3), Identity(3)])(codes) is codes


def test_basis_and_mean_are_trained():
    expands = mixed()
    expands(torch.randn(5, 9)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in expands.parameters())
