"""`python -m benchmarks.training quality` measures default training, `report` writes docs/results/training.md.

    python -m benchmarks.training quality
    python -m benchmarks.training quality --logs criteo avazu --networks deepfm --seeds 1 2 3 --before
    python -m benchmarks.training report

A finished record is added to benchmarks/results/training.jsonl at once and not repeated. Real data come from
SLIMCTR_DATA, ./data or ../shared/data; a log that is absent is left out, and said so.
"""

import argparse
import json
from pathlib import Path

from benchmarks.compression.__main__ import add_record, data_root
from benchmarks.training.logs import REAL, available, prepared
from benchmarks.training.quality import contestants, measure
from benchmarks.training.report import page

RESULTS = Path(__file__).parents[1] / "results" / "training.jsonl"
WORK = Path(__file__).parents[1] / "work" / "training"
REPORT = Path(__file__).parents[2] / "docs" / "results" / "training.md"


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=("quality", "report"))
    parser.add_argument("--logs", nargs="+", help="only these logs")
    parser.add_argument("--networks", nargs="+", default=["deepfm", "dcnv2"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--before", action="store_true", help="measure the defaults of before `auto` too")
    parser.add_argument("--work", type=Path, default=WORK, help="where data and the run are kept")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    records = _records(arguments.results)
    if arguments.command == "report":
        REPORT.write_text(page(records))
        return
    root = data_root()
    logs = available(root)
    for absent in REAL.keys() - logs.keys():
        print(f"left out, no data: {absent} ({REAL[absent]}) under SLIMCTR_DATA, ./data or ../shared/data")
    known = {tuple(record[name] for name in ("log", "settings", "network", "seed")) for record in records}
    for log in arguments.logs or logs:
        data = prepared(log, root, arguments.work)
        for contestant in contestants(arguments.networks, arguments.before):
            seeds = arguments.seeds if contestant[1] else arguments.seeds[:1]
            missing = [seed for seed in seeds if (log, *contestant, seed) not in known]
            for record in measure(log, data, contestant, missing, arguments.work):
                add_record(arguments.results, record)
                told = "  ".join(
                    f"{name} {record['test'][name]:.4f}" for name in ("auc", "ne", "calibration")
                )
                print(f"{log}: {' '.join(contestant)} seed {record['seed']}: {told}", flush=True)


def _records(results: Path) -> list[dict]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []


if __name__ == "__main__":
    main()
