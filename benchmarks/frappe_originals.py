"""Trains the uncompressed networks on Frappe_x1 with the published settings and records their test metrics.

    python benchmarks/frappe_originals.py --source ../shared/data/frappe_x1 --networks deepfm dnn --seeds 1 2

Each finished run is added to the results file at once; a run that is there already is not repeated. Settings come
from the preset named by --preset, everything else is its default. Validation decides when to stop; the test rows
are scored once, at the end.
"""

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console

from slimctr.clicklogs import PrepareSettings, prepare
from slimctr.training import RichProgress, TrainConfig, read_settings, train

RESULTS = Path(__file__).parent / "results" / "frappe_originals.json"
PUBLISHED_TEST_AUC = {"dnn": 0.98405, "deepfm": 0.98395, "dcn": 0.98342, "dcnv2": 0.98382}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--source", type=Path, required=True, help="folder with the train, valid and test files"
    )
    parser.add_argument(
        "--networks", nargs="+", default=["deepfm", "dnn"], choices=sorted(PUBLISHED_TEST_AUC)
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--preset", default="frappe")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    console = Console()
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        prepare(PrepareSettings(log_format="csv", source=arguments.source), data)
        for network in arguments.networks:
            for seed in arguments.seeds:
                settings = {"network": network, "seed": seed}
                if is_recorded(arguments.results, arguments.preset, settings):
                    continue
                console.print(f"{network}, seed {seed}")
                run_folder = Path(scratch) / f"{network}-{seed}"
                record = one_run(data, run_folder, arguments.preset, settings, console)
                add_record(arguments.results, record)
                console.print(
                    f"test AUC {record['test']['auc']:.5f}, published {PUBLISHED_TEST_AUC[network]}"
                )


def one_run(data: Path, folder: Path, preset: str, settings: dict, console: Console) -> dict:
    config = TrainConfig.resolve(read_settings(preset), settings)
    wall, cpu = time.perf_counter(), time.process_time()
    with RichProgress(console) as progress:
        run = train(config, data, folder, progress=progress)
    return {
        "preset": preset,
        **settings,
        "published_test_auc": PUBLISHED_TEST_AUC[settings["network"]],
        "valid": run.metrics["valid"],
        "test": run.metrics["test"],
        "epochs": len((folder / "history.jsonl").read_text().splitlines()),
        "wall_seconds": round(time.perf_counter() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "command": shlex.join(["python", *sys.argv]),
        "git_revision": run.lineage.git_revision,
        "torch": torch.__version__,
        "config": config.model_dump(mode="json"),
    }


def machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} vCPU {names[0] if names else platform.processor()}"


def is_recorded(results: Path, preset: str, settings: dict) -> bool:
    config = TrainConfig.resolve(read_settings(preset), settings).model_dump(mode="json")
    return any(record["config"] == config for record in read_records(results))


def read_records(results: Path) -> list[dict]:
    return json.loads(results.read_text())["runs"] if results.is_file() else []


def add_record(results: Path, record: dict) -> None:
    results.parent.mkdir(parents=True, exist_ok=True)
    data = "Frappe_x1 test set, rebuilt training negatives"
    content = {"data": data, "runs": [*read_records(results), record]}
    results.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
