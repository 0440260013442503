"""The command `python -m loadtest`: profile in, report out, exit status 0 when the objective was met, 1 when missed."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Importing locust replaces this process's blocking calls with gevent's: before anything opens a socket.
import locust

from loadtest.calls import Call, write_id_calls, write_named_calls
from loadtest.errors import LoadTestError
from loadtest.profile import Profile, ZipfIds, load_profile
from loadtest.report import summarize, table
from loadtest.rows import open_source
from loadtest.run import run
from loadtest.server import Server, server_side
from loadtest.user import scoring_user
from model_store.local_path import remote_fault

# So many different requests are written ahead of the run; the users send them in a circle.
CALLS = 256
MISSED, CANNOT_START = 1, 2


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest",
        description="Send a profile's traffic to a service and compare it with an objective.",
        epilog="example: python -m loadtest --host http://127.0.0.1:8080 --profile replay --data data/frappe "
        "--users 8 --seconds 30 --p99-ms 20 --out report.json --html report.html",
    )
    parser.add_argument("--host", required=True, help="address of the service")
    parser.add_argument(
        "--profile", required=True, help="name of a profile in loadtest/profiles, or a YAML file"
    )
    parser.add_argument(
        "--data", type=_local_path, help="rows to replay: a prepared data directory or a JSONL file"
    )
    parser.add_argument("--model", help="default: the only model of the service")
    parser.add_argument("--users", type=_positive(int), default=4, help="clients, each with one open request")
    parser.add_argument("--seconds", type=_positive(float), default=10.0, help="length of the run")
    parser.add_argument(
        "--rate", type=_positive(float), help="most requests per second of all users together"
    )
    parser.add_argument("--p99-ms", type=_positive(float), required=True, help="the objective")
    parser.add_argument(
        "--unit-field", metavar="FIELD", help="instead of the profile's; '' sends no unit and no outcomes"
    )
    parser.add_argument(
        "--candidate-fields",
        metavar="A,B",
        type=lambda text: [name.strip() for name in text.split(",") if name.strip()],
        help="instead of the profile's: the fields that differ between the candidates of a slate",
    )
    parser.add_argument("--seed", type=int, help="instead of the profile's")
    parser.add_argument("--out", type=_local_path, help="write the report as JSON")
    parser.add_argument("--html", type=_local_path, help="write locust's page")
    return parser.parse_args(arguments)


def _local_path(text: str) -> Path:
    if fault := remote_fault(text):
        raise argparse.ArgumentTypeError(fault)
    return Path(text)


def _positive(number: type) -> type:
    def read(text: str) -> float:
        value = number(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return read


def changes(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the command line says in place of the profile."""
    given: dict[str, Any] = {}
    if options.seed is not None:
        given["seed"] = options.seed
    if options.unit_field is not None:
        given["unit_field"] = options.unit_field or None
    if options.candidate_fields is not None:
        given["candidate_fields"] = options.candidate_fields
    return given


def write_calls(profile: Profile, server: Server, model: str | None, data: Path | None) -> list[Call]:
    """Return the calls of the run."""
    if isinstance(profile.rows, ZipfIds):
        model = model or server.only_model()
        return write_id_calls(profile, profile.rows, model, server.inputs(model), CALLS)
    return write_named_calls(profile, open_source(profile, data), model, CALLS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write the reports; return the exit status."""
    options = parse(arguments)
    # A key on the command line would show in the list of processes.
    key = os.environ.get("LOADTEST_KEY")
    server = Server(options.host, key)
    try:
        profile = load_profile(options.profile, changes(options))
        model = options.model or server.only_model()
        calls = write_calls(profile, server, model, options.data)
        before = server.counters(model)
        per_user = options.rate / options.users if options.rate else None
        user = scoring_user(calls, key, per_user)
        seen = run(user, options.host, options.users, options.seconds, options.html)
        served = server_side(before, server.counters(model))
    except LoadTestError as error:
        print(f"error: {error}", file=sys.stderr)
        return CANNOT_START
    settings = {
        "host": options.host,
        "model": model,
        "profile": profile.model_dump(mode="json"),
        "users": options.users,
        "seconds": options.seconds,
        "rate": options.rate,
        "locust": locust.__version__,
        "machine": {
            "cpus": os.cpu_count(),
            "architecture": platform.machine(),
            "python": platform.python_version(),
        },
    }
    report = summarize(seen, served, settings, options.p99_ms)
    print(table(report))
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0 if report["objective"]["met"] else MISSED


if __name__ == "__main__":
    sys.exit(main())
