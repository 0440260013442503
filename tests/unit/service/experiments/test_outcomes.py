"""The outcome join, rule by rule, on records in memory."""

from dataclasses import replace

import numpy as np
import pytest

from service.experiments.outcomes import Ledger, Status
from service.experiments.record import Exposure, Kind, Outcome, Record, RowState, decode_record, encode_record
from service.experiments.sums import ALL_TIME, Cell, CellSums, slice_of
from slimctr import quality
from slimctr.quality import QualitySums

EXPOSED_AT = 1_700_000_000.0
LOGITS = np.array([-1.0, 0.5, -3.0], dtype=np.float32)
SHADOW_LOGITS = np.array([-1.5, 0.25, -2.0], dtype=np.float32)
LIVE = Exposure(Kind.LIVE, "e1", "r1", "a", EXPOSED_AT, window_s=1800, maturity_s=2700, logits=LOGITS)
SHADOW = replace(LIVE, kind=Kind.SHADOW, shadow_variant="b", shadow_logits=SHADOW_LOGITS)
DUE = EXPOSED_AT + 2700


def ledger(*exposures: Exposure) -> Ledger:
    found = Ledger({}, {})
    for exposure in exposures:
        assert found.expose(exposure)
    return found


def outcome(
    index: int = 0, clicked: bool = True, after_s: float = 60.0, name: str = "", **more: bool
) -> Outcome:
    return Outcome(
        name or f"o{index}-{clicked}-{after_s}", "r1", index, clicked, EXPOSED_AT + after_s, **more
    )


def sums(found: Ledger, kind: Kind = Kind.LIVE, variant: str = "a") -> CellSums:
    deltas = found.deltas()
    whole = deltas[Cell("e1", kind, variant, ALL_TIME)]
    part = deltas[Cell("e1", kind, variant, slice_of(EXPOSED_AT))]
    assert (whole.exposed, whole.declined, whole.quality.count) == (
        part.exposed,
        part.declined,
        part.quality.count,
    )
    return whole


def assert_rows(found: CellSums, labels: list[int], logits: np.ndarray) -> None:
    expected = QualitySums.of(labels, logits) if labels else QualitySums()
    assert (found.quality.count, found.quality.clicks) == (expected.count, expected.clicks)
    assert np.array_equal(found.quality.histogram, expected.histogram)
    assert found.quality.sum_loss == pytest.approx(expected.sum_loss, abs=1e-12)
    assert found.quality.sum_p == pytest.approx(expected.sum_p, abs=1e-12)


def test_a_click_joins_once() -> None:
    found = ledger(LIVE)
    verdict = found.report(outcome(1))
    assert (verdict.status, verdict.experiment, verdict.delay_s) == (Status.JOINED, "e1", 60.0)
    assert_rows(sums(found), [1], LOGITS[1:2])
    assert found.report(outcome(1)).status is Status.DUPLICATE
    assert found.report(outcome(1, name="other id, same click")).status is Status.DUPLICATE
    assert_rows(sums(found), [1], LOGITS[1:2])


def test_an_explicit_non_click_decides_at_once() -> None:
    found = ledger(LIVE)
    assert found.report(outcome(2, clicked=False, after_s=90_000)).status is Status.JOINED
    assert_rows(sums(found), [0], LOGITS[2:])
    assert sums(found).declined == 1


def test_rows_without_an_outcome_are_non_clicks_at_maturity_not_before() -> None:
    found = ledger(LIVE)
    found.report(outcome(0))
    assert found.mature("r1", DUE - 1) == 0
    assert found.mature("r1", DUE) == 2
    assert_rows(sums(found), [1, 0, 0], LOGITS)
    assert sums(found).declined == 0
    assert found.record("r1").due_at is None
    assert found.mature("r1", DUE) == 0


@pytest.mark.parametrize(
    ("after_s", "status"),
    [(1805, Status.JOINED), (1806, Status.LATE), (-5, Status.JOINED), (-6, Status.LATE)],
)
def test_a_click_counts_within_the_window_and_five_seconds_of_skew(after_s: float, status: Status) -> None:
    found = ledger(LIVE)
    assert found.report(outcome(0, after_s=after_s)).status is status
    assert found.report(outcome(0, after_s=after_s)).status is Status.DUPLICATE
    assert sums(found).quality.count == (status is Status.JOINED)


def test_a_click_that_arrives_after_maturity_restates_the_row() -> None:
    found = ledger(LIVE)
    found.mature("r1", DUE)
    assert found.report(outcome(1)).status is Status.RESTATED
    assert_rows(sums(found), [0, 1, 0], LOGITS)


def test_a_non_click_that_arrives_after_maturity_confirms_the_row() -> None:
    found = ledger(LIVE)
    found.mature("r1", DUE)
    assert found.report(outcome(1, clicked=False)).status is Status.JOINED
    assert_rows(sums(found), [0, 0, 0], LOGITS)
    assert sums(found).declined == 1


