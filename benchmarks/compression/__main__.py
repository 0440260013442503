"""`python -m benchmarks.compression run` measures a plan, `speed` times its artifacts, `tables` writes the report.

    python -m benchmarks.compression run --plan full --jobs 2
    python -m benchmarks.compression run --plan full --studies low_rank_frappe precision_frappe
    python -m benchmarks.compression tables --plan full

Each finished variant is added to the results file at once and never repeated; runs and artifacts stay under the work
folder, so an interrupted measurement goes on where it stopped. Real data come from SLIMCTR_DATA, ./data or
../shared/data; a data set that is absent is left out, and said so.
"""

import argparse
import json
import os
import sys
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console

from benchmarks.compression.measure import carry_out, is_record_of, prepare_data
from benchmarks.compression.plan import Plan, Task
from benchmarks.compression.speed import time_plan
from benchmarks.compression.tables import report

RESULTS = Path(__file__).parents[1] / "results"
WORK = Path(__file__).parents[1] / "work"
DATA_ROOTS = ("data", "../shared/data")


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compression",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=("run", "speed", "tables"))
    parser.add_argument("--plan", default="full", help="name of a YAML file beside this one")
    parser.add_argument("--studies", nargs="+", default=(), help="only these studies of the plan")
    parser.add_argument("--only", default="", help="only variants whose name matches this expression")
    parser.add_argument("--jobs", type=int, default=1, help="variants at a time, one thread each")
    parser.add_argument("--work", type=Path, default=WORK, help="where data, runs and artifacts are kept")
    parser.add_argument(
        "--results", type=Path, help="results file [benchmarks/results/compression_PLAN.jsonl]"
    )
    parser.add_argument("--report", type=Path, help="report file [docs/results/compression.md]")
    arguments = parser.parse_args()
    plan = Plan.read(arguments.plan)
    results = arguments.results or RESULTS / f"compression_{arguments.plan}.jsonl"
    speeds = results.with_name(results.stem + "_speed.jsonl")
    if arguments.command == "tables":
        text = report(plan, read_records(results), read_records(speeds), arguments.plan)
        if arguments.report is None:
            print(text, end="")
        else:
            arguments.report.parent.mkdir(parents=True, exist_ok=True)
            arguments.report.write_text(text)
        return
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    work, console = arguments.work.resolve(), Console(stderr=True)
    if arguments.command == "speed":
        data = {name: work / "data" / name for name in plan.data if (work / "data" / name).is_dir()}
        for record in time_plan(plan, data, work, read_records(speeds)):
            add_record(speeds, record)
            console.print(f"{record['key']} {record['variant']}: {record['speed_ratio']}")
        return
    tasks = list(plan.tasks(arguments.studies, arguments.only))
    sys.exit(run(plan, tasks, results, work, arguments.jobs, console))


def run(plan: Plan, tasks: list[Task], results: Path, work: Path, jobs: int, console: Console) -> int:
    """Measure what has no record yet; return the number of tasks that failed."""
    root = data_root()
    data = {}
    for name in {task.data for task in tasks}:
        source = plan.data[name]
        if source.folder is not None and (root is None or not (root / source.folder).is_dir()):
            console.print(
                f"left out, no data: {name} ({source.folder}) under SLIMCTR_DATA, ./data or ../shared/data"
            )
            continue
        with console.status(f"preparing {name}"):
            data[name] = prepare_data(name, source, root or Path(), work)
    known = read_records(results)
    todo = [
        task
        for task in tasks
        if task.data in data and not (task.key in known and is_record_of(known[task.key], data[task.data]))
    ]
    console.print(f"{len(todo)} of {len(tasks)} variants to measure")
    failed = 0
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), max_tasks_per_child=20) as pool:
        waiting, running = list(todo), dict[Future, Task]()
        while waiting or running:
            for task in startable(waiting, running, jobs):
                waiting.remove(task)
                running[pool.submit(carry_out, task, data[task.data], work)] = task
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                named = f"{task.data} {task.config.network} seed {task.config.seed}: {task.variant}"
                if problem := future.exception():
                    failed += 1
                    console.print(f"[red]failed[/] {named}")
                    traceback.print_exception(problem)
                    if task.variant == "original":
                        waiting = [other for other in waiting if other.original.key != task.key]
                    continue
                record = future.result()
                add_record(results, record)
                console.print(
                    f"{named}: test AUC {record['test']['auc']:.5f}, {record['bytes']['artifact']:,} bytes, "
                    f"{record['seconds']['wall']:.0f} s ({len(waiting) + len(running)} to go)"
                )
    return failed


def startable(waiting: list[Task], running: dict[Future, Task], jobs: int) -> list[Task]:
    """The tasks to start now: at most `jobs` at a time, a variant only after its original."""
    unfinished = {task.key for task in [*waiting, *running.values()]}
    free = jobs - len(running)
    ready = [t for t in waiting if t.original.key == t.key or t.original.key not in unfinished]
    return ready[:free]


def data_root() -> Path | None:
    """The first folder that may hold real data."""
    for root in (os.environ.get("SLIMCTR_DATA"), *DATA_ROOTS):
        if root and Path(root).is_dir():
            return Path(root)
    return None


def read_records(results: Path) -> dict[str, dict]:
    """Records by key; the last one of a key holds."""
    if not results.is_file():
        return {}
    return {record["key"]: record for record in map(json.loads, results.read_text().splitlines())}


def add_record(results: Path, record: dict) -> None:
    """Append a record to the results file."""
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a") as file:
        file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
