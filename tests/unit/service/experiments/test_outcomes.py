"""The outcome join, rule by rule, on records in memory."""

from dataclasses import replace

import numpy as np
import pytest
from rounding import SUMS64

from service.experiments.outcomes import Ledger, Status, Written
from service.experiments.record import (
    Exposure,
    Kind,
    Outcome,
    Record,
    RowState,
    answer_digest,
    decode_record,
    encode_record,
)
from service.experiments.state import GRACE_S, expires_at
from service.experiments.sums import ALL_TIME, Cell, CellSums, slice_of
from slimctr import quality
from slimctr.features import EncodedBatch
from slimctr.features.batch import Bag
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
    assert found.quality.sum_loss == pytest.approx(expected.sum_loss, abs=SUMS64)
    assert found.quality.sum_p == pytest.approx(expected.sum_p, abs=SUMS64)


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


def test_a_repeat_keeps_the_first_exposure() -> None:
    found = ledger(LIVE)
    for again in (replace(LIVE, exposed_at=EXPOSED_AT + 1), LIVE, replace(SHADOW, exposed_at=EXPOSED_AT + 1)):
        assert found.expose(again) is Written.REPEAT
    assert found.record("r1").live is LIVE
    assert sums(found).exposed == 3
    assert found.written == {("e1", Written.FIRST): 1, ("e1", Written.REPEAT): 3}


OTHER = {
    "variant": replace(LIVE, variant="b"),
    "unit or rows": replace(LIVE, digest="0123456789abcdef"),
    "experiment": replace(LIVE, experiment="e2"),
    "no exposure": replace(LIVE, variant="pinned").without_scores(),
    "shadow of another answer": replace(SHADOW, digest="0123456789abcdef"),
}


@pytest.mark.parametrize("other", OTHER.values(), ids=OTHER.keys())
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("at", [0, 1, 2], ids=["outcomes first", "outcomes between", "outcomes last"])
def test_outcomes_of_an_id_with_two_answers_join_neither(other: Exposure, turned: bool, at: int) -> None:
    outcomes = [outcome(0), outcome(1, clicked=False)]
    steps: list = [other, LIVE] if turned else [LIVE, other]
    steps.insert(at, outcomes)
    found = Ledger({}, {})
    for step in steps:
        if isinstance(step, Exposure):
            found.expose(step)
        else:
            for item in step:
                found.report(item)
    assert found.written[other.experiment if not turned else "e1", Written.AMBIGUOUS] == 1
    for cell in found.deltas().values():
        assert (cell.exposed, cell.declined, cell.quality.count, cell.quality.clicks) == (0, 0, 0, 0)
        assert not cell.quality.histogram.any()
    assert found.report(outcome(2)).status is Status.AMBIGUOUS
    assert found.mature("r1", DUE) == 0
    back = decode_record(encode_record(found.record("r1")))
    assert back.ambiguous
    assert (back.exposure, back.due_at, back.early, back.states) == (None, None, (), b"")
    assert expires_at(back, 0.0) == EXPOSED_AT + 2700 + GRACE_S


def test_outcomes_that_an_ambiguous_id_had_are_counted_once_more() -> None:
    found = ledger(LIVE)
    found.report(outcome(0))
    found.report(outcome(1, clicked=False))
    found.expose(replace(LIVE, digest="other"))
    assert [verdict.status for verdict in found.verdicts_of_early] == 2 * [Status.AMBIGUOUS]
    waiting = ledger()
    waiting.report(outcome(0))
    waiting.expose(replace(LIVE, variant="pinned").without_scores())
    assert waiting.no_longer_early == {outcome(0).outcome_id}
    assert waiting.verdicts_of_early == []


def test_a_shadow_joins_the_unexposed_answer_it_belongs_to() -> None:
    found = ledger(replace(LIVE, digest="d").without_scores())
    assert found.expose(replace(SHADOW, digest="d")) is Written.FIRST
    assert found.report(outcome(0)).status is Status.JOINED
    back = decode_record(encode_record(found.record("r1")))
    assert (back.unexposed, back.live) == (None, None)
    assert back.shadow is not None
    assert back.shadow.digest == "d"
    assert found.expose(replace(LIVE, digest="d").without_scores()) is Written.REPEAT


@pytest.mark.parametrize("change", ["unit", "version", "rows", "order", "bag", "split"])
def test_the_digest_tells_answers_apart(change: str) -> None:
    ids = np.arange(6, dtype=np.int32).reshape(2, 3)
    bag = Bag(np.array([1, 2, 3], np.int32), np.array([0, 2, 3], np.int32))
    batch = EncodedBatch(ids, (bag,), np.zeros(4, np.int64), np.zeros(4, np.int64))
    same = EncodedBatch(np.asfortranarray(ids), (bag,), np.ones(4, np.int64), np.zeros(4, np.int64))
    unit, version, other = "u1", 1, batch
    if change == "unit":
        unit = "u2"
    elif change == "version":
        version = 2
    elif change == "rows":
        other = replace(batch, ids=ids + 1)
    elif change == "order":
        other = replace(batch, ids=ids[::-1])
    elif change == "bag":
        other = replace(batch, bags=(Bag(bag.values + 1, bag.offsets),))
    else:
        other = replace(batch, bags=(Bag(bag.values, np.array([0, 1, 3], np.int32)),))
    assert answer_digest("u1", 1, batch) == answer_digest("u1", 1, same)
    assert answer_digest("u1", 1, batch) != answer_digest(unit, version, other)


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
    assert shadow.loss_diff == pytest.approx(difference.sum(), rel=SUMS64)
    assert shadow.loss_diff_squared == pytest.approx((difference**2).sum(), rel=SUMS64)
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
    assert sums(found, Kind.SHADOW, "b").loss_diff == pytest.approx(float(difference[0]), rel=SUMS64)


def test_records_survive_writing_and_reading() -> None:
    record = Record(LIVE, SHADOW, bytes([RowState.OPEN, RowState.CLICKED, RowState.MATURED]), (outcome(0),))
    back = decode_record(encode_record(record))
    assert (back.states, back.early, back.due_at) == (record.states, record.early, DUE)
    for exposure, read in ((LIVE, back.live), (SHADOW, back.shadow)):
        assert read is not None
        assert read.same_answer(exposure)
        assert read.exposed_at == exposure.exposed_at
        assert read.kind is exposure.kind
        assert np.array_equal(read.logits, exposure.logits)
    assert back.shadow is not None
    assert back.shadow.shadow_logits is not None
    assert np.array_equal(back.shadow.shadow_logits, SHADOW_LOGITS)
    only_early = decode_record(encode_record(Record(early=(outcome(0),))))
    assert (only_early.exposure, only_early.due_at, only_early.early) == (None, None, (outcome(0),))
