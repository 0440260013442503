"""DeepFM: an MLP, a factorization machine and first-order weights (arXiv 1703.04247)."""

from collections.abc import Sequence

from torch import Tensor, nn

from slimctr.networks.backbone import Backbone
from slimctr.networks.interactions import FactorizationMachine
from slimctr.networks.layers import Linear
from slimctr.networks.params import MlpParams
from slimctr.networks.spec import LayerSpec


class DeepFm(Backbone):
    """logit = head(MLP(x)) + FM(x) + sum of the wide values; the bias of the head serves all three."""

    has_wide = True

    def __init__(self, fields: int, dim: int, layers: Sequence[LayerSpec], params: MlpParams) -> None:
        super().__init__(layers, params)
        self.head = Linear(layers[-1].outputs, 1)
        self.interaction: nn.Module = FactorizationMachine()

    def forward(self, x: Tensor, mlp_input: Tensor, wide: Tensor) -> Tensor:
        """Return logits (B,)."""
        return self.head(self.mlp(mlp_input)).squeeze(1) + self.interaction(x) + wide.sum(dim=1)
