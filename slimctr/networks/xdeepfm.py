"""xDeepFM: a compressed interaction network, an MLP and first-order weights (arXiv 1803.05170)."""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from slimctr.networks.backbone import Backbone
from slimctr.networks.interactions import CompressedInteraction
from slimctr.networks.layers import Linear
from slimctr.networks.params import MlpParams, Width
from slimctr.networks.spec import LayerSpec


class XDeepFmParams(MlpParams):
    """The MLP's settings and the maps of each CIN layer; the default is ours, the paper tunes it per data set."""

    cin: Annotated[tuple[Width, ...], Field(min_length=1, max_length=64)] = (64, 64)


class XDeepFm(Backbone):
    """logit = head([CIN(x), MLP(x)]) + sum of the wide values; the bias of the head serves all three."""

    Params = XDeepFmParams
    has_wide = True

    def __init__(self, fields: int, dim: int, layers: Sequence[LayerSpec], params: XDeepFmParams) -> None:
        super().__init__(layers, params)
        self.cin = CompressedInteraction(fields, params.cin)
        self.head = Linear(sum(params.cin) + layers[-1].outputs, 1)

    def forward(self, x: Tensor, mlp_input: Tensor, wide: Tensor) -> Tensor:
        """Return logits (B,)."""
        return self.head(torch.cat([self.cin(x), self.mlp(mlp_input)], dim=1)).squeeze(1) + wide.sum(dim=1)
