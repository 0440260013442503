"""Scores of a torch model on a split, and the metrics of scores."""

from dataclasses import dataclass

import numpy as np
import torch

from slimctr import quality
from slimctr.clicklogs.dataset import Dataset
from slimctr.networks import CtrModel
from slimctr.training.batches import TensorSplit

EVALUATION_ROWS = 8192


@dataclass(frozen=True)
class Scores:
    """Logits float32 (n,) and labels float32 (n,) of a split, in the order of its rows."""

    logits: np.ndarray
    labels: np.ndarray


def score(model: CtrModel, split: TensorSplit) -> np.ndarray:
    """Return the logits float32 (n,) of a split, with dropout off and batch-norm on its running statistics.

    The model is left in evaluation mode.
    """
    model.eval()
    with torch.inference_mode():
        parts = [model(batch.ids, batch.bags) for batch in split.in_order(EVALUATION_ROWS)]
    return torch.cat(parts).numpy()


def evaluate(model: CtrModel, dataset: Dataset, split: str) -> Scores:
    """Score a split ("train", "valid" or "test") of a data set."""
    tensors = TensorSplit.of(dataset.load(split))
    return Scores(score(model, tensors), tensors.labels.numpy())


def measure(scores: Scores, groups: np.ndarray | None = None) -> dict[str, float]:
    """Return the metrics of scores; with `groups` (n,) the AUC within groups too."""
    metrics = dict(quality.summary(scores.labels, scores.logits))
    if groups is not None:
        metrics["gauc"] = quality.gauc(scores.labels, scores.logits, groups)
    return metrics
