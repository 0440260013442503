"""DNN: an MLP over all embeddings."""

from collections.abc import Sequence

from torch import Tensor

from slimctr.networks.backbone import Backbone
from slimctr.networks.layers import Linear
from slimctr.networks.params import MlpParams
from slimctr.networks.spec import LayerSpec


class Dnn(Backbone):
    """logit = head(MLP(x))."""

    def __init__(self, fields: int, dim: int, layers: Sequence[LayerSpec], params: MlpParams) -> None:
        super().__init__(layers, params)
        self.head = Linear(layers[-1].outputs, 1)

    def forward(self, x: Tensor, mlp_input: Tensor, wide: Tensor | None) -> Tensor:
        """Return logits (B,)."""
        return self.head(self.mlp(mlp_input)).squeeze(1)
