"""NFM: an MLP over the sum of all pairwise products, and first-order weights (arXiv 1708.05027)."""

from collections.abc import Sequence

from torch import Tensor

from slimctr.networks.backbone import Backbone
from slimctr.networks.interactions import bi_interaction
from slimctr.networks.layers import Linear
from slimctr.networks.params import MlpParams
from slimctr.networks.spec import LayerSpec


class Nfm(Backbone):
    """logit = head(MLP(sum over pairs of e_i * e_j)) + sum of the wide values.

    Layer 1 takes the D-wide sum alone, so stored codes cannot enter the MLP. Batch-norm and dropout on that
    sum are not covered.
    """

    has_wide = True
    mlp_reads_embeddings = False
    fewest_fields = 2

    def __init__(self, fields: int, dim: int, layers: Sequence[LayerSpec], params: MlpParams) -> None:
        super().__init__(layers, params)
        self.head = Linear(layers[-1].outputs, 1)

    @staticmethod
    def mlp_inputs(fields: int, dim: int) -> int:
        """Return D."""
        return dim

    def forward(self, x: Tensor, mlp_input: Tensor, wide: Tensor) -> Tensor:
        """Return logits (B,)."""
        return self.head(self.mlp(bi_interaction(x))).squeeze(1) + wide.sum(dim=1)
