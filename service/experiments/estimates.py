"""What the sums say: quality per variant and window, and the paired difference of a shadow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.experiments.record import Kind
from service.experiments.spec import ExperimentSpec
from service.experiments.state import State, VariantSums
from service.experiments.sums import ALL_TIME, SLICE_S, CellSums, SliceProgress, slice_of

WINDOWS_S = {"15m": 900, "1h": 3600, "24h": 86_400}
ALL = "all"
# Rows younger than maturity count when at least this share of them is decided and non-clicks are reported.
ENOUGH_DECIDED = 0.95


@dataclass(frozen=True)
class Estimates:
    """Sums per window of exposure time, all cut at `cut_at` (seconds since the epoch), and label coverage."""

    computed_at: float
    cut_at: float
    label_coverage: float | None
    windows: dict[str, VariantSums]


def read_estimates(state: State, spec: ExperimentSpec, now: float) -> Estimates:
    """Read the sums of every window from the state."""
    slices = state.slices(spec.key)
    cut = cut_slice(slices, now, spec.maturity_s)
    windows = {
        name: state.sums(spec.key, cut - seconds // SLICE_S, cut) for name, seconds in WINDOWS_S.items()
    }
    # Read before the whole: a row that joins in between may count a moment early, but never counts below zero.
    undecided = state.sums(spec.key, cut, slice_of(now) + 2)
    whole = state.sums(spec.key, ALL_TIME, ALL_TIME + 1)
    windows[ALL] = {
        key: _all_time(sums - undecided.get(key, CellSums()), windows["24h"].get(key, CellSums()))
        for key, sums in whole.items()
    }
    return Estimates(now, min(now, cut * SLICE_S), label_coverage(slices, now, spec.maturity_s), windows)


def _all_time(whole: CellSums, day: CellSums) -> CellSums:
    """Return the sums of all time, or those of the last day when the state lost what came before."""
    return whole if whole.plausible and whole.exposed >= day.exposed else day


def cut_slice(slices: Sequence[SliceProgress], now: float, maturity_s: float) -> int:
    """Return the first slice that no estimate covers; the same for all variants, so that they stay comparable.

    Everything mature is covered, also where rows are undecided: the state lost their exposures (label coverage
    says how many), and waiting for them would be waiting for ever. Younger rows would be clicks only, as long as
    non-clicks are decided by maturity; they count early when the producer reports non-clicks too and has decided
    95 % of these rows.
    """
    cut = slice_of(now - maturity_s)
    exposed = decided = declined = 0
    for found in slices:
        if found.slice < cut:
            continue
        exposed += found.exposed
        decided += found.decided
        declined += found.declined
        if not declined or decided < ENOUGH_DECIDED * exposed:
            continue
        cut = found.slice + 1
    return cut


def label_coverage(slices: Sequence[SliceProgress], now: float, maturity_s: float) -> float | None:
    """Return decided over exposed rows older than maturity; None when there are none."""
    mature = [found for found in slices if found.slice < slice_of(now - maturity_s)]
    exposed = sum(found.exposed for found in mature)
    # Counts that the state lost must not make up for rows that are undecided elsewhere.
    return sum(min(found.decided, found.exposed) for found in mature) / exposed if exposed else None


def quality_sums(sums: VariantSums, variant: str) -> CellSums:
    """Return the sums that stand for a variant: its own traffic, or its shadow rows when it has none."""
    live = sums.get((Kind.LIVE, variant), CellSums())
    return live if live.exposed else sums.get((Kind.SHADOW, variant), live)


def paired_difference(sums: CellSums) -> dict[str, float | None]:
    """Return the mean over rows of loss(shadow) - loss(served) in nats, and its plain standard error.

    The standard error takes rows as independent, which rows of one request are not: it describes, it tests nothing.
    """
    rows = sums.quality.count
    if rows == 0:
        return {"rows": 0, "logloss_diff": None, "standard_error": None}
    mean = sums.loss_diff / rows
    error = None
    if rows > 1:
        variance = max(0.0, sums.loss_diff_squared - rows * mean**2) / (rows - 1)
        error = math.sqrt(variance / rows)
    return {"rows": rows, "logloss_diff": mean, "standard_error": error}


def describe(estimates: Estimates, spec: ExperimentSpec) -> dict[str, Any]:
    """Return the estimates as a JSON document."""
    return {
        "computed_at": estimates.computed_at,
        "cut_at": estimates.cut_at,
        "label_coverage_ratio": estimates.label_coverage,
        "windows": {name: _describe_window(sums, spec) for name, sums in estimates.windows.items()},
    }


def _describe_window(sums: VariantSums, spec: ExperimentSpec) -> dict[str, Any]:
    variants = {
        variant.name: _describe_cell(sums.get((Kind.LIVE, variant.name), CellSums()))
        for variant in spec.variants
    }
    if spec.shadow is None:
        return {"variants": variants, "shadow": None}
    shadow = sums.get((Kind.SHADOW, spec.shadow.variant), CellSums())
    return {
        "variants": variants,
        "shadow": {
            "served": {
                "variant": spec.default,
                **_describe_cell(sums.get((Kind.SHADOW, spec.default), CellSums())),
            },
            "shadow": {"variant": spec.shadow.variant, **_describe_cell(shadow)},
            "paired": {
                **paired_difference(shadow),
                "note": "descriptive: rows of a request are not independent",
            },
        },
    }


def _describe_cell(sums: CellSums) -> dict[str, float | None]:
    rows = sums.quality.count
    coverage = min(1.0, rows / sums.exposed) if sums.exposed > 0 else None
    return {**sums.quality.summary(), "exposed": sums.exposed, "label_coverage_ratio": coverage}
