"""The float model as anyone would write it in torch; needs nothing else, so that every peer can import it."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn


class DeepFM(nn.Module):
    """Row ids of each field (B, F) to click probabilities (B,); the fields lie end to end in one table."""

    def __init__(self, rows: Sequence[int], dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(sum(rows), dim)
        self.wide = nn.Embedding(sum(rows), 1)
        self.register_buffer("starts", torch.tensor([0, *rows[:-1]]).cumsum(0))
        self.hidden = nn.ModuleList(
            nn.Linear(inputs, outputs) for inputs, outputs in pairwise([len(rows) * dim, *hidden])
        )
        self.head = nn.Linear(hidden[-1], 1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows = ids + self.starts
        x = self.embedding(rows)
        total = x.sum(1)
        pairs = 0.5 * (total * total - (x * x).sum(1)).sum(1)
        deep = x.flatten(1)
        for layer in self.hidden:
            deep = torch.relu(layer(deep))
        return torch.sigmoid(self.head(deep).squeeze(-1) + self.wide(rows).sum((1, 2)) + pairs)


def load(path: Path | str, threads: int = 1) -> DeepFM:
    """The checkpoint that `benchmarks.serving.model` wrote."""
    torch.set_num_threads(threads)
    kept = torch.load(path, weights_only=True)
    weights = kept["weights"]
    hidden = [
        len(tensor) for name, tensor in weights.items() if name.startswith("hidden.") and tensor.ndim == 1
    ]
    model = DeepFM(kept["rows"], weights["embedding.weight"].shape[1], hidden)
    model.load_state_dict(weights)
    return model.eval()


def score(model: DeepFM, ids: np.ndarray) -> np.ndarray:
    """Probabilities float32 (B,) of integer ids (B, F)."""
    with torch.inference_mode():
        return model(torch.from_numpy(np.ascontiguousarray(ids, np.int64))).numpy()
