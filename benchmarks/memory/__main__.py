"""Measures memory and loading of the service: `make bench-memory`, or

    python -m benchmarks.memory --store work/large
    python -m benchmarks.memory --store work/large --only cycles --repeats 1
    python -m benchmarks.memory --only report

The artifacts of one and ten million ids are made when the store lacks them (about 6 GB of memory, some minutes).
"""

import argparse
import json
import platform
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.machine import machine
from benchmarks.memory.measure import SIZES, VARIANTS, Bench
from benchmarks.memory.report import report

RESULTS = Path("benchmarks/results/memory.jsonl")
REPORT = Path("docs/results/memory.md")
PARTS = ("starts", "tail", "cycles", "report")


def main() -> None:
    """Parse the command line, measure what it names, add it to the results and write the report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--store", type=Path, default=Path("work/large"), help="model store [work/large]")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run [all]")
    parser.add_argument("--repeats", type=int, default=3, help="starts, and loads under traffic [3]")
    parser.add_argument("--cycles", type=int, default=100, help="cycles of load, score and unload [100]")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    records = _read()
    if set(arguments.only) != {"report"}:
        _publish(arguments.store, console)
        for record in _measure(arguments, console):
            records[record["key"]] = {**record, "origin": _origin(arguments.repeats)}
            RESULTS.write_text("".join(json.dumps(entry) + "\n" for entry in records.values()))
    REPORT.write_text(report(records))
    console.print(f"{REPORT} written")


def _publish(store: Path, console: Console) -> None:
    # Imported here: torch, which only the making of artifacts needs, would slow the client of the measurements.
    from benchmarks.large_models import publish

    store.mkdir(parents=True, exist_ok=True)
    for ids in SIZES:
        publish(store, ids, VARIANTS, console=console)


def _measure(arguments: argparse.Namespace, console: Console) -> Iterator[dict[str, Any]]:
    bench = Bench(arguments.store, arguments.repeats)
    if "starts" in arguments.only:
        console.print("starts: each size, variant and number of workers")
        yield from bench.starts()
    if "tail" in arguments.only:
        for variant in ("original", "pca_8bit"):
            console.print(f"tail: 10 million ids of {variant} load beside a served model")
            yield bench.tail(min(SIZES), max(SIZES), variant)
    if "cycles" in arguments.only:
        console.print(f"cycles: {arguments.cycles} loads and unloads")
        yield bench.cycles(min(SIZES), "original", arguments.cycles)


def _read() -> dict[str, dict[str, Any]]:
    if not RESULTS.is_file():
        return {}
    entries = map(json.loads, RESULTS.read_text().splitlines())
    return {entry["key"]: entry for entry in entries}


def _origin(repeats: int) -> dict[str, Any]:
    revision = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    packages = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "numpy", "fastapi"))
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": f"Python {platform.python_version()}, {packages}",
        "revision": revision.stdout.strip(),
        "repeats": repeats,
    }


if __name__ == "__main__":
    main()
