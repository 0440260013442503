"""Feature interactions on embeddings x (B, F, D): sums over pairs, cross networks, attention, CIN, bilinear pairs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from slimctr.networks.layers import Linear


def bi_interaction(x: Tensor) -> Tensor:
    """Return the sum over field pairs of e_i * e_j, by element: x (B, F, D) gives (B, D).

    Computed in O(F D) as half of (sum of e)^2 minus sum of e^2 (Rendle 2010, lemma 3.1).
    """
    return 0.5 * (x.sum(dim=1).square() - x.square().sum(dim=1))


def factorization_machine(x: Tensor) -> Tensor:
    """Return the sum over field pairs of <e_i, e_j>: x (B, F, D) gives (B,)."""
    return bi_interaction(x).sum(dim=1)


class FactorizationMachine(nn.Module):
    """`factorization_machine` as a part of a network that export may replace by one on stored codes."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, D) to (B,)."""
        return factorization_machine(x)


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


class GatedCross(nn.Module):
    """x_{l+1} = x_0 * (W_l x_l + b_l) * sigmoid(V_l x_l) + x_l: `gates` V have no bias (arXiv 2311.04635)."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(Linear(width, width) for _ in range(layers))
        self.gates = nn.ModuleList(Linear(width, width, bias=False) for _ in range(layers))

    def forward(self, x0: Tensor) -> Tensor:
        """Map (B, width) to (B, width)."""
        x = x0
        for linear, gate in zip(self.maps, self.gates, strict=True):
            x = x0 * linear(x) * gate(x).sigmoid() + x
        return x


class InnerProducts(nn.Module):
    """<e_i, e_j> of all P = F(F-1)/2 pairs i < j, in the order (0,1), (0,2), ..., (F-2,F-1).

    Read from the Gram matrix of each row: it holds every product twice, but nothing of shape (B, P, D) is made.
    """

    pairs: Tensor

    def __init__(self, fields: int) -> None:
        super().__init__()
        first, second = torch.triu_indices(fields, fields, offset=1)
        self.register_buffer("pairs", first * fields + second, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, D) to (B, P)."""
        return (x @ x.transpose(1, 2)).flatten(1).index_select(1, self.pairs)


class BilinearPairs(nn.Module):
    """(W_ij e_i) * e_j of all P = F(F-1)/2 pairs i < j, each with its own `weight` (FiBiNET, arXiv 1905.09433).

    `weight` (P, D, D) holds W_ij transposed: it multiplies row vectors from the right.
    """

    first: Tensor
    second: Tensor

    def __init__(self, fields: int, dim: int) -> None:
        super().__init__()
        first, second = torch.triu_indices(fields, fields, offset=1)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)
        self.weight = nn.Parameter(torch.empty(len(first), dim, dim).normal_(std=dim**-0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, D) to (B, P*D)."""
        fields = x.transpose(0, 1)
        mapped = fields.index_select(0, self.first) @ self.weight
        return (mapped * fields.index_select(0, self.second)).transpose(0, 1).flatten(1)


class SqueezeExcitation(nn.Module):
    """Weighs whole fields: a = relu(V relu(W z)), z the mean of each embedding, e_f becomes a_f e_f.

    W (F/3 rounded down, at least 1) and V have no bias (SENet layer of FiBiNET, arXiv 1905.09433).
    """

    def __init__(self, fields: int) -> None:
        super().__init__()
        inner = max(1, fields // 3)
        self.squeeze = Linear(fields, inner, bias=False)
        self.excite = Linear(inner, fields, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, D) to (B, F, D)."""
        weights = self.excite(self.squeeze(x.mean(dim=2)).relu()).relu()
        return x * weights.unsqueeze(2)


class FieldAttention(nn.Module):
    """relu([A_1 V_1, ..., A_H V_H] + R): multi-head attention among fields (AutoInt, arXiv 1810.11921).

    Per head A = softmax(Q K^T) over fields, not scaled; Q, K, V and the residual R are linear in the
    embeddings, without bias. Dropout on A is not covered.
    """

    def __init__(self, inputs: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        outputs = heads * head_width
        self.query = Linear(inputs, outputs, bias=False)
        self.key = Linear(inputs, outputs, bias=False)
        self.value = Linear(inputs, outputs, bias=False)
        self.residual = Linear(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, inputs) to (B, F, heads * head_width)."""
        query, key, value = (
            linear(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )  # (B, H, F, head_width)
        attention = (query @ key.transpose(2, 3)).softmax(dim=3)
        return ((attention @ value).transpose(1, 2).flatten(2) + self.residual(x)).relu()


class CompressedInteraction(nn.Module):
    """Sums over D of the maps X^k_h = relu(sum_ij W^k_hij X^{k-1}_i * X^0_j), X^0 = x, of every layer k.

    Source: CIN of xDeepFM, arXiv 1803.05170, equation 6, with a ReLU on the maps; all maps feed both the next
    layer and the output. `maps[k]` holds W^k as (H_k, H_{k-1} F). The widest value is (B, D, H_{k-1} F).
    """

    def __init__(self, fields: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.maps = nn.ModuleList(
            Linear(before * fields, after, bias=False)
            for before, after in zip((fields, *widths), widths, strict=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, D) to (B, sum of widths)."""
        x0 = x.transpose(1, 2)  # D before fields: each layer is then one matrix product over its last axis
        maps, sums = x0, []
        for linear in self.maps:
            maps = linear((maps.unsqueeze(3) * x0.unsqueeze(2)).flatten(2)).relu()
            sums.append(maps.sum(dim=1))
        return torch.cat(sums, dim=1)
