"""Which rows the estimates cover, and what they say of them."""

import math

import numpy as np
import pytest
from rounding import SUMS64

from service.experiments.estimates import (
    cut_slice,
    describe,
    label_coverage,
    paired_difference,
    read_estimates,
)
from service.experiments.gauges import show_estimates, show_weights
from service.experiments.outcomes import Ledger
from service.experiments.record import Exposure, Kind, Outcome
from service.experiments.spec import ExperimentSpec
from service.experiments.sqlite import SqliteState
from service.experiments.sums import SLICE_S, CellSums, SliceProgress
from service.telemetry.metrics import Metrics
from slimctr import quality
from slimctr.quality import QualitySums

MATURITY_S = 2700.0
NOW = 1_700_000_100.0
THIS = int(NOW // SLICE_S)
MATURE = int((NOW - MATURITY_S) // SLICE_S)


def progress(number: int, exposed: int, decided: int, declined: int) -> SliceProgress:
    return SliceProgress(number, exposed, decided, declined)


def test_without_rows_the_cut_is_maturity() -> None:
    assert cut_slice([], NOW, MATURITY_S) == MATURE


def test_young_clicks_of_a_feed_without_non_clicks_do_not_count() -> None:
    old, young = progress(MATURE - 1, 10, 10, 0), progress(THIS - 1, 5, 5, 0)
    assert cut_slice([old, young], NOW, MATURITY_S) == MATURE


def test_young_rows_count_when_nearly_all_are_decided_both_ways() -> None:
    slices = [progress(THIS - 1, 100, 96, 70), progress(THIS, 100, 60, 50)]
    assert cut_slice(slices, NOW, MATURITY_S) == THIS
    assert cut_slice([*slices[:1], progress(THIS, 10, 10, 8)], NOW, MATURITY_S) == THIS + 1
    assert cut_slice([progress(THIS - 1, 100, 94, 70)], NOW, MATURITY_S) == MATURE


def test_mature_rows_that_stay_undecided_do_not_hold_the_cut_back() -> None:
    slices = [
        progress(MATURE - 3, 10, 10, 0),
        progress(MATURE - 2, 10, 3, 0),
        progress(MATURE - 1, 10, 10, 0),
    ]
    assert cut_slice(slices, NOW, MATURITY_S) == MATURE
    assert label_coverage(slices, NOW, MATURITY_S) == 23 / 30
    too_many = progress(MATURE - 4, 0, 5, 0)
    assert label_coverage([too_many, *slices], NOW, MATURITY_S) == 23 / 30


def test_label_coverage_counts_mature_rows_only() -> None:
    assert label_coverage([], NOW, MATURITY_S) is None
    slices = [progress(MATURE - 1, 10, 9, 0), progress(MATURE, 10, 0, 0)]
    assert label_coverage(slices, NOW, MATURITY_S) == 0.9


def test_the_paired_difference_is_mean_and_standard_error() -> None:
    rng = np.random.default_rng(1)
    difference = rng.normal(0.01, 0.2, 500)
    sums = CellSums(
        quality=QualitySums(count=500),
        loss_diff=difference.sum(),
        loss_diff_squared=np.square(difference).sum(),
    )
    found = paired_difference(sums)
    assert found["logloss_diff"] == pytest.approx(difference.mean())
    assert found["standard_error"] == pytest.approx(difference.std(ddof=1) / math.sqrt(500))
    assert paired_difference(CellSums()) == {"rows": 0, "logloss_diff": None, "standard_error": None}


def spec(**changes: object) -> ExperimentSpec:
    document = {
        "key": "e1",
        "model": "ctr",
        "variants": [{"name": "a", "version": 1, "weight": 0.5}, {"name": "b", "version": 2, "weight": 0.5}],
        "default": "a",
        "shadow": {"variant": "b", "percent": 100},
        "coverage": 0.8,
    }
    return ExperimentSpec.model_validate({**document, **changes})


@pytest.fixture
def state(tmp_path):
    found = SqliteState(tmp_path / "state.sqlite3")
    found.open()
    yield found
    found.close()


def traffic(state: SqliteState, at: float, kind: Kind, variant: str, seed: int, rows: int = 400):
    """One request whose rows are all decided; return its labels and logits."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 1, rows).astype(np.float32)
    labels = (rng.random(rows) < 1 / (1 + np.exp(-logits))).astype(int)
    exposure = Exposure(
        kind,
        "e1",
        f"r{seed}",
        variant,
        at,
        1800,
        MATURITY_S,
        logits,
        shadow_variant="b" if kind is Kind.SHADOW else None,
        shadow_logits=logits + np.float32(0.3) if kind is Kind.SHADOW else None,
    )

    def step(ledger: Ledger) -> None:
        ledger.expose(exposure)
        for index, label in enumerate(labels):
            ledger.report(Outcome(f"{seed}-{index}", f"r{seed}", index, bool(label), at + 1))

    state.transact([f"r{seed}"], [], step, NOW)
    return labels, logits


def test_windows_hold_the_rows_of_their_time(state: SqliteState) -> None:
    recent = traffic(state, NOW - 60, Kind.LIVE, "a", 1)
    hour = traffic(state, NOW - 2000, Kind.LIVE, "a", 2)
    day = traffic(state, NOW - 50_000, Kind.LIVE, "a", 3)
    old = traffic(state, NOW - 200_000, Kind.LIVE, "a", 4)
    found = describe(read_estimates(state, spec(), NOW), spec())
    assert found["cut_at"] == NOW
    assert found["label_coverage_ratio"] == 1.0
    parts: list = []
    for window, part in zip(("15m", "1h", "24h", "all"), (recent, hour, day, old), strict=True):
        parts.append(part)
        labels = np.concatenate([labels for labels, _ in parts])
        logits = np.concatenate([logits for _, logits in parts])
        shown = found["windows"][window]["variants"]["a"]
        expected = quality.summary(labels, logits)
        assert (shown["rows"], shown["clicks"]) == (expected["rows"], expected["clicks"])
        for name in ("logloss", "ne", "calibration"):
            assert shown[name] == pytest.approx(expected[name], rel=SUMS64)
        assert shown["auc"] == pytest.approx(expected["auc"], abs=shown["auc_error_bound"])
        assert found["windows"][window]["variants"]["b"]["rows"] == 0
        assert found["windows"][window]["variants"]["b"]["auc"] is None


def test_the_shadow_is_compared_on_the_same_rows(state: SqliteState) -> None:
    labels, logits = traffic(state, NOW - 60, Kind.SHADOW, "a", 5)
    shown = describe(read_estimates(state, spec(), NOW), spec())["windows"]["15m"]["shadow"]
    shifted = logits + np.float32(0.3)
    assert shown["served"]["variant"] == "a"
    assert shown["served"]["logloss"] == pytest.approx(quality.logloss(labels, logits))
    assert shown["shadow"]["variant"] == "b"
    assert shown["shadow"]["logloss"] == pytest.approx(quality.logloss(labels, shifted))
    difference = quality.row_losses(labels, shifted) - quality.row_losses(labels, logits)
    assert shown["paired"]["rows"] == 400
    assert shown["paired"]["logloss_diff"] == pytest.approx(difference.mean())
    assert shown["paired"]["standard_error"] == pytest.approx(difference.std(ddof=1) / 20)
    assert "descriptive" in shown["paired"]["note"]


def test_gauges_show_the_estimates_and_nan_where_there_are_none(state: SqliteState) -> None:
    labels, logits = traffic(state, NOW - 60, Kind.LIVE, "a", 6)
    metrics = Metrics()
    show_weights(metrics, spec())
    show_estimates(metrics, spec(), read_estimates(state, spec(), NOW))
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in metrics.collect()
        for sample in family.samples
    }
    assert values["slimctr_variant_weight_ratio", "e1", "a"] == 0.4
    assert values["slimctr_eval_rows", "ctr", "a", "15m"] == 400
    assert values["slimctr_logloss", "ctr", "a", "15m"] == pytest.approx(quality.logloss(labels, logits))
    assert values["slimctr_calibration_ratio", "ctr", "a", "24h"] == pytest.approx(
        quality.calibration(labels, logits)
    )
    assert values["slimctr_eval_rows", "ctr", "b", "15m"] == 0
    assert math.isnan(values["slimctr_auc", "ctr", "b", "15m"])
    assert math.isnan(values["slimctr_logloss_diff", "e1", "point"])
    assert math.isnan(values["slimctr_label_coverage_ratio", "e1"])


def test_a_variant_without_traffic_shows_its_shadow_rows(state: SqliteState) -> None:
    labels, logits = traffic(state, NOW - 60, Kind.SHADOW, "a", 7)
    metrics = Metrics()
    show_estimates(metrics, spec(coverage=0), read_estimates(state, spec(coverage=0), NOW))
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in metrics.collect()
        for sample in family.samples
    }
    assert values["slimctr_logloss", "ctr", "a", "1h"] == pytest.approx(quality.logloss(labels, logits))
    assert values["slimctr_logloss", "ctr", "b", "1h"] == pytest.approx(
        quality.logloss(labels, logits + np.float32(0.3))
    )
