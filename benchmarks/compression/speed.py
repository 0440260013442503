"""Times the engine on published variants beside their originals (first seed), through `slimctr.frontier.timing`."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.compression.measure import published
from benchmarks.compression.plan import ORIGINAL, Plan, Study, study_task
from benchmarks.machine import machine
from slimctr.clicklogs import Dataset
from slimctr.frontier.timing import BATCHES, time_together


def time_plan(
    plan: Plan, data: Mapping[str, Path], work: Path, known: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield a record for every variant of the studies with `speed` that is published; networks already known stay."""
    for study in plan.studies.values():
        if not study.speed or study.data not in data:
            continue
        for network in study.networks:
            tasks = [study_task(study, name, network, study.seeds[0]) for name in (ORIGINAL, *study.variants)]
            present = [task for task in tasks if published(task, work) is not None]
            if not present or present[0].variant != ORIGINAL or all(task.key in known for task in present):
                continue
            paths = [published(task, work) for task in present]
            speeds = time_together(paths, Dataset(data[study.data]))
            for task, speed in zip(present, speeds, strict=True):
                origin = {"date": datetime.now(UTC).date().isoformat(), "machine": machine()}
                yield {"key": task.key, "network": network, "variant": task.variant, **speed, **origin}


def speed_section(study: Study, speeds: Mapping[str, dict[str, Any]]) -> str:
    """A table of ratios for the networks of a study; empty without records."""
    lines = []
    for network in study.networks:
        for name in study.variants:
            record = speeds.get(study_task(study, name, network, study.seeds[0]).key)
            if record is not None:
                ratios = (f"{record['speed_ratio'][str(rows)]:.2f}" for rows in BATCHES)
                lines.append(f"| {network} | {name} | {' | '.join(ratios)} |")
    if not lines:
        return ""
    head = f"| network | variant | {' | '.join(f'batch {rows}' for rows in BATCHES)} |"
    told = "Speed of the engine as a multiple of the original's: lookup and network, one thread, first seed."
    return "\n".join([told, "", head, "|---|---|" + "---|" * len(BATCHES), *lines])
