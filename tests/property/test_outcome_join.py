"""Whatever comes in whatever order and however often, the sums are those of the rows as they stand at the end."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rounding import SUMS64

from service.experiments.outcomes import Ledger
from service.experiments.record import Exposure, Kind, Outcome, Record, RowState
from service.experiments.sums import ALL_TIME, Cell, CellSums
from slimctr import quality
from slimctr.quality import QualitySums

AT = 1_700_000_000.0
ROWS = 3
LOGITS = np.array([-2.0, 0.25, 3.0], np.float32)
REQUESTS = ("r1", "r2")

EXPOSE = st.tuples(
    st.sampled_from(["live", "live", "shadow", "shadow", "other rows", "unexposed"]),
    st.sampled_from(REQUESTS),
)
MATURE = st.tuples(st.just("mature"), st.sampled_from(REQUESTS))
REPORT = st.builds(
    Outcome,
    outcome_id=st.sampled_from(["o1", "o2", "o3", "o4", "o5", "o6"]),
    request_id=st.sampled_from(REQUESTS),
    index=st.integers(0, ROWS),
    clicked=st.booleans(),
    occurred_at=st.sampled_from([AT - 10, AT, AT + 100, AT + 5000]),
    restate=st.booleans(),
)


def exposure(kind: str, request_id: str) -> Exposure:
    live = Exposure(Kind.LIVE, "e", request_id, "a", AT, 1800, 2700, LOGITS, digest="mine")
    if kind == "live":
        return live
    if kind == "other rows":
        return replace(live, digest="other")
    if kind == "unexposed":
        return replace(live, variant="pinned", digest="other").without_scores()
    return replace(live, kind=Kind.SHADOW, shadow_variant="b", shadow_logits=LOGITS + np.float32(0.5))


def apply(steps: list, batch: int) -> tuple[dict[Cell, CellSums], dict[str, Record]]:
    """Run the steps in transactions of `batch` steps, as a backend would; return the sums and the records."""
    records: dict[str, Record] = {}
    reported: dict[str, Outcome] = {}
    sums: dict[Cell, CellSums] = {}
    for start in range(0, len(steps), batch):
        ledger = Ledger(records, reported)
        for step in steps[start : start + batch]:
            if isinstance(step, Outcome):
                ledger.report(step)
            elif step[0] == "mature":
                ledger.mature(step[1], AT + 2700)
            else:
                ledger.expose(exposure(*step))
        records |= ledger.changed_records
        reported |= ledger.new_reports
        for cell, delta in ledger.deltas().items():
            sums[cell] = sums.get(cell, CellSums()) + delta
    return sums, records


def recount(
    records: dict[str, Record],
) -> dict[tuple[Kind, str], tuple[list[bool], list[float], list[float]]]:
    """The decided rows per kind and variant, read from the records: labels, logits, served logits."""
    rows: dict = {}
    for record in records.values():
        for found in (record.live, record.shadow):
            if found is None:
                continue
            scores = {found.variant: found.logits}
            if found.shadow_variant is not None and found.shadow_logits is not None:
                scores[found.shadow_variant] = found.shadow_logits
            for variant, logits in scores.items():
                labels, mine, served = rows.setdefault((found.kind, variant), ([], [], []))
                for index, state in enumerate(record.states):
                    if state != RowState.OPEN:
                        labels.append(state == RowState.CLICKED)
                        mine.append(float(logits[index]))
                        served.append(float(found.logits[index]))
    return rows


@settings(deadline=None, max_examples=150)
@given(st.lists(st.one_of(EXPOSE, MATURE, REPORT), max_size=25), st.integers(1, 5))
def test_sums_are_those_of_the_final_rows(steps: list, batch: int) -> None:
    sums, records = apply(steps, batch)
    rows = recount(records)
    totals = {(cell.kind, cell.variant): found for cell, found in sums.items() if cell.slice == ALL_TIME}
    assert totals.keys() >= rows.keys()
    for key in totals.keys() - rows.keys():  # their answers became ambiguous
        assert (totals[key].exposed, totals[key].declined, totals[key].quality.count) == (0, 0, 0)
        assert not totals[key].quality.histogram.any()
    for request_id in REQUESTS:
        answers = {step[0] for step in steps if isinstance(step, tuple) and step[1] == request_id}
        answers = {"mine" if kind in ("live", "shadow") else kind for kind in answers - {"mature"}}
        assert records.get(request_id, Record()).ambiguous == (len(answers) > 1)
    for key, (labels, logits, served) in rows.items():
        found = totals[key]
        expected = QualitySums.of(labels, logits) if labels else QualitySums()
        assert (found.quality.count, found.quality.clicks) == (expected.count, expected.clicks)
        assert np.array_equal(found.quality.histogram, expected.histogram)
        assert found.quality.sum_loss == pytest.approx(expected.sum_loss, abs=100 * SUMS64)
        if labels:
            difference = quality.row_losses(labels, logits) - quality.row_losses(labels, served)
            assert found.loss_diff == pytest.approx(float(difference.sum()), abs=100 * SUMS64)


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.one_of(EXPOSE, MATURE, REPORT.filter(lambda found: not found.restate)), max_size=20),
    st.integers(1, 5),
)
def test_replaying_everything_changes_nothing(steps: list, batch: int) -> None:
    again = [step for step in steps if isinstance(step, Outcome) or step[0] != "mature"]
    once, records = apply(steps, batch)
    twice, replayed = apply([*steps, *again], batch)
    assert {name: record.states for name, record in replayed.items()} == {
        name: record.states for name, record in records.items()
    }
    assert twice.keys() == once.keys()
    for cell, found in once.items():
        assert (twice[cell].exposed, twice[cell].declined) == (found.exposed, found.declined)
        assert np.array_equal(twice[cell].quality.histogram, found.quality.histogram)
