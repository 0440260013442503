"""`auto`: batch, width, depth and embedding width that fit the size of a log."""

from typing import Any

from slimctr.clicklogs.dataset import Dataset

AUTO = "auto"
BATCHES = ((20_000, 256), (100_000, 512), (1_000_000, 1024))
"""Rows of a batch for logs with fewer training rows than the first number; 4,096 for larger ones."""
SHAPES = ((100_000, 4, (64, 32)), (500_000, 8, (64, 32)))
"""Embedding width and MLP for logs of a smaller size than the first number; 10 and 400-400-400 for larger ones."""
RARE = 0.05
"""A click rate below this makes a log smaller: rows without a click say little."""


def auto_settings(dataset: Dataset) -> dict[str, Any]:
    """Return training settings for the size of a data set, chosen on validation rows of small and rare logs.

    The size is the number of training rows, or 20 rows a click where fewer than 5 % are clicks. Batch-norm is off:
    it scales embeddings that start near zero up to variance 1, so that rare ids are learned by heart in the first
    epoch.
    """
    tally = dataset.info["splits"]["train"]
    size = min(tally["rows"], round(tally["clicks"] / RARE))
    batch_rows = next((rows for below, rows in BATCHES if tally["rows"] < below), 4096)
    fitting = ((dim, hidden) for below, dim, hidden in SHAPES if size < below)
    dim, hidden = next(fitting, (10, (400, 400, 400)))
    return {
        "dim": dim,
        "epochs": 30,
        "batch_rows": batch_rows,
        "embedding_l2": 0.003,
        "params": {"hidden": list(hidden), "batch_norm": False, "dropout": 0.2},
    }
