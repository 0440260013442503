"""IPNN: an MLP over all embeddings and the inner products of their pairs (arXiv 1611.00144)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from slimctr.networks.backbone import Backbone
from slimctr.networks.interactions import InnerProducts
from slimctr.networks.layers import Linear
from slimctr.networks.params import MlpParams
from slimctr.networks.spec import LayerSpec


class Ipnn(Backbone):
    """logit = head(MLP([x, <e_i, e_j> of all pairs])).

    Layer 1 takes F*D + F(F-1)/2 inputs; codes may enter at the first F*D of them.
    """

    fewest_fields = 2

    def __init__(self, fields: int, dim: int, layers: Sequence[LayerSpec], params: MlpParams) -> None:
        super().__init__(layers, params)
        self.products = InnerProducts(fields)
        self.head = Linear(layers[-1].outputs, 1)

    @staticmethod
    def mlp_inputs(fields: int, dim: int) -> int:
        """Return F*D + F(F-1)/2."""
        return fields * dim + fields * (fields - 1) // 2

    def forward(self, x: Tensor, mlp_input: Tensor, wide: Tensor | None) -> Tensor:
        """Return logits (B,)."""
        return self.head(self.mlp(torch.cat([mlp_input, self.products(x)], dim=1))).squeeze(1)
