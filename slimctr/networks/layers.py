"""The MLP and the linear maps it is built of: whole, or factored into two."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from slimctr.networks.spec import LayerSpec

DROPOUT_STEPS = 1 << 16


class Linear(nn.Linear):
    """y = W x + w0, Glorot-normal weights and zero bias at the start; no w0 with `bias=False`."""

    def reset_parameters(self) -> None:
        """Draw the initial weights."""
        nn.init.xavier_normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class PairLinear(nn.Module):
    """y = W2 (W1 x + b1) + b2: a map of rank r in two factors, `first` (r, in) and `second` (out, r)."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.first = Linear(inputs, rank)
        self.second = Linear(rank, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in) to (B, out)."""
        return self.second(self.first(x))


class PairRelu(PairLinear):
    """y = W2 relu(W1 x + b1) + b2: the same tensors with a ReLU between the factors."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in) to (B, out)."""
        return self.second(self.first(x).relu())


def build_layer(spec: LayerSpec) -> Linear | PairLinear:
    """Return the linear map of one hidden layer with initial weights."""
    if spec.kind == "linear":
        return Linear(spec.inputs, spec.outputs)
    pair = PairLinear if spec.kind == "pair_linear" else PairRelu
    return pair(spec.inputs, spec.outputs, spec.rank)


class Dropout(nn.Module):
    """Inverted dropout: in training each value is zeroed with probability `share`, the rest scaled up to match.

    Each value takes 16 random bits, so the share is rounded to 1/65536. torch's own draws one random number per
    value and on one thread only; that took 15 % of a single-threaded training step of a 400-400-400 MLP.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.cut = round(share * DROPOUT_STEPS)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the shape of x."""
        if not self.training or self.cut == 0:
            return x
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        draws = words.view(torch.int16)[: x.numel()].view(x.shape)
        kept = draws >= self.cut - DROPOUT_STEPS // 2
        return x * (kept * (DROPOUT_STEPS / (DROPOUT_STEPS - self.cut)))


class MlpBlock(nn.Module):
    """Linear map, batch-norm if asked for, ReLU, dropout."""

    def __init__(self, spec: LayerSpec, batch_norm: bool, dropout: float) -> None:
        super().__init__()
        self.linear = build_layer(spec)
        self.norm = nn.BatchNorm1d(spec.outputs) if batch_norm else nn.Identity()
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in) to (B, out)."""
        return self.dropout(self.norm(self.linear(x)).relu())


class Mlp(nn.Module):
    """The hidden layers. `blocks[i].linear` is the map of layer i; a compressed layer takes its place."""

    def __init__(self, layers: Sequence[LayerSpec], batch_norm: bool, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(MlpBlock(layer, batch_norm, dropout) for layer in layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in of layer 0) to (B, out of the last layer)."""
        for block in self.blocks:
            x = block(x)
        return x
