"""docs/results/serving.md from the records: medians over rounds, one table per number of rows."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable

from benchmarks.serving.model import COMPRESSED, IDS
from benchmarks.serving.servers import CONFIGS
from benchmarks.serving.turns import REQUESTS

OURS = {name: config.scores for name, config in CONFIGS.items() if config.scores in COMPRESSED}
FORMS = {
    "columns": "JSON columns",
    "rows": "JSON rows",
    "arrow": "Arrow stream",
    "binary": "binary tensors",
    "ids": "JSON row ids",
    "oip_json": "JSON tensors",
}
CONTROLS = ("empty", "empty_parsed")
Cell = tuple[str, str, int, int]


def report(records: list[dict]) -> str:
    """Markdown of all records."""
    loads: dict[Cell, list[dict]] = defaultdict(list)
    for record in records:
        if record["kind"] == "load":
            loads[record["server"], record["form"], record["rows"], record["connections"]].append(record)
    cells = {cell: _medians(found) for cell, found in loads.items()}
    rounds = sorted({len(found) for found in loads.values()})
    turns = {(one["server"], one["form"]): one for one in records if one["kind"] == "turns"}
    parts = [_head(records, " or ".join(map(str, rounds))), _verdicts(loads, cells, turns)]
    parts += [_table(loads, cells, rows) for rows in sorted({cell[2] for cell in cells})]
    if turns:
        parts.insert(3, _turns(turns))
    parts.append(_servers([record for record in records if record["kind"] == "server"]))
    return "\n\n".join(parts) + "\n"


def _medians(found: list[dict]) -> dict[str, float]:
    """Medians over rounds; of latencies over those in which an answer came at all."""
    answered = [record for record in found if record["requests"]]
    return {
        **{key: statistics.median(record[key] for record in found) for key in ("requests_per_s", "failed")},
        **{
            key: statistics.median([record[key] for record in answered] or [math.inf])
            for key in ("p50_ms", "p99_ms")
        },
    }


def _head(records: list[dict], rounds: str) -> str:
    lengths = sorted({round(record["seconds"]) for record in records if record["kind"] == "load"})
    seconds = " or ".join(map(str, lengths))
    machines = ", ".join(sorted({record["machine"] for record in records}))
    dates = sorted(record["date"] for record in records)
    revisions = ", ".join(sorted({record["revision"] for record in records}))
    versions = ", ".join(f"{name} {version}" for name, version in records[-1]["versions"].items())
    return (
        "# The whole service over loopback\n\n"
        f"Made by `make bench-serving` out of `benchmarks/results/serving.jsonl`: {machines}, {dates[0]} to "
        f"{dates[-1]} UTC, revision {revisions}; {versions}. Medians of {rounds} rounds, {seconds} s a cell; other "
        "work may have run on the machine, so compare within a table only.\n\n"
        f"DeepFM, 39 fields, {IDS:,} ids, 16 wide, layers 400-400-400 (`benchmarks/large_models.py`, seed 0). Each "
        "server is one process with one compute thread (LitServe and MLServer start helpers), all of it pinned to one "
        "core; wrk runs on the other with one thread, keep-alive, closed loop, cycling distinct bodies; answers later "
        "than the end of a cell do not count, which flatters servers that need as long as that. All servers are up and "
        "are loaded in turn, cell by cell, while the others are stopped. The plain services and the model servers score "
        "the float model and get row ids; ours gets raw text values in JSON and Arrow (which it looks up in the "
        "vocabulary) and row ids in binary. Scores of every server were compared with torch or the engine before the "
        "load. Ratios are medians of those within each round."
    )


def _table(loads: dict[Cell, list[dict]], cells: dict[Cell, dict[str, float]], rows: int) -> str:
    counts = sorted({cell[3] for cell in cells if cell[2] == rows})
    alone = ", ".join(
        f"{name} {statistics.median(record['engine_rows_per_s'] for record in found):,.0f}"
        for name in OURS
        if (found := [one for cell, several in loads.items() if cell[::2] == (name, rows) for one in several])
    )
    lines = [
        f"## {rows:,} row{'s' if rows > 1 else ''} per request",
        "",
        f"Requests/s · p50 ms · p99 ms. The engine alone, in process, one thread: {alone} rows/s.",
        "",
        "| server | body | " + " | ".join(f"{n} connection{'s' if n > 1 else ''}" for n in counts) + " |",
        "|---|---|" + "---|" * len(counts),
    ]
    for server, form in dict.fromkeys(cell[:2] for cell in cells if cell[2] == rows):
        found = [cells.get((server, form, rows, count)) for count in counts]
        lines.append(f"| {server} | {FORMS[form]} | " + " | ".join(map(_shown, found)) + " |")
    return "\n".join(lines)


def _shown(cell: dict[str, float] | None) -> str:
    if cell is None:
        return "–"
    failed = f" ({cell['failed']:.0f} failed)" if cell["failed"] else ""
    return f"{_short(cell['requests_per_s'])} · {_short(cell['p50_ms'])} · {_short(cell['p99_ms'])}{failed}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _turns(turns: dict[tuple[str, str], dict]) -> str:
    one = next(iter(turns.values()))
    lines = [
        "## 1 row per request at 1 connection, in turns",
        "",
        f"Each server gets {REQUESTS} requests in a turn, then the next one, from a client that waits for each answer; "
        f"all of them run all the time. {one['requests']:,} requests to each server and form, {one['date']} UTC, "
        f"revision {one['revision']}. The hypervisor took {one['stolen_s']:.1f} s of the {one['seconds']:.0f} s from "
        "the two cores: in cells of a second it decides the hundredth request, here it meets all alike. In brackets "
        "the middle 95 % over resampled turns.",
        "",
        "| server | body | requests/s | p50 ms | p90 ms | p99 ms | p99 against the best peer |",
        "|---|---|---|---|---|---|---|",
    ]
    for (server, form), record in turns.items():
        times = " | ".join(f"{record[f'{p}_ms']:.3f}" for p in ("p50", "p90", "p99"))
        rate = _short(record["requests_per_s"])
        lines.append(f"| {server} | {FORMS[form]} | {rate} | {times} | {_against_steadiest(record)} |")
    return "\n".join(lines)


def _against_steadiest(record: dict) -> str:
    peer, (ratio, low, high) = max(record["p99_ratios"].items(), key=lambda found: found[1][0])
    return f"{ratio:.2f}x the p99 of {peer} ({low:.2f} to {high:.2f})"


def _verdicts(
    loads: dict[Cell, list[dict]], cells: dict[Cell, dict[str, float]], turns: dict[tuple[str, str], dict]
) -> str:
    lines = ["## Read at a glance", "", "| question | answer |", "|---|---|"]
    for name in OURS:
        lines += _of_one_row(loads, cells, name)
    for name in OURS:
        for form in ("binary", "arrow", "columns", "rows"):
            lines += _share_of_engine(loads, name, form)
    peers = [name for name in CONFIGS if name not in (*OURS, *CONTROLS)]
    for rows in sorted({cell[2] for cell in cells}):
        for name in OURS:
            for form in ("columns", "rows", "arrow", "binary"):
                lines += _against(loads, cells, turns, name, peers, rows, form)
    return "\n".join(lines)


def _paired(loads: dict[Cell, list[dict]], ours: Cell, other: Cell, key: str) -> float:
    """The median over rounds of ours to the other within a round; infinite where the other never answered."""
    others = {record["round"]: record[key] for record in loads[other]}
    ratios = [record[key] / others[record["round"]] for record in loads[ours] if others.get(record["round"])]
    return statistics.median(ratios or [math.inf])


def _of_one_row(
    loads: dict[Cell, list[dict]], cells: dict[Cell, dict[str, float]], name: str
) -> Iterable[str]:
    """Compare a single row at one connection with the empty route that got the same body."""
    for form in ("columns", "rows", "binary"):
        ours, empty = (name, form, 1, 1), ("empty", form, 1, 1)
        if ours in cells and empty in cells:
            yield (
                f"| {name}: p50 of one row at 1 connection, {FORMS[form]}, against an empty FastAPI route with the same "
                f"body | {cells[ours]['p50_ms']:.3f} against {cells[empty]['p50_ms']:.3f} ms: "
                f"{_paired(loads, ours, empty, 'p50_ms'):.2f}x |"
            )


def _share_of_engine(loads: dict[Cell, list[dict]], name: str, form: str) -> Iterable[str]:
    """Compare requests of 1,000 rows with the engine alone, measured right before and after each of them."""
    shares = {
        cell[3]: statistics.median(1000 * one["requests_per_s"] / one["engine_rows_per_s"] for one in found)
        for cell, found in loads.items()
        if cell[:3] == (name, form, 1000)
    }
    if shares:
        by_connections = ", ".join(f"{count}: {share:.0%}" for count, share in sorted(shares.items()))
        yield (
            f"| {name}: share of the engine's own rows/s that 1,000-row requests reach, {FORMS[form]}, by connections "
            f"| {by_connections} |"
        )


def _against(
    loads: dict[Cell, list[dict]],
    cells: dict[Cell, dict[str, float]],
    turns: dict[tuple[str, str], dict],
    name: str,
    peers: Iterable[str],
    rows: int,
    form: str,
) -> Iterable[str]:
    """Compare with the best peer at each number of connections."""
    answers = []
    for count in sorted({cell[3] for cell in cells if cell[2] == rows}):
        ours = (name, form, rows, count)
        others = {
            cell: found for cell, found in cells.items() if cell[0] in peers and cell[2:] == (rows, count)
        }
        if ours not in cells or not others:
            continue
        fastest = max(others, key=lambda peer: others[peer]["requests_per_s"])
        steadiest = min(others, key=lambda peer: others[peer]["p99_ms"])
        rate = _paired(loads, ours, fastest, "requests_per_s")
        p99 = f"{_paired(loads, ours, steadiest, 'p99_ms'):.2f}x the p99 of {steadiest[0]}"
        if (rows, count) == (1, 1) and (name, form) in turns:
            fastest = max(
                (cell for cell in turns if cell[0] in peers), key=lambda c: turns[c]["requests_per_s"]
            )
            rate = turns[name, form]["requests_per_s"] / turns[fastest]["requests_per_s"]
            p99 = f"{_against_steadiest(turns[name, form])}, both in turns"
        answers.append(f"{count}: {rate:.1f}x the requests/s of {fastest[0]}, {p99}")
    if answers:
        question = f"{name}: {rows:,} rows, {FORMS[form]}, by connections, against the best other server"
        yield f"| {question} | {'; '.join(answers)} |"


def _servers(records: list[dict]) -> str:
    lines = [
        "## Start and memory",
        "",
        "Each server alone. Ready: process start to the first scored row, files in the page cache. PSS: all its "
        "processes, after requests of 1, 100 and 1,000 rows. Difference: largest of a score to torch or the engine.",
        "",
        "| server | what | ready s | PSS MB (processes) | difference |",
        "|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(record["server"] for record in records):
        found = [record for record in records if record["server"] == name]
        ready, pss, difference = (
            statistics.median(record[key] for record in found)
            for key in ("ready_s", "pss_bytes", "score_difference")
        )
        scored = "–" if CONFIGS[name].scores is None else f"{difference:.1e}"
        held = f"{pss / 2**20:.0f} ({found[-1]['processes']})"
        lines.append(f"| {name} | {CONFIGS[name].meaning} | {ready:.2f} | {held} | {scored} |")
    return "\n".join(lines)
