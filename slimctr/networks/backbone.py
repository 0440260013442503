"""What all backbones share: their MLP, and what they tell the model and the export about its first layer."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from slimctr.networks.layers import Mlp
from slimctr.networks.params import MlpParams
from slimctr.networks.spec import LayerSpec


class Backbone(nn.Module):
    """Embeddings to logits, with an MLP as one part or the whole of it; `head` gives the logit.

    - `Params`: the settings of the network with their defaults.
    - `has_wide`: it adds one first-order weight per feature.
    - `mlp_reads_embeddings`: layer 1 of the MLP takes `mlp_input` as its first inputs, so that export may fold
      the expands into it and hand it stored codes. False where it takes products of D-wide embeddings alone.
    - `fewest_fields`: below it there is nothing to interact.
    """

    Params: ClassVar[type[MlpParams]] = MlpParams
    has_wide: ClassVar[bool] = False
    mlp_reads_embeddings: ClassVar[bool] = True
    fewest_fields: ClassVar[int] = 1

    head: nn.Linear

    def __init__(self, layers: Sequence[LayerSpec], params: MlpParams) -> None:
        super().__init__()
        self.mlp = Mlp(layers, params.batch_norm, params.dropout)

    @staticmethod
    def mlp_inputs(fields: int, dim: int) -> int:
        """Return the width of the MLP's input for `fields` embeddings of `dim`, F*D unless overridden."""
        return fields * dim

    def forward(self, x: Tensor, mlp_input: Tensor, wide: Tensor | None) -> Tensor:
        """Return logits (B,) of embeddings (B, F, D) and first-order weights (B, F), None without wide tables.

        `mlp_input` is x.flatten(1), or the stored codes after export has folded layer 1 of the MLP.
        """
        raise NotImplementedError
