"""The training loop."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from slimctr import quality
from slimctr.errors import ConfigError
from slimctr.networks import CtrModel, FloatTable, MaskedTable, QuotientRemainderTable
from slimctr.training.batch_norm import estimate_batch_norm
from slimctr.training.batches import Batch, TensorSplit
from slimctr.training.checkpoint import EpochRecord, FitState, read_checkpoint, write_checkpoint
from slimctr.training.config import TrainConfig
from slimctr.training.evaluation import score
from slimctr.training.progress import Silent, TrainingProgress
from slimctr.training.schedule import one_cycle_rate, plateau_rate

SMALLEST_GAIN = 1e-6
STATISTICS_ROWS = 50_000
"""Training rows that batch-norm statistics are taken from after each epoch: a mean of so many is known to 0.5 % of
a deviation."""

Penalty = Callable[[CtrModel, torch.Tensor], torch.Tensor]


class RowTrainer(Protocol):
    """Trains tables whose rows are no parameters, as a part of each step of the loop."""

    def read_rows(self) -> list[torch.Tensor]:
        """Return the rows that the last forward pass read, as leaves with their gradients."""

    def step(self, rate: float, peak_share: float, batch_rows: int, loss: Callable[[], torch.Tensor]) -> None:
        """Train those rows, after the network took its step.

        `rate` is the learning rate of the network and `peak_share` its share of the highest one; `loss` scores
        the same batch again, with the weights as they are by then.
        """


def fit(
    model: CtrModel,
    config: TrainConfig,
    train: TensorSplit,
    valid: TensorSplit,
    *,
    progress: TrainingProgress | None = None,
    checkpoint: Path | None = None,
    penalty: Penalty | None = None,
    row_trainer: RowTrainer | None = None,
    kd_weight: float = 0.0,
) -> list[EpochRecord]:
    """Train a model in place and leave it with the weights of its best epoch, by `select`; return its epochs.

    `penalty` (model, stored (B, W)) gives a scalar that is added to the log-loss of every batch. `kd_weight` is
    that of the mean squared difference to the logits that `train` says to imitate. `row_trainer`
    trains the tables of `model` that have no parameters; its state is in no checkpoint, so the two exclude each
    other.

    With `checkpoint`, the state is written there after each epoch, and a training that finds the file goes on
    from it: the final weights are those of an uninterrupted run with the same number of threads. Every random
    draw of an epoch comes from the seed and the epoch number alone; torch's global generator stays as it was.
    Raises ConfigError when scores are no longer finite.
    """
    if row_trainer is not None and checkpoint is not None:
        raise ValueError("a checkpoint does not hold the state of a row trainer")
    progress = progress or Silent()
    optimizer = torch.optim.Adam(
        [weight for weight in model.parameters() if weight.requires_grad], lr=config.learning_rate, fused=True
    )
    state = FitState()
    if checkpoint is not None and checkpoint.is_file():
        state = read_checkpoint(checkpoint, model, optimizer)
    with torch.random.fork_rng(devices=[]):
        while not _is_finished(state, config):
            record = _run_epoch(
                model, optimizer, config, train, valid, state, progress, penalty, row_trainer, kd_weight
            )
            state.record_epoch(record, model.state_dict(), config.select)
            if checkpoint is not None:
                write_checkpoint(checkpoint, state, model, optimizer)
            progress.epoch(record)
    model.load_state_dict(state.best_weights)
    model.eval()
    return state.history


def _is_finished(state: FitState, config: TrainConfig) -> bool:
    stopped_early = config.schedule == "plateau" and state.stale_epochs >= config.patience
    return stopped_early or len(state.history) >= config.epochs


def _run_epoch(
    model: CtrModel,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    train: TensorSplit,
    valid: TensorSplit,
    state: FitState,
    progress: TrainingProgress,
    penalty: Penalty | None,
    row_trainer: RowTrainer | None,
    kd_weight: float,
) -> EpochRecord:
    started = time.perf_counter()
    epoch = len(state.history) + 1
    torch.manual_seed(int(np.random.SeedSequence([config.seed, epoch]).generate_state(1)[0]))
    batches = train.shuffled(config.batch_rows, config.negative_sampling_rate, torch.default_generator)
    loss_sum, rows = torch.zeros(()), 0
    model.train()
    for step, index in enumerate(batches):
        rate = _learning_rate(config, state, (epoch - 1 + step / len(batches)) / config.epochs)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = train_step(model, optimizer, train.take(index), config, penalty, row_trainer, kd_weight)
        loss_sum += loss * len(index)
        rows += len(index)
        progress.step(epoch, step + 1, len(batches), float(loss_sum) / rows)
    if config.batch_norm_statistics == "estimated":
        estimate_batch_norm(model, train, config, batches=-(-STATISTICS_ROWS // config.batch_rows))
    labels = valid.labels.numpy()
    logits = score(model, valid)
    if not np.isfinite(logits).all():
        raise ConfigError(
            f"training diverged in epoch {epoch}: scores are not finite; "
            f"lower learning_rate, which is {config.learning_rate:g}"
        )
    record = EpochRecord(
        epoch=epoch,
        loss=float(loss_sum) / rows,
        valid_auc=quality.auc(labels, logits),
        valid_logloss=quality.logloss(labels, logits),
        learning_rate=rate,
        seconds=time.perf_counter() - started,
        is_best=False,
    )
    return replace(record, is_best=record.figure(config.select) > state.best_figure + SMALLEST_GAIN)


def _learning_rate(config: TrainConfig, state: FitState, position: float) -> float:
    if config.schedule == "one_cycle":
        return one_cycle_rate(config.learning_rate, config.warmup_share, position)
    return plateau_rate(config.learning_rate, config.decay, state.epochs_without_gain)


def train_step(
    model: CtrModel,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    config: TrainConfig,
    penalty: Penalty | None = None,
    row_trainer: RowTrainer | None = None,
    kd_weight: float = 0.0,
) -> torch.Tensor:
    """Take one step on a batch and return its mean loss without `penalty`, a scalar without gradient.

    Embedding L2 is lambda/2 times the squared norm of every whole table, added to the loss of each batch. Its
    gradient, lambda times the table, is added by hand: the same numbers without a graph over the tables. Of the
    tables of `row_trainer` it reaches the rows of the batch.
    The loss sees logits without the correction for negative down-sampling, as the sampled data call for.
    """
    optimizer.zero_grad(set_to_none=True)
    stored = model.lookup(batch.ids, batch.bags)
    loss = _loss(model, stored, batch, kd_weight)
    (loss if penalty is None else loss + penalty(model, stored)).backward()
    read_rows = [] if row_trainer is None else row_trainer.read_rows()
    if config.embedding_l2:
        tables = [*model.tables, *(model.wide or ())]
        weights = [table.weight for table in tables if isinstance(table, FloatTable)]
        for table in tables:
            weights += table.parameters() if isinstance(table, QuotientRemainderTable | MaskedTable) else []
        for rows in [*(weight for weight in weights if weight.requires_grad), *read_rows]:
            rows.grad.add_(rows.detach(), alpha=config.embedding_l2)
    nn.utils.clip_grad_norm_([*model.parameters(), *read_rows], config.clip_norm)
    optimizer.step()
    if row_trainer is not None:
        rate = optimizer.param_groups[0]["lr"]
        row_trainer.step(
            rate,
            rate / config.learning_rate,
            len(batch.labels),
            lambda: _loss(model, model.lookup(batch.ids, batch.bags), batch, kd_weight),
        )
    return loss.detach()


def _loss(model: CtrModel, stored: torch.Tensor, batch: Batch, kd_weight: float) -> torch.Tensor:
    logits = model.network(stored)
    loss = functional.binary_cross_entropy_with_logits(logits - model.logit_correction, batch.labels)
    if batch.teacher is not None:
        loss = loss + kd_weight * functional.mse_loss(logits, batch.teacher)
    return loss
