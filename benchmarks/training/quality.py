"""Trains with default settings and with those of before, over networks and seeds, and keeps test figures."""

import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from benchmarks.training.logistic import test_logits
from slimctr import quality
from slimctr.clicklogs import Dataset
from slimctr.training import TrainConfig, git_revision, train
from slimctr.training.auto import auto_settings

BEFORE = {"select": "auc", "bias_start": "zero", "batch_norm_statistics": "running"}
"""The defaults of before `auto`: one shape for all logs, 400-400-400 with batch-norm and batches of 4,096."""
REGRESSION = "logistic regression"


def contestants(networks: list[str], with_before: bool) -> list[tuple[str, str]]:
    """Return (settings, network) pairs; the logistic regression is one of them."""
    settings = ("before", "auto") if with_before else ("auto",)
    return [(REGRESSION, ""), *((name, network) for network in networks for name in settings)]


def measure(
    log: str, data: Path, contestant: tuple[str, str], seeds: list[int], work: Path
) -> Iterator[dict[str, Any]]:
    """Yield one record for each seed; the regression has one in all."""
    torch.set_num_threads(1)
    dataset, (settings, network) = Dataset(data), contestant
    for seed in seeds if network else seeds[:1]:
        started = time.perf_counter()
        if network:
            chosen = auto_settings(dataset) if settings == "auto" else BEFORE
            folder = work / "run"
            shutil.rmtree(folder, ignore_errors=True)
            config = TrainConfig.resolve(chosen, {"network": network, "seed": seed})
            figures = dict(train(config, data, folder).metrics["test"])
        else:
            logits, penalty = test_logits(dataset)
            figures = {**quality.summary(dataset.load("test").labels, logits), "c": penalty}
        yield {
            "log": log,
            "settings": settings,
            "network": network,
            "seed": seed,
            "rows": dataset.info["splits"]["train"]["rows"],
            "train_clicks": dataset.info["splits"]["train"]["clicks"],
            "test": figures,
            "seconds": round(time.perf_counter() - started, 1),
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "git_revision": git_revision(),
            "torch": torch.__version__,
        }
