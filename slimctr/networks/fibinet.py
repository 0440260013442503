"""FiBiNET: an MLP over bilinear products of raw and reweighted embeddings, and first-order weights."""

from collections.abc import Sequence

import torch
from torch import Tensor

from slimctr.networks.backbone import Backbone
from slimctr.networks.interactions import BilinearPairs, SqueezeExcitation
from slimctr.networks.layers import Linear
from slimctr.networks.params import MlpParams
from slimctr.networks.spec import LayerSpec


class FiBiNet(Backbone):
    """logit = head(MLP([bilinear(x), bilinear'(SENet(x))])) + sum of the wide values (arXiv 1905.09433).

    Each bilinear part has a matrix W_ij of its own for every pair of fields ("field-interaction" type). Layer 1
    takes their F(F-1)D products, so stored codes cannot enter the MLP, and it is the largest part of the network.
    """

    has_wide = True
    mlp_reads_embeddings = False
    fewest_fields = 2

    def __init__(self, fields: int, dim: int, layers: Sequence[LayerSpec], params: MlpParams) -> None:
        super().__init__(layers, params)
        self.senet = SqueezeExcitation(fields)
        self.raw_pairs = BilinearPairs(fields, dim)
        self.weighted_pairs = BilinearPairs(fields, dim)
        self.head = Linear(layers[-1].outputs, 1)

    @staticmethod
    def mlp_inputs(fields: int, dim: int) -> int:
        """Return F(F-1)D."""
        return fields * (fields - 1) * dim

    def forward(self, x: Tensor, mlp_input: Tensor, wide: Tensor) -> Tensor:
        """Return logits (B,)."""
        products = torch.cat([self.raw_pairs(x), self.weighted_pairs(self.senet(x))], dim=1)
        return self.head(self.mlp(products)).squeeze(1) + wide.sum(dim=1)
