"""GDCN: a cross network with a gate per layer beside an MLP, parallel form (arXiv 2311.04635)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from slimctr.networks.backbone import Backbone
from slimctr.networks.interactions import GatedCross
from slimctr.networks.layers import Linear
from slimctr.networks.params import CrossParams
from slimctr.networks.spec import LayerSpec


class Gdcn(Backbone):
    """logit = head([gated cross(x), MLP(x)]); the stacked form and field-level widths are not covered."""

    Params = CrossParams

    def __init__(self, fields: int, dim: int, layers: Sequence[LayerSpec], params: CrossParams) -> None:
        super().__init__(layers, params)
        self.cross = GatedCross(fields * dim, params.cross_layers)
        self.head = Linear(fields * dim + layers[-1].outputs, 1)

    def forward(self, x: Tensor, mlp_input: Tensor, wide: Tensor | None) -> Tensor:
        """Return logits (B,)."""
        return self.head(torch.cat([self.cross(x.flatten(1)), self.mlp(mlp_input)], dim=1)).squeeze(1)
