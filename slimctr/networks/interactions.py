"""Feature interactions on embeddings: factorization machine, cross network v1 and v2."""

import torch
from torch import Tensor, nn

from slimctr.networks.layers import Linear


def factorization_machine(x: Tensor) -> Tensor:
    """Return the sum over field pairs of <e_i, e_j>: x (B, F, D) gives (B,).

    Computed in O(F D) as half of (sum of e)^2 minus sum of e^2 (Rendle 2010, lemma 3.1).
    """
    return 0.5 * (x.sum(dim=1).square() - x.square().sum(dim=1)).sum(dim=1)


class CrossV1(nn.Module):
    """x_{l+1} = x_0 (w_l . x_l) + b_l + x_l (Deep & Cross Network, arXiv 1708.05123, equation 3)."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.init.xavier_normal_(torch.empty(1, width)) for _ in range(layers))
        self.biases = nn.ParameterList(torch.zeros(width) for _ in range(layers))

    def forward(self, x0: Tensor) -> Tensor:
        """Map (B, width) to (B, width)."""
        x = x0
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = x0 * (x @ weight.T) + bias + x
        return x


class CrossV2(nn.Module):
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, full-rank W (DCN V2, arXiv 2008.13535, equation 1)."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(Linear(width, width) for _ in range(layers))

    def forward(self, x0: Tensor) -> Tensor:
        """Map (B, width) to (B, width)."""
        x = x0
        for linear in self.maps:
            x = x0 * linear(x) + x
        return x
