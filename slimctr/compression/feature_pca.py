"""`feature_pca`: low rank of what tables and MLP layers put out over the training data."""

from collections.abc import Iterable
from functools import partial
from typing import Literal

import torch

from slimctr.compression.data import CompressionData
from slimctr.compression.factors import output_pca_layer, shifted_above_zero
from slimctr.compression.low_rank import LowRankSettings, factor_model, layer_ranks, low_rank_objection
from slimctr.compression.method import Count, Outcome, method
from slimctr.compression.principal import Moments
from slimctr.networks import CtrModel
from slimctr.training import Batch

STATISTICS_BATCH_ROWS = 8192


class FeaturePcaSettings(LowRankSettings):
    """Adds how an inserted ReLU starts, and how many training rows the layer statistics read (None: all)."""

    relu_init: Literal["shift", "afm"] = "shift"
    statistics_rows: Count | None = None


@method("feature_pca", FeaturePcaSettings, low_rank_objection, takes_mapped=True)
def feature_pca(model: CtrModel, data: CompressionData, config: FeaturePcaSettings) -> Outcome:
    """Project every table on the main axes of its looked-up rows, every MLP layer on those of its outputs.

    One PCA per field, rows weighted by training use; layer statistics of the unchanged model in one pass over
    training rows. Source: arXiv 2405.18146. Its tensor-train baselines and the training of a separate, folded
    first layer are not covered.
    """
    ranks = layer_ranks(model.spec, config)
    layers, rows = {}, 0
    if ranks:
        train = data.split("train")
        rows = min(len(train), config.statistics_rows or len(train))
        spread = torch.arange(rows) * len(train) // rows  # a log in time order must not be cut short
        batches = (train.take(index) for index in spread.split(STATISTICS_BATCH_ROWS))
        moments = output_moments(model, list(ranks), batches)
        for index, rank in ranks.items():
            linear = model.backbone.mlp.blocks[index].linear
            weight, bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
            factors = output_pca_layer(weight, bias, moments[index], rank)
            if config.pair == "pair_relu" and config.relu_init == "shift":
                factors = shifted_above_zero(factors, moments[index])
            layers[index] = factors
    outcome = factor_model(model, data, config, layers, weighted=True, centered=True)
    return Outcome(
        outcome.model, {**outcome.statistics, "statistics_split": "train", "statistics_rows": rows}
    )


def output_moments(model: CtrModel, layers: list[int], batches: Iterable[Batch]) -> dict[int, Moments]:
    """Moments of the outputs (before batch-norm and ReLU) of MLP layers, all in one pass over the rows.

    The model runs in evaluation mode: dropout off, batch-norm on its running statistics.
    """
    moments = {index: Moments.empty(model.spec.layers[index].outputs) for index in layers}

    def add(index: int, module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        moments[index] = moments[index].merged(Moments.of(output.numpy()))

    hooks = [
        model.backbone.mlp.blocks[index].linear.register_forward_hook(partial(add, index)) for index in layers
    ]
    model.eval()
    try:
        with torch.inference_mode():
            for batch in batches:
                model(batch.ids, batch.bags)
    finally:
        for hook in hooks:
            hook.remove()
    return moments
