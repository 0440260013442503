"""From a run and a budget to a report: search, measure the frontier, recommend, write."""

import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slimctr.compression.data import data_of_run
from slimctr.frontier.budget import Budget, pareto_front
from slimctr.frontier.folder import claimed
from slimctr.frontier.report import write_report
from slimctr.frontier.search import Workers, search
from slimctr.frontier.timing import time_together
from slimctr.frontier.variants import Workshop
from slimctr.scoring.resident import measure_resident
from slimctr.training import load_run

FORMAT = 1


def find_frontier(
    run: Path,
    budget: Budget,
    folder: Path,
    *,
    data: Path | None = None,
    trials: int = 40,
    jobs: int = 1,
    seed: int = 1,
    tell: Callable[[str], None] = lambda line: None,
    workers: Workers = "processes",
) -> dict[str, Any]:
    """Search until `trials` are done, measure original and frontier in full, write the report; return what it says.

    Selection sees validation rows alone; the test rows of the frontier are scored once everything is chosen. A
    search that was cut short goes on: trials and finished variants of `folder` are never repeated. Raises
    ConfigError for a run whose data are gone, for a `folder` that holds the search of another run and for one in
    which another search works, CompressionError when no trial could be done.
    """
    searched = load_run(run)
    data_of_run(searched, data)
    with claimed(folder, searched):
        workshop = Workshop(folder, searched, data)
        workshop.sweep()
        tell("measuring the original")
        original = workshop.original()
        done = search(folder, run, data, trials, jobs, seed, tell, workers)
        variants = workshop.records()
        front = pareto_front(variants)
        recommended = budget.recommend(variants, original)
        measured = [original, *front]
        tell(f"timing the engine on {len(measured)} versions")
        for variant, speed in zip(
            measured, time_together([workshop.path(v) for v in measured], workshop.dataset), strict=True
        ):
            variant["speed"] = speed
        for variant in measured:
            tell(f"memory and test rows of version {variant['version']}")
            variant["bytes"]["resident"] = measure_resident(workshop.path(variant))["resident_bytes"]
            variant["test"] = workshop.test_quality(variant)
        found = {
            "format": FORMAT,
            "run": run.resolve().name,
            "budget": str(budget),
            "trials": done,
            "seed": seed,
            "date": datetime.now(UTC).date().isoformat(),
            "machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
            "original": original,
            "variants": [next((m for m in measured if m["key"] == v["key"]), v) for v in variants],
            "front": [variant["key"] for variant in front],
            "recommended": None if recommended is None else recommended["key"],
        }
        write_report(folder, found)
        return found
