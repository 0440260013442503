"""Seconds of the engine on several versions: the same rows, one thread, turn by turn, so that noise hits all alike."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimctr.clicklogs import Dataset
from slimctr.features import EncodedBatch
from slimctr.scoring import Scorer
from slimctr.scoring.evaluation import stored_batch

BATCHES = (1, 32, 512)
ROUNDS = 30
SLICE_SECONDS = 0.01
ROWS = 8192
PIECES = 16


def time_together(paths: Sequence[Path], dataset: Dataset, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Return microseconds per call and the speed ratio to the first version, by batch rows, for each of `paths`.

    Medians over rounds that visit all versions in turn; a ratio is the median of ratios within a round, above 1
    where the version is faster than the first.
    """
    scorers = [Scorer.open(path) for path in paths]
    rows = next(iter(dataset.stream("test", ROWS))).batch
    batches = [stored_batch(scorer, dataset.vocabulary(), rows) for scorer in scorers]
    seconds: dict[int, list[list[float]]] = {}
    for size in BATCHES:
        parts = [_pieces(batch, size) for batch in batches]
        for scorer, some in zip(scorers, parts, strict=True):
            _seconds_per_call(scorer, some)
        seconds[size] = [
            [_seconds_per_call(scorer, some) for scorer, some in zip(scorers, parts, strict=True)]
            for _ in range(rounds)
        ]
    for scorer in scorers:
        scorer.close()
    return [
        {
            "microseconds": {
                str(size): round(1e6 * statistics.median(turn[place] for turn in turns), 1)
                for size, turns in seconds.items()
            },
            "speed_ratio": {
                str(size): round(statistics.median(turn[0] / turn[place] for turn in turns), 3)
                for size, turns in seconds.items()
            },
        }
        for place in range(len(scorers))
    ]


def _pieces(batch: EncodedBatch, size: int) -> list[EncodedBatch]:
    size = min(size, len(batch))
    return [batch.slice(start, start + size) for start in range(0, len(batch) - size + 1, size)][:PIECES]


def _seconds_per_call(scorer: Scorer, parts: Sequence[EncodedBatch]) -> float:
    calls, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < SLICE_SECONDS:
        for part in parts:
            scorer.logits(part)
        calls += len(parts)
    return elapsed / calls
