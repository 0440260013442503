"""AutoInt+: multi-head attention among fields beside an MLP (arXiv 1810.11921)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from slimctr.networks.backbone import Backbone
from slimctr.networks.interactions import FieldAttention
from slimctr.networks.layers import Linear
from slimctr.networks.params import Depth, MlpParams, Width
from slimctr.networks.spec import LayerSpec


class AutoIntParams(MlpParams):
    """The MLP's settings and those of the attention; defaults as in the AutoInt of arXiv 2405.18146.

    `head_width` None is D / heads, rounded down.
    """

    attention_layers: Depth = 3
    heads: Width = 2
    head_width: Width | None = None


class AutoInt(Backbone):
    """logit = head([attention layers(x), MLP(x)])."""

    Params = AutoIntParams

    def __init__(self, fields: int, dim: int, layers: Sequence[LayerSpec], params: AutoIntParams) -> None:
        super().__init__(layers, params)
        head_width = params.head_width or max(1, dim // params.heads)
        width = params.heads * head_width
        self.attention = nn.Sequential(
            *(
                FieldAttention(inputs, params.heads, head_width)
                for inputs in (dim, *[width] * (params.attention_layers - 1))
            )
        )
        self.head = Linear(fields * width + layers[-1].outputs, 1)

    def forward(self, x: Tensor, mlp_input: Tensor, wide: Tensor | None) -> Tensor:
        """Return logits (B,)."""
        return self.head(torch.cat([self.attention(x).flatten(1), self.mlp(mlp_input)], dim=1)).squeeze(1)
