"""Writes docs/results/memory.md out of the records."""

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.memory.measure import SIZES, VARIANTS, WORKERS

MIB = 2**20
GOALS = """\
| goal | measured | holds |
|---|---|---|"""

Records = Mapping[str, dict[str, Any]]


def report(records: Records) -> str:
    """Return the page."""
    starts = [record for key, record in records.items() if key.startswith("start/")]
    tails = [record for key, record in records.items() if key.startswith("tail/")]
    cycles = [record for key, record in records.items() if key.startswith("cycles/")]
    origins = [record["origin"] for record in records.values()]
    parts = [
        "# Memory and loading of the service",
        f"Made by `make bench-memory` out of `benchmarks/results/memory.jsonl`: {_spread(origins)}. Artifacts of "
        "`benchmarks.large_models` (39 fields, random weights, seed 0), warm page cache.",
        "MB are 2^20 bytes. PSS: a page that n processes share counts 1/n. Workers are forked from a parent that "
        "opened the version: they map its files, and a page counts once one of them has read it. "
        "Ready: from the start of `slimctr serve` "
        f"until the last worker has a version ready. Starts of each: {origins[0]['repeats']}, interleaved; medians.",
        "## Goals",
        "\n".join([GOALS, *_goals(records, starts, tails, cycles)]),
        "## Start and memory",
        _starts(starts),
        "## Another model loads meanwhile",
        "One client, 20 rows a request and 2 ms between them, scores a model of 1 million ids in the same process. The "
        "other model loads and unloads again and again, with quiet times between; the requests of all loads are pooled. "
        "95 %: of the ratio, when loads are drawn with replacement.",
        _tails(tails),
        "## Cycles of load, score, unload",
        "PSS of the process before the first load, with the version loaded, after its unload, and after the last cycle.",
        _cycles(cycles),
    ]
    return "\n\n".join(parts) + "\n"


def _starts(starts: Iterable[dict[str, Any]]) -> str:
    head = (
        "| ids | variant | workers | artifact MB | RSS MB | PSS MB | of it artifact | worker beyond artifact | "
        "load s | ready s |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    lines = [
        f"| {r['ids'] // 1_000_000}M | {r['variant']} | {r['workers']} | {_mb(r['artifact_bytes'])} "
        f"| {_mb(r['rss_bytes'])} | {_mb(r['pss_bytes'])} | {_mb(r['files_pss_bytes'])} "
        f"| {_mb(r['worker_pss_without_files_bytes'])} | {r['load_s']:.2f} | {r['ready_s']:.2f} |"
        for r in starts
    ]
    return "\n".join([head, *lines])


def _tails(tails: Iterable[dict[str, Any]]) -> str:
    head = (
        "| loads | number | s each | requests quiet | loading | p50 ms quiet | loading | p99 ms quiet | loading | ratio "
        "| 95 % |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    lines = [
        f"| {r['loaded_ids'] // 1_000_000}M {r['variant']} | {r['loads']} | {r['load_s']:.2f} "
        f"| {r['quiet_requests']} | {r['loading_requests']} | {r['quiet_p50_ms']:.1f} | {r['loading_p50_ms']:.1f} "
        f"| {r['quiet_p99_ms']:.1f} | {r['loading_p99_ms']:.1f} | {r['p99_ratio']:.2f} "
        f"| {r['p99_ratio_interval'][0]:.2f} to {r['p99_ratio_interval'][1]:.2f} |"
        for r in tails
    ]
    return "\n".join([head, *lines])


def _cycles(cycles: Iterable[dict[str, Any]]) -> str:
    head = (
        "| model | cycles | before MB | loaded | unloaded | returned | after the last | slope KB a cycle | "
        "of the model | threads | descriptors |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    lines = [
        f"| {r['ids'] // 1_000_000}M {r['variant']} | {r['cycles']} | {_mb(r['before_bytes'])} "
        f"| {_mb(r['loaded_bytes'])} | {_mb(r['after_bytes'])} | {100 * r['returned_ratio']:.0f} % "
        f"| {_mb(r['after_last_bytes'])} | {r['slope_bytes_per_cycle'] / 1024:.1f} "
        f"| {100 * r['slope_of_model_ratio']:.3f} % | {_change(r['threads'])} | {_change(r['descriptors'])} |"
        for r in cycles
    ]
    return "\n".join([head, *lines])


def _goals(records: Records, starts: Any, tails: Any, cycles: Any) -> list[str]:
    beyond = max(record["worker_pss_without_files_bytes"] for record in starts) / MIB
    added = {
        f"{ids // 1_000_000}M {variant}": _added(records, ids, variant)
        for ids in SIZES
        for variant in VARIANTS
    }
    ready = {
        f"{record['variant']} × {record['workers']}": record["ready_s"]
        for record in starts
        if record["ids"] == max(SIZES)
    }
    lines = [
        _goal(
            "scoring process at most 150 MB of PSS beyond its artifact", {"most": beyond}, 150, "{:.0f} MB"
        ),
        _goal("the second worker adds less than 40 % of the first", added, 0.4, "{:.0%}"),
        _goal("ready in under 2 s with 10 million ids", ready, 2.0, "{:.2f} s"),
    ]
    if tails:
        ratios = {record["variant"]: record["p99_ratio"] for record in tails}
        lines.append(_goal("p99 less than 1.5 times while another model loads", ratios, 1.5, "{:.2f}"))
    if cycles:
        slopes = {record["variant"]: record["slope_of_model_ratio"] for record in cycles}
        lines.append(_goal("at most 0.1 % of the model kept a cycle", slopes, 0.001, "{:.3%}"))
    return lines


def _goal(name: str, measured: Mapping[str, float], bound: float, form: str) -> str:
    missed = [f"{key} {form.format(value)}" for key, value in measured.items() if value >= bound]
    span = f"{form.format(min(measured.values()))} to {form.format(max(measured.values()))}"
    shown = form.format(next(iter(measured.values()))) if len(measured) == 1 else span
    holds = "yes" if not missed else f"not for {', '.join(missed)}" if len(missed) < len(measured) else "no"
    return f"| {name} | {shown} | {holds} |"


def _added(records: Records, ids: int, variant: str) -> float:
    """Return what a second worker adds to the whole of one worker; its artifact adds nothing, being shared."""
    one, two = (records[f"start/{ids}/{variant}/{workers}"] for workers in WORKERS[:2])
    beyond = [record["pss_bytes"] - record["files_pss_bytes"] for record in (one, two)]
    return float((beyond[1] - beyond[0]) / one["pss_bytes"])


def _spread(origins: list[dict[str, Any]]) -> str:
    known = dict.fromkeys(
        f"{o['machine']}, {o['date']}, {o['versions']}, revision {o['revision']}" for o in origins
    )
    return "; ".join(known)


def _change(pair: list[int]) -> str:
    return f"{pair[0]} → {pair[1]}"


def _mb(size: float) -> str:
    return f"{size / MIB:.0f}"