def test_another_value_is_a_conflict_unless_it_restates() -> None:
    found = ledger(LIVE)
    found.report(outcome(0))
    assert found.report(outcome(0, clicked=False)).status is Status.CONFLICT
    assert_rows(sums(found), [1], LOGITS[:1])
    assert found.report(outcome(0, clicked=False, restate=True)).status is Status.RESTATED
    assert_rows(sums(found), [0], LOGITS[:1])
    assert sums(found).declined == 1
    assert found.report(outcome(0, clicked=False, restate=True)).status is Status.DUPLICATE
    assert found.report(outcome(0, name="again", restate=True)).status is Status.RESTATED
    assert_rows(sums(found), [1], LOGITS[:1])
    assert sums(found).declined == 0


def test_an_outcome_id_used_for_another_row_is_a_conflict() -> None:
    found = ledger(LIVE)
    assert found.report(outcome(0, name="same")).status is Status.JOINED
    assert found.report(outcome(1, name="same")).status is Status.CONFLICT
    assert found.report(outcome(0, name="same", clicked=False)).status is Status.CONFLICT
    assert found.report(outcome(0, name="same", clicked=False, restate=True)).status is Status.RESTATED


def test_an_unknown_request_or_index_is_an_orphan() -> None:
    found = ledger(LIVE)
    assert found.report(outcome(3)).status is Status.ORPHAN
    assert found.report(replace(outcome(0), request_id="r2")).status is Status.ORPHAN


def test_an_outcome_that_came_first_joins_when_its_exposure_comes() -> None:
    found = ledger()
    assert found.report(outcome(0)).status is Status.ORPHAN
    assert found.report(outcome(0)).status is Status.DUPLICATE
    assert found.report(outcome(2, clicked=False)).status is Status.ORPHAN
    assert found.report(outcome(9)).status is Status.ORPHAN
    found.expose(LIVE)
    assert [verdict.status for verdict in found.verdicts_of_early] == [
        Status.JOINED,
        Status.JOINED,
        Status.ORPHAN,
    ]
    assert_rows(sums(found), [1, 0], LOGITS[[0, 2]])
    assert found.report(outcome(0)).status is Status.DUPLICATE
    assert found.record("r1").early == ()


def test_the_first_exposure_of_a_retried_request_wins() -> None:
    found = ledger(LIVE)
    again = replace(LIVE, variant="b", exposed_at=EXPOSED_AT + 1)
    assert not found.expose(again)
    assert not found.expose(LIVE)
    assert not found.expose(replace(SHADOW, exposed_at=EXPOSED_AT + 1))
    assert found.record("r1").live is LIVE
    assert sums(found).exposed == 3


@pytest.mark.parametrize("decided_first", [True, False])
def test_shadow_rows_pair_with_the_served_ones_whenever_they_come(decided_first: bool) -> None:
    found = ledger(LIVE)
    labels = [1, 0, 0]
    if not decided_first:
        assert found.expose(SHADOW)
    found.report(outcome(0))
    found.report(outcome(1, clicked=False))
    found.mature("r1", DUE)
    if decided_first:
        assert found.expose(SHADOW)
    assert_rows(sums(found), labels, LOGITS)
    assert_rows(sums(found, Kind.SHADOW, "a"), labels, LOGITS)
    shadow = sums(found, Kind.SHADOW, "b")
    assert_rows(shadow, labels, SHADOW_LOGITS)
    difference = quality.row_losses(labels, SHADOW_LOGITS) - quality.row_losses(labels, LOGITS)
    assert shadow.loss_diff == pytest.approx(difference.sum(), rel=1e-9)
    assert shadow.loss_diff_squared == pytest.approx((difference**2).sum(), rel=1e-9)
    assert shadow.declined == 1


def test_a_pure_shadow_needs_no_live_exposure() -> None:
    found = ledger(SHADOW)
    assert found.report(outcome(1)).status is Status.JOINED
    assert_rows(sums(found, Kind.SHADOW, "b"), [1], SHADOW_LOGITS[1:2])


def test_restating_takes_the_paired_difference_back_too() -> None:
    found = ledger(SHADOW)
    found.report(outcome(0))
    found.report(outcome(0, clicked=False, restate=True))
    difference = quality.row_losses([0], SHADOW_LOGITS[:1]) - quality.row_losses([0], LOGITS[:1])
    assert sums(found, Kind.SHADOW, "b").loss_diff == pytest.approx(float(difference[0]), rel=1e-9)


def test_records_survive_writing_and_reading() -> None:
    record = Record(LIVE, SHADOW, bytes([RowState.OPEN, RowState.CLICKED, RowState.MATURED]), (outcome(0),))
    back = decode_record(encode_record(record))
    assert (back.states, back.early, back.due_at) == (record.states, record.early, DUE)
    for exposure, read in ((LIVE, back.live), (SHADOW, back.shadow)):
        assert read is not None
        assert read.same_scoring(exposure)
        assert read.kind is exposure.kind
        assert np.array_equal(read.logits, exposure.logits)
    assert back.shadow is not None
    assert back.shadow.shadow_logits is not None
    assert np.array_equal(back.shadow.shadow_logits, SHADOW_LOGITS)
    only_early = decode_record(encode_record(Record(early=(outcome(0),))))
    assert (only_early.exposure, only_early.due_at, only_early.early) == (None, None, (outcome(0),))
