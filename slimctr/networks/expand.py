"""From stored rows to embeddings: algebra per field, applied to all fields at once as one block matrix."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from slimctr.networks.spec import ExpandSpec


class Identity(nn.Module):
    """The stored row is the embedding."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def block(self) -> tuple[Tensor, Tensor]:
        """Return the matrix (D, D) and the offset (D,) of this field."""
        return torch.eye(self.dim), torch.zeros(self.dim)


class Affine(nn.Module):
    """e = U z + mu: `basis` U (D, r), `mean` mu (D,), both trainable."""

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.zeros(dim, rank))
        self.mean = nn.Parameter(torch.zeros(dim))

    def block(self) -> tuple[Tensor, Tensor]:
        """Return the matrix (r, D) that multiplies a row vector from the right, and the offset (D,)."""
        return self.basis.T, self.mean


class Scatter(nn.Module):
    """Stored values are put back at their columns of a zero vector: a constant matrix, nothing to train."""

    matrix: Tensor

    def __init__(self, dim: int, columns: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("matrix", scatter_matrix(dim, columns), persistent=False)

    def block(self) -> tuple[Tensor, Tensor]:
        """Return the matrix (d, D) that multiplies a row vector from the right, and a zero offset (D,)."""
        return self.matrix, self.matrix.new_zeros(self.matrix.shape[1])


class Projection(nn.Module):
    """e = P w: `weight` P (D, d), trainable."""

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim, rank))

    def block(self) -> tuple[Tensor, Tensor]:
        """Return the matrix (d, D) that multiplies a row vector from the right, and a zero offset (D,)."""
        return self.weight.T, self.weight.new_zeros(self.weight.shape[0])


Expand = Identity | Affine | Scatter | Projection


def scatter_matrix(dim: int, columns: Sequence[int]) -> Tensor:
    """Return the rows `columns` of the identity matrix: (d, D)."""
    return torch.eye(dim)[list(columns)]


class Expands(nn.ModuleList):
    """One expand per field, run as one matrix: stored codes (B, sum of d_f) give embeddings (B, F*D)."""

    def __init__(self, expands: Iterable[Expand]) -> None:
        super().__init__(expands)

    @property
    def is_identity(self) -> bool:
        """True when no field is expanded, so that codes are embeddings."""
        return all(isinstance(expand, Identity) for expand in self)

    def block(self) -> tuple[Tensor, Tensor]:
        """Return the block-diagonal matrix (sum of d_f, F*D) and the offset (F*D,) of all fields."""
        matrices, offsets = zip(*(expand.block() for expand in self), strict=True)
        return torch.block_diag(*matrices), torch.cat(offsets)

    def forward(self, codes: Tensor) -> Tensor:
        """Expand all fields."""
        if self.is_identity:
            return codes
        matrix, offset = self.block()
        return codes @ matrix + offset


class FrozenExpands(nn.Module):
    """The block matrix as two constants: what an exported graph carries in place of `Expands`."""

    matrix: Tensor
    offset: Tensor

    def __init__(self, matrix: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix.detach().clone())
        self.register_buffer("offset", offset.detach().clone())

    def forward(self, codes: Tensor) -> Tensor:
        """Expand all fields."""
        return torch.addmm(self.offset, codes, self.matrix)


def build_expand(spec: ExpandSpec, dim: int) -> Expand:
    """Return the expand of one field; what it trains starts at zero."""
    if spec.columns is not None:
        return Scatter(dim, spec.columns)
    if spec.rank is None:
        return Identity(dim)
    return Affine(dim, spec.rank) if spec.kind == "affine" else Projection(dim, spec.rank)
