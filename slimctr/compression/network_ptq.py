"""`network_ptq`: the weight matrices of the network in 8 or 4 bits, without training."""

from typing import Annotated, Literal

from pydantic import Field

from slimctr.compression.data import CompressionData
from slimctr.compression.factors import model_of, with_parts
from slimctr.compression.method import Outcome, Settings, method
from slimctr.networks import CtrModel, ModelSpec


class NetworkPtqSettings(Settings):
    """Bits of a weight."""

    epochs: Annotated[int, Field(ge=0, le=0)] = 0
    bits: Literal[4, 8] = 8


def network_ptq_objection(spec: ModelSpec, config: NetworkPtqSettings) -> str | None:
    """Weights are rounded as export folds them, and training would move them again: it comes last."""
    return None


@method("network_ptq", NetworkPtqSettings, network_ptq_objection, takes_mapped=True)
def network_ptq(model: CtrModel, data: CompressionData, config: NetworkPtqSettings) -> Outcome:
    """Round the matrices of all linear maps of 256 weights or more to codes, with a scale per output.

    Expands and batch-norms are folded in first, so what is rounded is what is stored: artifact and torch compute with
    the same weights. The runtime multiplies the codes out when it loads the network: smaller files, the same speed.
    Biases, small maps and weights that are no linear maps (bilinear matrices, cross vectors) stay float32.
    """
    return Outcome(model_of(with_parts(model.spec, network_bits=config.bits), dict(model.state_dict())), {})
