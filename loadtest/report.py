"""The result of a run: figures, verdict against the objective, and their table."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from loadtest.problems import Problem
from loadtest.server import STAGES

# A generator this busy delays its own clock: latencies are too long then and the rate is no capacity.
BUSY_GENERATOR = 0.8
MAX_FAILURE_RATIO = 0.001
PERCENTILES = (50, 90, 95, 99)


@dataclass
class Measurements:
    """What the generator saw: every latency in milliseconds, rows answered, failures and wrong answers."""

    latencies_ms: list[float] = field(default_factory=list)
    rows: int = 0
    failures: int = 0
    wrong_answers: int = 0
    outcome_failures: int = 0
    seconds: float = 0.0
    generator_cpu_seconds: float = 0.0
    # The first problem of each kind of request and status, and how many had that status.
    problems: dict[tuple[str, int], tuple[Problem, int]] = field(default_factory=dict)

    def note(self, request: str, problem: Problem) -> None:
        """Keep the problem unless one of its status is kept; count it."""
        first, count = self.problems.get((request, problem.status), (problem, 0))
        self.problems[request, problem.status] = first, count + 1


def summarize(
    seen: Measurements, served: dict[str, float | None], settings: dict[str, Any], p99_ms: float
) -> dict[str, Any]:
    """Return the report as a JSON document."""
    requests = len(seen.latencies_ms)
    latency = np.array(seen.latencies_ms) if requests else None
    failed = seen.failures + seen.outcome_failures
    generator_cpu_ratio = seen.generator_cpu_seconds / seen.seconds
    percentiles = (
        {f"p{share}": float(np.percentile(latency, share)) for share in PERCENTILES}
        if latency is not None
        else {}
    )
    missed = []
    if latency is None:
        missed.append("no request was answered")
    elif percentiles["p99"] > p99_ms:
        missed.append(f"p99 is {percentiles['p99']:.1f} ms, above {p99_ms:g} ms")
    if seen.wrong_answers:
        missed.append(f"{seen.wrong_answers} answers were wrong")
    if failed > MAX_FAILURE_RATIO * max(requests, 1):
        missed.append(f"{failed} of {requests} requests failed, above {MAX_FAILURE_RATIO:.1%}")
    return {
        "settings": settings,
        "seconds": seen.seconds,
        "requests": requests,
        "failures": seen.failures,
        "outcome_failures": seen.outcome_failures,
        "wrong_answers": seen.wrong_answers,
        "problems": [
            {"request": request, "count": count, **problem._asdict()}
            for (request, _), (problem, count) in sorted(seen.problems.items())
        ],
        "requests_per_second": requests / seen.seconds,
        "rows_per_second": seen.rows / seen.seconds,
        "latency_ms": percentiles
        | ({"mean": float(latency.mean()), "max": float(latency.max())} if latency is not None else {}),
        "server": served,
        "generator": {"cpu_ratio": generator_cpu_ratio, "saturated": generator_cpu_ratio > BUSY_GENERATOR},
        "objective": {
            "p99_ms": p99_ms,
            "max_failure_ratio": MAX_FAILURE_RATIO,
            "met": not missed,
            "missed": missed,
        },
    }


def table(report: dict[str, Any]) -> str:
    """Return the report for a terminal."""
    latency, server, generator = report["latency_ms"], report["server"], report["generator"]
    lines: list[tuple[str, str]] = [
        ("requests", f"{report['requests']:,} in {report['seconds']:.1f} s"),
        ("requests/s, rows/s", f"{report['requests_per_second']:,.0f}, {report['rows_per_second']:,.0f}"),
        ("latency ms", ", ".join(f"{name} {value:.2f}" for name, value in latency.items()) or "-"),
        (
            "failures",
            f"{report['failures']} requests, {report['wrong_answers']} wrong, {report['outcome_failures']} outcomes",
        ),
        ("server: mean batch", f"{_number(server['mean_batch_rows'])} rows"),
        ("server: mean ms", _stages(server, (*STAGES, "request"))),
        ("generator CPU", f"{generator['cpu_ratio']:.0%} of one core"),
    ]
    text = "\n".join(f"{name:<20} {value}" for name, value in lines)
    if generator["saturated"]:
        text += (
            "\nThe generator was saturated: the rate above is its own limit, and latencies are overstated."
        )
    for problem in report["problems"]:
        kind = f"{problem['status'] or 'no answer'} {problem['slug'] or ''}".rstrip()
        text += f"\n{problem['count']:,} x {problem['request']}: {kind}, first: {problem['detail']}"
    objective = report["objective"]
    verdict = "met" if objective["met"] else "MISSED: " + "; ".join(objective["missed"])
    return f"{text}\nobjective            p99 <= {objective['p99_ms']:g} ms: {verdict}"


def _stages(server: dict[str, float | None], names: Sequence[str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_number(server[f'mean_{name}_ms'])}" for name in names)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
