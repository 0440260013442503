"""The mask search: which columns of a trained super-net the log-loss misses most, found on training rows."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from slimctr.compression.column_masks import BOUND, ColumnBudget, Mask, MaskState, final_mask, step
from slimctr.compression.data import CompressionData
from slimctr.errors import CompressionError
from slimctr.networks import CtrModel
from slimctr.training import Batch, TrainConfig
from slimctr.training.trainer import train_step

SETTLED_STEPS = 1_000
FEWEST_STEPS = 2_000
SMALL_LOG_STEPS = 3_000
HOLD_OUT_SHARE = 0.1
TRACE_STEPS = 100

Mode = Literal["frozen", "alternating"]


@dataclass(frozen=True)
class SearchPlan:
    """How a search runs: rows of a batch, most steps (None: one epoch, on small logs 3,000), rates, mode."""

    batch_rows: int
    steps: int | None
    mask_rate: float
    price_rate: float
    mode: Mode
    weight_rate_factor: float


@dataclass(frozen=True)
class Search:
    """What a search found: the columns to keep (F, D), and its course as JSON."""

    mask: Mask
    statistics: dict[str, Any]


class MaskedColumns(nn.Module):
    """Stands in for the expands of a whole model: embedding columns times a mask of zeros and ones (F*D,).

    The tables stay whole behind it, so that the gradient by the mask sees what a dead column would have said.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mask = torch.ones(width)

    def forward(self, codes: Tensor) -> Tensor:
        """Mask embeddings (B, F*D)."""
        return codes * self.mask


def mask_gradient(model: CtrModel, batch: Batch, mask: Tensor) -> tuple[Tensor, float]:
    """Return d(mean log-loss)/dz (F, D) of `model`, whose expands are `MaskedColumns`, and the log-loss.

    gz_fj is the sum over the batch of dL/de_f times the unmasked embedding, at the mask z (F, D) given.
    """
    leaf = mask.reshape(-1).clone().requires_grad_(True)
    model.expands.mask = leaf
    logits = model(batch.ids, batch.bags) - model.logit_correction
    loss = functional.binary_cross_entropy_with_logits(logits, batch.labels.to(logits.dtype))
    (gradient,) = torch.autograd.grad(loss, leaf)
    model.expands.mask = leaf.detach()
    return gradient.reshape(mask.shape), float(loss.detach())


def search_columns(model: CtrModel, data: CompressionData, budget: ColumnBudget, plan: SearchPlan) -> Search:
    """Search the columns to keep; only training rows are read.

    Mode `frozen` leaves `model` as it is. Mode `alternating` trains it on in place: of the rows of every batch,
    a fixed tenth moves the mask and the others, before that, the weights. The search ends when the columns that
    would be kept have not changed for 1,000 steps (not before step 2,000), or after `plan.steps`.
    The mask itself keeps flickering around the budget, which is why it is not what is waited for.
    """
    started = time.perf_counter()
    expands = model.expands
    model.expands = MaskedColumns(model.spec.code_width)
    try:
        search = _search(model, data, budget, plan)
    finally:
        model.expands = expands
        model.eval()
    search.statistics["seconds"] = round(time.perf_counter() - started, 3)
    return search


def _search(model: CtrModel, data: CompressionData, budget: ColumnBudget, plan: SearchPlan) -> Search:
    rows = len(data.split("train"))
    limit = plan.steps or max(math.ceil(rows / plan.batch_rows), SMALL_LOG_STEPS)
    state = MaskState.initial(len(model.spec.rows), model.spec.dim)
    kept, settled_since, read = final_mask(state, budget), 0, 0
    weights = _WeightSteps(model, data.training, plan) if plan.mode == "alternating" else None
    trace: list[dict[str, Any]] = []
    number = 0
    for number, (batch, others) in enumerate(_batches(data, plan), start=1):
        if weights is not None and others is not None:
            weights.take(others)
            read += len(others.labels)
        alive = torch.from_numpy(state.mask).to(torch.float32)
        gradient, loss = mask_gradient(model.eval(), batch, alive)
        if number == 1 or number % TRACE_STEPS == 0:
            clipped = float((plan.mask_rate * gradient.abs() > BOUND).float().mean())
            trace.append(_trace(number, loss, state, budget, clipped))
        state = step(
            state,
            gradient.numpy().astype(np.float64),
            budget,
            mask_rate=plan.mask_rate,
            price_rate=plan.price_rate,
        )
        read += len(batch.labels)
        now = final_mask(state, budget)
        if not np.array_equal(now, kept):
            kept, settled_since = now, number
        data.progress.step(1, number, limit, loss)
        settled = number >= FEWEST_STEPS and number - settled_since >= SETTLED_STEPS
        if settled or number >= limit:
            break
    return Search(
        kept,
        {
            "steps": number,
            "settled": number - settled_since >= SETTLED_STEPS,
            "unchanged_since_step": settled_since,
            "passes_over_training_rows": round(read / rows, 3),
            "trajectory": trace,
        },
    )


class _WeightSteps:
    """Steps on the weights of the masked model. Columns that are dead get no gradient and no decay."""

    def __init__(self, model: CtrModel, training: TrainConfig, plan: SearchPlan) -> None:
        rate = training.learning_rate * plan.weight_rate_factor
        self.model = model
        self.decay = training.embedding_l2
        self.config = training.changed(embedding_l2=0.0)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True)

    def take(self, batch: Batch) -> None:
        """Take one step on a batch."""
        train_step(self.model.train(), self.optimizer, batch, self.config, self._decay_of_living)

    def _decay_of_living(self, model: CtrModel, stored: Tensor) -> Tensor:
        masks = model.expands.mask.reshape(len(model.tables), -1)
        squares = [
            (table.weight * alive).square().sum() for table, alive in zip(model.tables, masks, strict=True)
        ]
        squares += [table.weight.square().sum() for table in model.wide or ()]
        return self.decay / 2 * torch.stack(squares).sum()


def _batches(data: CompressionData, plan: SearchPlan) -> Iterator[tuple[Batch, Batch | None]]:
    """Endless batches of training rows: those that move the mask, and in mode `alternating` the others."""
    train, config = data.split("train"), data.training
    generator = torch.Generator().manual_seed(config.seed)
    held_out = torch.rand(len(train), generator=generator) < HOLD_OUT_SHARE
    if plan.mode == "alternating" and not 0 < int(held_out.sum()) < len(train) - 1:
        raise CompressionError(f"{len(train)} training rows are too few to hold out a tenth of them")
    while True:
        for index in train.shuffled(plan.batch_rows, config.negative_sampling_rate, generator):
            if plan.mode == "frozen":
                yield train.take(index), None
                continue
            held = held_out[index]
            if held.any() and (~held).sum() > 1:
                yield train.take(index[held]), train.take(index[~held])


def _trace(
    number: int, loss: float, state: MaskState, budget: ColumnBudget, clipped: float
) -> dict[str, Any]:
    return {
        "step": number,
        "logloss": float(f"{loss:.6g}"),
        "price": float(f"{state.price:.6g}"),
        "cost": round(budget.share(state.mask), 6),
        "clipped": round(clipped, 3),
        "widths": state.mask.sum(axis=1).tolist(),
    }
