"""Measures the whole service over loopback, beside other servers of the same float model.

    python -m benchmarks.serving run --round 1
    python -m benchmarks.serving run --servers slimctr empty --rows 1 --connections 1 8
    python -m benchmarks.serving turns
    python -m benchmarks.serving report

`run` starts each server alone (time to the first answer, scores, memory after load), then all of them, each in one
process on one core, and loads them in turn from wrk on another core, cell by cell, while the others are stopped. It
appends to the results; rounds are repetitions, of which `report` takes medians. `turns` asks the plain services and
ours one row at a time, 50 requests in a turn. Needs wrk. Peers are left out unless
their virtual environment is in the work folder:

    python -m venv WORK/litserve && WORK/litserve/bin/pip install torch==2.13.0 numpy litserve
    python -m venv WORK/mlserver && WORK/mlserver/bin/pip install torch==2.13.0 numpy mlserver "uvloop<0.22"
"""

import argparse
import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks.serving.bodies import DISTINCT, write_script
from benchmarks.serving.machine import describe, stolen_seconds
from benchmarks.serving.model import COMPRESSED, Files, asked_ids, expected_scores, make_files
from benchmarks.serving.report import report
from benchmarks.serving.servers import CONFIGS, Config, Server
from benchmarks.serving.turns import measure_turns, summary
from slimctr.features import EncodedBatch
from slimctr.scoring import Scorer

RESULTS = Path(__file__).parents[1] / "results" / "serving.jsonl"
WORK = Path(__file__).parents[1] / "work" / "serving"
REPORT = Path(__file__).parents[2] / "docs" / "results" / "serving.md"
WARM_UP_ROWS = (1, 100, 1000)
TOLERANCE = 1e-5
COMPRESSED_SERVERS = ("slimctr", "slimctr_narrow")
PLAIN_PEERS = ("fastapi_onnxruntime", "fastapi_torch")


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=("run", "turns", "report"))
    parser.add_argument("--servers", nargs="+", choices=CONFIGS, default=tuple(CONFIGS))
    parser.add_argument("--rows", nargs="+", type=int, choices=DISTINCT, default=tuple(DISTINCT))
    parser.add_argument("--connections", nargs="+", type=int, default=(1, 8, 32))
    parser.add_argument("--seconds", type=int, default=2, help="of load in each cell [2]")
    parser.add_argument("--round", type=int, default=1, help="number of this repetition [1]")
    parser.add_argument("--turns", type=int, default=600, help="of 50 requests to each server and form [600]")
    parser.add_argument("--cores", nargs=2, type=int, default=(0, 1), help="of the servers and of wrk [0 1]")
    parser.add_argument("--skip-alone", action="store_true", help="only the load, no start time and memory")
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.command == "report":
        records = [json.loads(line) for line in arguments.results.read_text().splitlines()]
        REPORT.write_text(report(records))
        return
    # An end by a signal ends the servers too: the blocks that started them are left one by one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if shutil.which("wrk") is None:
        sys.exit("wrk is needed: apt-get install wrk")
    console = Console(stderr=True)
    with console.status("making the model"):
        files = make_files(arguments.work.resolve())
    if arguments.command == "turns":
        take_turns(arguments, files, console)
    else:
        measure(arguments, files, console)


def take_turns(arguments: argparse.Namespace, files: Files, console: Console) -> None:
    """Measure one row at one connection in turns and append the records."""
    ids = asked_ids(max(rows * count for rows, count in DISTINCT.items()))
    names = Scorer.open(files.version(COMPRESSED[0])).encoder.schema.names
    with contextlib.ExitStack() as stack, Progress(console=console) as progress:
        configs = [CONFIGS[name] for name in (*COMPRESSED_SERVERS, "empty", *PLAIN_PEERS)]
        servers = [stack.enter_context(Server(config, files, arguments.cores[0])) for config in configs]
        for server in servers:
            server.wait_until_ready(ids, names)
        task = progress.add_task("turns", total=arguments.turns)
        begin, stolen_s = time.perf_counter(), stolen_seconds(arguments.cores)
        taken = measure_turns(
            servers, ids, names, arguments.turns, arguments.cores[1], lambda: progress.advance(task)
        )
        seconds = time.perf_counter() - begin
        stolen_s = stolen_seconds(arguments.cores) - stolen_s
    head = {"kind": "turns", "seconds": round(seconds, 1), "stolen_s": round(stolen_s, 2), **describe()}
    with arguments.results.open("a") as results:
        for record in summary(taken, PLAIN_PEERS):
            console.print(record)
            results.write(json.dumps({**head, **record}) + "\n")


