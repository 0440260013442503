"""DCN V2: a cross network with full matrices beside an MLP, parallel form (arXiv 2008.13535)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from slimctr.networks.backbone import Backbone
from slimctr.networks.interactions import CrossV2
from slimctr.networks.layers import Linear
from slimctr.networks.params import CrossParams, Depth, Share
from slimctr.networks.spec import LayerSpec


class DcnV2Params(CrossParams):
    """Settings of DCN V2 with its published defaults on Frappe."""

    cross_layers: Depth = 4
    dropout: Share = 0.4


class DcnV2(Backbone):
    """logit = head([cross(x), MLP(x)]); the low-rank mixture of the paper is not covered."""

    Params = DcnV2Params

    def __init__(self, fields: int, dim: int, layers: Sequence[LayerSpec], params: DcnV2Params) -> None:
        super().__init__(layers, params)
        self.cross = CrossV2(fields * dim, params.cross_layers)
        self.head = Linear(fields * dim + layers[-1].outputs, 1)

    def forward(self, x: Tensor, mlp_input: Tensor, wide: Tensor | None) -> Tensor:
        """Return logits (B,)."""
        return self.head(torch.cat([self.cross(x.flatten(1)), self.mlp(mlp_input)], dim=1)).squeeze(1)
