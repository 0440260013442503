"""Times the engine on published variants beside their originals: the same rows, one thread, turn by turn."""

import statistics
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compression.measure import first_rows, machine, published
from benchmarks.compression.plan import ORIGINAL, Plan, Study, Task, study_task
from slimctr.features import EncodedBatch
from slimctr.scoring import Scorer

BATCHES = (1, 32, 512)
ROUNDS = 30
SLICE_SECONDS = 0.01


def time_plan(plan: Plan, data: Mapping[str, Path], work: Path, known: Mapping[str, Any]):
    """Yield a record for every variant of the studies with `speed`, first seed, that is published and new."""
    for study in plan.studies.values():
        if not study.speed or study.data not in data:
            continue
        for network in study.networks:
            tasks = {
                name: study_task(study, name, network, study.seeds[0]) for name in (ORIGINAL, *study.variants)
            }
            present = {name: task for name, task in tasks.items() if published(task, work) is not None}
            if ORIGINAL in present and any(task.key not in known for task in present.values()):
                yield from time_together(list(present.values()), data[study.data], work)


def time_together(tasks: list[Task], data: Path, work: Path) -> list[dict[str, Any]]:
    """Seconds per call of every task's engine, medians over rounds that visit them in turn.

    Ratios are medians of the ratios within a round, original over variant: above 1 the variant is faster.
    """
    scorers = [Scorer.open(published(task, work)) for task in tasks]
    seconds: dict[int, list[list[float]]] = {}
    for rows in BATCHES:
        batches = [list(pieces(first_rows(scorer, data), rows)) for scorer in scorers]
        for scorer, parts in zip(scorers, batches, strict=True):
            slice_seconds(scorer, parts)
        seconds[rows] = [
            [slice_seconds(scorer, parts) for scorer, parts in zip(scorers, batches, strict=True)]
            for _ in range(ROUNDS)
        ]
    for scorer in scorers:
        scorer.close()
    return [
        {
            "key": task.key,
            "variant": task.variant,
            "microseconds": {
                str(rows): round(1e6 * statistics.median(turn[place] for turn in turns), 1)
                for rows, turns in seconds.items()
            },
            "ratio": {
                str(rows): round(statistics.median(turn[0] / turn[place] for turn in turns), 3)
                for rows, turns in seconds.items()
            },
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
        }
        for place, task in enumerate(tasks)
    ]


def pieces(batch: EncodedBatch, rows: int, most: int = 64):
    """The first `most` batches of `rows` rows."""
    for start in range(0, min(len(batch) - rows + 1, most * rows), rows):
        yield batch.slice(start, start + rows)


def slice_seconds(scorer: Scorer, parts: list[EncodedBatch]) -> float:
    """Mean seconds of a call over whole passes of `parts` that take about a hundredth of a second."""
    calls, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < SLICE_SECONDS:
        for part in parts[: max(1, int(np.ceil(len(parts) / 4)))]:
            scorer.logits(part)
            calls += 1
    return elapsed / calls


def speed_section(study: Study, speeds: Mapping[str, dict[str, Any]]) -> str:
    """A table of ratios for the networks of a study; empty without records."""
    lines = []
    for network in study.networks:
        for name in study.variants:
            record = speeds.get(study_task(study, name, network, study.seeds[0]).key)
            if record is not None:
                ratios = (f"{record['ratio'][str(rows)]:.2f}" for rows in BATCHES)
                lines.append(f"| {network} | {name} | {' | '.join(ratios)} |")
    if not lines:
        return ""
    head = f"| network | variant | {' | '.join(f'batch {rows}' for rows in BATCHES)} |"
    told = "Speed of the engine, as a multiple of the original's (lookup and network, one thread, seed 1):"
    return "\n".join([told, "", head, "|---|---|" + "---|" * len(BATCHES), *lines])
