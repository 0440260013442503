"""The report: one table per study, mean and spread over seeds, differences paired by seed."""

import math
import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.compression.plan import ORIGINAL, Plan, Study, study_task
from benchmarks.compression.speed import speed_section

T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Student's t, 97.5 % quantile, by degrees of freedom."""

HEAD = (
    "| variant | n | test AUC | logloss | Δ AUC (95 %) | Δ logloss | payload | weights | artifact | resident | passes |",
    "|---|---|---|---|---|---|---|---|---|---|---|",
)


def report(
    plan: Plan, records: Mapping[str, dict[str, Any]], speeds: Mapping[str, dict[str, Any]], name: str
) -> str:
    """Markdown of every study that has records: all of docs/results/compression.md."""
    sections = []
    for study in plan.studies.values():
        sections += [section(study, records), speed_section(study, speeds)]
    wanted = {task.key for task in plan.tasks()}
    used = [record for key, record in records.items() if key in wanted]
    machines = ", ".join(sorted({record["machine"] for record in used}))
    dates = sorted({record["date"] for record in used}) or ["never"]
    head = (
        f"# What compression costs here\n\nMade by `make reproduce PLAN={name}` out of "
        f"`benchmarks/results/compression_{name}.jsonl` (every metric, setting, byte count, seed and revision): "
        f"{len(used)} of {len(wanted)} models measured, {machines}, {' to '.join(sorted({dates[0], dates[-1]}))}, "
        "one thread each, other work on the machine.\n\n"
        "Test rows were scored once per model, through the serving engine. AUC: mean ± standard deviation over n "
        "seeds. Differences are paired by seed, with half of the 95 % t-interval. Ratios in brackets are to the float "
        "model of the same vocabulary. Payload: the rows of all tables. Weights: payload, scales and network, "
        "which is every parameter. Artifact: every file a server needs, vocabulary included. Resident: growth of the "
        "proportional set size of a fresh process, runtime "
        "included. Passes: epochs that the weights went through, those of the original included."
    )
    return "\n\n".join([head, *filter(None, sections)]) + "\n"


def section(study: Study, records: Mapping[str, dict[str, Any]]) -> str:
    """Heading, question and one table per network; empty when nothing of the study was measured."""
    parts = []
    for network in study.networks:
        found = {name: measured(study, name, network, records) for name in (ORIGINAL, *study.variants)}
        found = {name: by_seed for name, by_seed in found.items() if by_seed}
        if not found:
            continue
        originals, reference = found.get(ORIGINAL, {}), found.get(study.reference, {})
        rows = [line(name, by_seed, reference, originals) for name, by_seed in found.items()]
        parts.append("\n".join([f"**{network}**", "", *HEAD, *rows]))
    if not parts:
        return ""
    told = "" if study.reference == ORIGINAL else f" Differences are to *{study.reference}*."
    finding = [study.finding.strip()] if study.finding else []
    return "\n\n".join([f"## {study.title}", f"{study.question}{told}", *finding, *parts])


def measured(study: Study, name: str, network: str, records: Mapping[str, dict[str, Any]]) -> dict[int, dict]:
    """Records of a variant by seed."""
    found = {}
    for seed in study.seeds:
        record = records.get(study_task(study, name, network, seed).key)
        if record is not None:
            found[seed] = record
    return found


def line(name: str, by_seed: dict[int, dict], reference: dict[int, dict], originals: dict[int, dict]) -> str:
    """One row of a table."""
    values = list(by_seed.values())
    weights = {seed: weight_bytes(record) for seed, record in by_seed.items()}
    weight_ratios = [weight_bytes(originals[s]) / weights[s] for s in by_seed if s in originals]
    auc = [record["test"]["auc"] for record in values]
    loss = [record["test"]["logloss"] for record in values]
    paired = [seed for seed in by_seed if seed in reference]
    auc_change = [by_seed[s]["test"]["auc"] - reference[s]["test"]["auc"] for s in paired]
    loss_change = [by_seed[s]["test"]["logloss"] - reference[s]["test"]["logloss"] for s in paired]
    same = all(by_seed[s]["key"] == reference[s]["key"] for s in paired)
    cells = (
        name,
        str(len(values)),
        spread(auc),
        f"{statistics.fmean(loss):.4f}",
        "–" if same else interval(auc_change),
        "–" if same else f"{statistics.fmean(loss_change):+.4f}",
        size(values, "payload"),
        told_bytes(list(weights.values()), weight_ratios),
        size(values, "artifact"),
        f"{statistics.fmean(r['bytes']['resident'] for r in values) / 1e6:.1f} MB",
        "/".join(map(str, sorted({record["passes"] for record in values}))),
    )
    return f"| {' | '.join(cells)} |"


def spread(values: list[float]) -> str:
    """Mean ± standard deviation over seeds."""
    deviation = f" ± {statistics.stdev(values):.5f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.5f}{deviation}"


def interval(changes: list[float]) -> str:
    """Mean of paired differences and half of its 95 % t-interval."""
    mean = statistics.fmean(changes)
    if len(changes) < 2:
        return f"{mean:+.5f}"
    half = T_95[len(changes) - 1] * statistics.stdev(changes) / math.sqrt(len(changes))
    return f"{mean:+.5f} ± {half:.5f}"


def size(values: list[dict], figure: str) -> str:
    """Mean bytes and how many times smaller than the float original of the same vocabulary."""
    ratios = [record["bytes"][f"original_{figure}"] / record["bytes"][figure] for record in values]
    return told_bytes([record["bytes"][figure] for record in values], ratios)


def told_bytes(sizes: list[int], ratios: list[float]) -> str:
    """Mean bytes and, where there are any, the mean ratio."""
    mean = statistics.fmean(sizes)
    told = f"{mean / 1e6:.2f} MB" if mean >= 1e6 else f"{mean / 1e3:.0f} KB"
    return f"{told} ({statistics.fmean(ratios):.1f}x)" if ratios else told


def weight_bytes(record: dict[str, Any]) -> int:
    """Bytes of every parameter: table rows, their scales, the network."""
    parts = record["bytes"]["components"]
    return record["bytes"]["payload"] + parts["column_scales"] + parts["network"]
