"""Measures the engine and writes docs/results/engine.md; models are made where the store lacks them.

python -m benchmarks.engine
python -m benchmarks.engine --ids 1000000 --rounds 3 --results engine.jsonl --report engine.md
"""

import argparse
import json
import os
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # read when torch is loaded

import torch
from rich.console import Console

from benchmarks.engine.lookups import time_lookups
from benchmarks.engine.machine import origin
from benchmarks.engine.report import page
from benchmarks.engine.rounds import SLICE_SECONDS, Turns
from benchmarks.engine.scoring import time_scoring
from benchmarks.large_models import publish
from benchmarks.random_models import VARIANTS
from model_store.store import ModelStore

BENCHMARKS = Path(__file__).parents[1]
SEED = 0


def main() -> None:
    """Parse the command line, measure, write records and page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--ids", type=int, nargs="+", default=(1_000_000, 10_000_000), help="sizes of the model"
    )
    parser.add_argument(
        "--store", type=Path, default=BENCHMARKS / "work" / "large", help="where models are kept"
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--slice-seconds", type=float, default=SLICE_SECONDS, help="of one turn")
    parser.add_argument("--results", type=Path, default=BENCHMARKS / "results" / "engine.jsonl")
    parser.add_argument("--report", type=Path, default=BENCHMARKS.parent / "docs" / "results" / "engine.md")
    parser.add_argument("--report-only", action="store_true", help="write the page of records that exist")
    arguments = parser.parse_args()
    if not arguments.report_only:
        measure(arguments, Console(stderr=True))
    records = [json.loads(line) for line in arguments.results.read_text().splitlines()]
    arguments.report.write_text(page(records))


def measure(arguments: argparse.Namespace, console: Console) -> None:
    """Write one record a line."""
    torch.set_num_threads(1)
    arguments.store.mkdir(parents=True, exist_ok=True)
    store = ModelStore(arguments.store)
    models = {ids: publish(arguments.store, ids, arguments.variants, SEED, console) for ids in arguments.ids}
    turns = Turns(arguments.rounds, arguments.slice_seconds)
    partial = arguments.results.with_suffix(".partial")
    with partial.open("w") as file:
        records = [{"kind": "origin", "seed": SEED, "rounds": arguments.rounds, **origin()}]
        print(json.dumps(records[0]), file=file)
        for ids, versions in models.items():
            for timed in (time_scoring, time_lookups):
                for record in timed(store, ids, versions, turns, SEED):
                    print(json.dumps(record), file=file, flush=True)
                    console.print(
                        f"{ids:,} {record['kind']} {record['draw']} batch {record['batch']} "
                        f"{record['contestant']}: {record['us_per_row']} µs a row, {record['ratio']}x"
                    )
    partial.replace(arguments.results)


if __name__ == "__main__":
    main()
