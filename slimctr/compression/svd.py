"""`svd`: low rank of the weights themselves, the control of `feature_pca`."""

from slimctr.compression.data import CompressionData
from slimctr.compression.factors import svd_layer
from slimctr.compression.low_rank import LowRankSettings, factor_model, layer_ranks, low_rank_objection
from slimctr.compression.method import Outcome, method
from slimctr.networks import CtrModel


class SvdSettings(LowRankSettings):
    """`weighted` and `centered` exist for comparison: with both, a table is treated as by `feature_pca`."""

    weighted: bool = False
    centered: bool = False


@method("svd", SvdSettings, low_rank_objection, takes_mapped=True)
def svd(model: CtrModel, data: CompressionData, config: SvdSettings) -> Outcome:
    """Factor tables and MLP layers by the singular values of their weights, without looking at data.

    Source: arXiv 2405.18146, which uses it as a baseline; the even split of the singular values between the
    two factors of a layer is ours.
    """
    layers = {}
    for index, rank in layer_ranks(model.spec, config).items():
        linear = model.backbone.mlp.blocks[index].linear
        layers[index] = svd_layer(linear.weight.detach().numpy(), linear.bias.detach().numpy(), rank)
    return factor_model(model, data, config, layers, weighted=config.weighted, centered=config.centered)
