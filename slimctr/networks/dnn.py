"""DNN: an MLP over all embeddings."""

from collections.abc import Sequence

from torch import Tensor, nn

from slimctr.networks.layers import Linear, Mlp
from slimctr.networks.params import MlpParams
from slimctr.networks.spec import LayerSpec


class Dnn(nn.Module):
    """logit = head(MLP(x))."""

    Params = MlpParams
    has_wide = False

    def __init__(self, fields: int, dim: int, layers: Sequence[LayerSpec], params: MlpParams) -> None:
        super().__init__()
        self.mlp = Mlp(layers, params.batch_norm, params.dropout)
        self.head = Linear(layers[-1].outputs, 1)

    def forward(self, x: Tensor, mlp_input: Tensor, wide: Tensor | None) -> Tensor:
        """Return logits (B,)."""
        return self.head(self.mlp(mlp_input)).squeeze(1)
