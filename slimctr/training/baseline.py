"""A logistic regression on one-hot rows: the model that a network has to beat."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from slimctr import quality
from slimctr.features import FeatureSchema
from slimctr.training.batches import TensorSplit

MOST_ROWS = 50_000
"""Training rows it is fitted to; of a larger split so many are drawn, which keeps it to seconds."""
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""C of the fit, the strongest penalty first: each fit starts from the one before. Validation rows choose."""
STEPS = 30


@dataclass(frozen=True)
class Regression:
    """A fitted logistic regression: weights of the values it met, in the order of `values`, and a bias."""

    schema: FeatureSchema
    starts: Tensor
    values: Tensor
    weights: Tensor
    bias: Tensor

    def logits(self, split: TensorSplit) -> np.ndarray:
        """Return logits float32 (n,) of a split; a value that the fit did not meet adds nothing."""
        inputs = _inputs(split, self.schema, self.starts, self.values)
        return _logits(self.weights, self.bias, inputs).numpy()


@torch.no_grad()
def fit_regression(
    train: TensorSplit, valid: TensorSplit, schema: FeatureSchema, rows: list[int], seed: int
) -> Regression:
    """Fit to training rows with an L2 penalty on all weights, of the strength with the least validation log-loss.

    `rows` are those of the tables of all fields in schema order. A value of a multi-valued field weighs as the
    pooling of the field says.
    """
    if len(train) > MOST_ROWS:
        generator = torch.Generator().manual_seed(seed)
        drawn = train.take(torch.randperm(len(train), generator=generator)[:MOST_ROWS])
        train = TensorSplit(drawn.ids, drawn.bags, drawn.labels)
    starts = torch.tensor([0, *rows[:-1]]).cumsum(0)
    met = [(train.ids + starts[list(schema.single)]).flatten()]
    met += [ids.long() + starts[field] for field, (ids, _) in zip(schema.multi, train.bags, strict=True)]
    values = torch.cat(met).unique()
    inputs = _inputs(train, schema, starts, values)
    clicks = float(train.labels.sum())
    bias = torch.tensor((clicks + 0.5) / (len(train) - clicks + 0.5)).log()
    weights = torch.zeros(len(values))
    found: list[tuple[float, Regression]] = []
    for penalty in PENALTIES:
        weights, bias = _minimize(weights, bias, inputs, train.labels, 1 / (penalty * len(train)))
        model = Regression(schema, starts, values, weights, bias)
        found.append((quality.logloss(valid.labels.numpy(), model.logits(valid)), model))
    return min(found, key=lambda entry: entry[0])[1]


Inputs = list[tuple[Tensor, Tensor | None, str]]


def _inputs(split: TensorSplit, schema: FeatureSchema, starts: Tensor, values: Tensor) -> Inputs:
    """Return what embedding_bag sums: places of weights, offsets and pooling. Unmet values have the last place."""
    inputs: Inputs = []
    if schema.single:
        inputs.append((_places(split.ids + starts[list(schema.single)], values), None, "sum"))
    for field, (ids, offsets) in zip(schema.multi, split.bags, strict=True):
        pooling = schema.fields[field].pooling
        inputs.append((_places(ids.long() + starts[field], values), offsets[:-1].long(), pooling))
    return inputs


def _places(wanted: Tensor, values: Tensor) -> Tensor:
    places = torch.searchsorted(values, wanted).clamp(max=len(values) - 1)
    return torch.where(values[places] == wanted, places, len(values))


def _logits(weights: Tensor, bias: Tensor, inputs: Inputs) -> Tensor:
    table = torch.cat([weights, weights.new_zeros(1)]).unsqueeze(1)
    parts = [
        functional.embedding_bag(places, table, offsets, mode=pooling).squeeze(1)
        for places, offsets, pooling in inputs
    ]
    return torch.stack(parts).sum(dim=0) + bias


@torch.enable_grad()
def _minimize(
    weights: Tensor, bias: Tensor, inputs: Inputs, labels: Tensor, l2: float
) -> tuple[Tensor, Tensor]:
    weights, bias = (tensor.clone().requires_grad_() for tensor in (weights, bias))
    optimizer = torch.optim.LBFGS(
        [weights, bias], max_iter=STEPS, history_size=10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = functional.binary_cross_entropy_with_logits(_logits(weights, bias, inputs), labels)
        value = value + l2 / 2 * weights.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weights.detach(), bias.detach()
