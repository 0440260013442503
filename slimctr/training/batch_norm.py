"""Running statistics of batch-norms, measured anew on training rows."""

import torch
from torch import nn

from slimctr.networks import CtrModel
from slimctr.training.batches import TensorSplit
from slimctr.training.config import TrainConfig

STATISTICS_BATCHES = 500


@torch.no_grad()
def estimate_batch_norm(
    model: CtrModel, train: TensorSplit, config: TrainConfig, batches: int = STATISTICS_BATCHES
) -> int:
    """Set the running statistics of batch-norms to the mean over training batches; return how many were read.

    A fading mean over the steps of training lags behind weights that still move, and the statistics of a whole
    network are wrong for one that has lost columns. Dropout is off, weights stay as they are; the batches, at most
    `batches` of them, are those of the run's training, in an order drawn from its seed. The model is left in
    evaluation mode.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    model.eval()
    if not norms:
        return 0
    generator = torch.Generator().manual_seed(config.seed)
    read = train.shuffled(config.batch_rows, config.negative_sampling_rate, generator)[:batches]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches instead of a fading one
        norm.train()
    for index in read:
        batch = train.take(index)
        model(batch.ids, batch.bags)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
    return len(read)