def measure(arguments: argparse.Namespace, files: Files, console: Console) -> None:
    """Measure one round and append its records."""
    configs = [CONFIGS[name] for name in arguments.servers]
    for config in configs:
        if not config.python(files.work).exists():
            console.print(f"left out, not installed: {config.name}")
    configs = [config for config in configs if config.python(files.work).exists()]
    ids = asked_ids(max(rows * count for rows, count in DISTINCT.items()))
    scorers = {variant: Scorer.open(files.version(variant)) for variant in COMPRESSED}
    names = scorers[COMPRESSED[0]].encoder.schema.names
    head = {"round": arguments.round, **describe()}
    with arguments.results.open("a") as results:

        def keep(record: dict) -> None:
            results.write(json.dumps({**head, **record}) + "\n")
            results.flush()

        if not arguments.skip_alone:
            expected = expected_scores(files, ids[: max(WARM_UP_ROWS)])
            for config in configs:
                record = measure_alone(config, files, arguments.cores[0], ids, names, expected)
                console.print(f"{config.name}: {record}")
                keep({"kind": "server", "server": config.name, **record})
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(Server(config, files, arguments.cores[0])) for config in configs]
            for server in servers:
                server.wait_until_ready(ids, names)
            for server in servers:
                server.pause()
            load(arguments, files, servers, scorers, ids, names, keep, console)


def measure_alone(
    config: Config, files: Files, core: int, ids: np.ndarray, names: tuple[str, ...], expected: dict
) -> dict:
    """Start a server alone, compare its scores, ask it requests of all sizes, read its memory, stop it."""
    with Server(config, files, core) as server:
        server.wait_until_ready(ids, names)
        difference = 0.0
        for form in config.paths:
            for rows in WARM_UP_ROWS:
                for _ in range(10):
                    scores = server.ask(form, ids[:rows], names)
                if config.scores is not None:
                    wanted = expected[config.scores][:rows]
                    difference = max(difference, float(np.abs(scores.ravel() - wanted).max()))
        if difference > TOLERANCE:
            raise RuntimeError(f"{config.name} scores differ by {difference}")
        size, processes = server.pss_bytes()
        before = server.cpu_seconds()
        time.sleep(1)
        return {
            "ready_s": round(server.ready_s, 3),
            "pss_bytes": size,
            "processes": processes,
            "score_difference": difference,
            "idle_cpu": round(server.cpu_seconds() - before, 3),
        }


def load(
    arguments: argparse.Namespace,
    files: Files,
    servers: Sequence[Server],
    scorers: Mapping[str, Scorer],
    ids: np.ndarray,
    names: tuple[str, ...],
    keep: object,
    console: Console,
) -> None:
    """Load every server in turn in each cell of rows and connections; the engine of ours alone before and after."""
    bodies = files.work / "bodies"
    bodies.mkdir(exist_ok=True)
    for rows in arguments.rows:
        for connections in arguments.connections:
            for server in servers:
                server.resume()
                for form, path in server.config.paths.items():
                    script = write_script(bodies, form, ids, names, rows)
                    url = f"http://127.0.0.1:{server.port}{path}"
                    scorer = scorers.get(server.config.scores or "")
                    before = engine_speed(scorer, ids[:rows]) if scorer else 0.0
                    found = wrk(script, url, connections, arguments.seconds, arguments.cores[1])
                    if scorer:
                        found["engine_rows_per_s"] = (before + engine_speed(scorer, ids[:rows])) / 2
                    cell = {
                        "server": server.config.name,
                        "form": form,
                        "rows": rows,
                        "connections": connections,
                    }
                    keep({"kind": "load", **cell, **found})
                    console.print(
                        f"{server.config.name} {form} {rows} rows, {connections} connections: "
                        f"{found['requests_per_s']:.0f}/s, p50 {found['p50_ms']:.2f}, p99 {found['p99_ms']:.2f} ms"
                        + (f", {found['failed']} FAILED" if found["failed"] else "")
                    )
                server.pause()


def wrk(script: Path, url: str, connections: int, seconds: int, core: int) -> dict:
    """Load `url` and return requests per second, latencies and failures."""
    command = [
        "taskset",
        "-c",
        str(core),
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--timeout",
        "20s",
    ]
    done = subprocess.run([*command, "-s", str(script), url], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    rate = found["requests"] / found["seconds"]
    return {"requests_per_s": round(rate, 2), **{k: round(v, 3) for k, v in found.items()}}


def engine_speed(scorer: Scorer, ids: np.ndarray, seconds: float = 0.2) -> float:
    """Rows per second of the engine alone in this process, ids to logits, one thread: the median call."""
    batch = EncodedBatch.uncounted(np.ascontiguousarray(ids))
    times = []
    end = time.perf_counter() + seconds
    while (begin := time.perf_counter()) < end:
        scorer.logits(batch)
        times.append(time.perf_counter() - begin)
    return round(len(ids) / float(np.median(times)), 1)


if __name__ == "__main__":
    main()
